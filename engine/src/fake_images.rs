//! The fake engine's images. A saved one is its name and id on two lines, and then a mebibyte of nothing.

use super::fake::Shared;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::json;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/distribution/{*rest}", get(distribution))
        .route("/images/create", post(create))
        .route("/images/load", post(load))
        .route("/images/{*rest}", get(read).post(tag))
}

fn refused(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"message": message}))).into_response()
}

fn login(state: &Shared, headers: &HeaderMap) {
    let login = headers.get("x-registry-auth").map(|login| login.to_str().unwrap().to_owned());
    state.lock().logins.extend(login);
}

/// `/distribution/<name>/json`.
async fn distribution(State(state): State<Shared>, headers: HeaderMap) -> Response {
    login(&state, &headers);
    let answer = state.lock().registry.clone();
    let (status, body) = answer.unwrap_or((500, json!({"message": "Get \"https://r/v2/\": EOF"})));
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

/// A pull: its steps, one JSON value a line.
async fn create(State(state): State<Shared>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    login(&state, &headers);
    let query = query.unwrap_or_default();
    let image = query.split('&').find_map(|pair| pair.strip_prefix("fromImage=")).unwrap_or_default();
    let image = image.replace("%2F", "/").replace("%40", "@").replace("%3A", ":");
    let mut held = state.lock();
    let lines: String = held.pulls.iter().map(|line| format!("{line}\n")).collect();
    if held.pulls.iter().all(|line| line["error"].is_null()) {
        held.images.insert(image, format!("sha256:{}", "9".repeat(64)));
    }
    lines.into_response()
}

/// `/images/<name>/json` and `/images/<name>/get`.
async fn read(State(state): State<Shared>, Path(rest): Path<String>) -> Response {
    let (name, what) = rest.rsplit_once('/').unwrap_or_default();
    let found = state.lock().images.get(name).cloned();
    let Some(id) = found else { return refused(StatusCode::NOT_FOUND, "No such image") };
    if what == "json" {
        let layers = json!({"Type": "layers", "Layers": [id]});
        return Json(json!({"Id": id, "Size": 1 << 20, "RootFS": layers, "Os": "linux"})).into_response();
    }
    let head = format!("{name}\n{id}\n").into_bytes();
    let rest = (0..16).map(|_| vec![0; 64 * 1024]);
    let pieces = std::iter::once(head).chain(rest).map(Ok::<_, std::io::Error>);
    Body::from_stream(futures_util::stream::iter(pieces)).into_response()
}

/// `/images/<id>/tag`.
async fn tag(State(state): State<Shared>, Path(rest): Path<String>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let value = |key: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_default().replace("%2F", "/")
    };
    let id = rest.strip_suffix("/tag").unwrap_or_default().to_owned();
    let name = format!("{}:{}", value("repo"), value("tag"));
    state.lock().images.insert(name, id);
    StatusCode::CREATED.into_response()
}

/// All or nothing, as the real one.
async fn load(State(state): State<Shared>, body: Body) -> Response {
    if let Some(why) = state.lock().full.clone() {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, &why);
    }
    let (mut pieces, mut all) = (body.into_data_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => all.extend_from_slice(&piece),
            Err(_) => return refused(StatusCode::INTERNAL_SERVER_ERROR, "unexpected EOF"),
        }
    }
    let mut lines = all.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned());
    let (name, id) = (lines.next().unwrap(), lines.next().unwrap());
    let mut held = state.lock();
    held.images.insert(id.clone(), id.clone());
    held.images.insert(name, id);
    Json(json!({"stream": "Loaded image\n"})).into_response()
}
