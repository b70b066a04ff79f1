//! A Docker Engine for tests: HTTP on a Unix socket, containers and networks in memory, the shapes of a real one.

use crate::docker::Docker;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures_util::StreamExt;
use parking_lot::Mutex;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::spec::container::{
    BRIDGE, ContainerOwner, ContainerSpec, PublishedPort, container_name, label,
};
use ployz_core::wire::v1::manifest::{Bytes, Protocol, Resources, Restart, Span};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// The engine; dropped, it is gone with its socket.
pub struct Fake {
    /// Where it listens.
    pub socket: PathBuf,
    /// What it holds.
    pub state: Shared,
    task: JoinHandle<()>,
}

/// What an engine holds, shared with the test.
pub type Shared = Arc<Mutex<Held>>;

/// Containers by id, networks, and what was asked.
#[derive(Default)]
pub struct Held {
    /// Inspections by id.
    pub containers: BTreeMap<String, Value>,
    /// Networks as listed.
    pub networks: Vec<Value>,
    /// Requests so far: method, path, query.
    pub asked: Vec<String>,
    /// The API's version.
    pub api: String,
    /// Images: name or id to id.
    pub images: BTreeMap<String, String>,
    /// Why images are not taken in.
    pub full: Option<String>,
    /// What a registry says when it is asked: status and body.
    pub registry: Option<(u16, Value)>,
    /// What is said of a pull, line by line; one without an error leaves the image there.
    pub pulls: Vec<Value>,
    /// Logins as they came.
    pub logins: Vec<String>,
    /// Nothing is answered any more.
    pub hangs: bool,
    /// This container is listed and not inspected.
    pub mute: Option<String>,
    /// Names of containers that are being made: taken, and nothing to look at yet.
    pub being_made: BTreeSet<String>,
    /// How long a container takes to stop.
    pub stops_take: Duration,
    /// Commands that were begun, and whether they still run; one that was begun runs until the test says otherwise.
    pub commands: BTreeMap<String, bool>,
    events: Option<tokio::sync::broadcast::Sender<String>>,
    past: Vec<String>,
}

/// A container of Docker 20.10, as its inspection showed it.
pub const RECORDED_20: &str = include_str!("recorded/docker-20.10.json");
/// The same of Docker 26.1, as its inspection showed it.
pub const RECORDED_26: &str = include_str!("recorded/docker-26.1.json");
/// The same of Docker 28.5.
pub const RECORDED_28: &str = include_str!("recorded/docker-28.5.json");

/// The network of the recorded containers.
pub fn network() -> NetworkId {
    NetworkId::from_bytes([7; 16])
}

/// What a container of the service `web` is to be.
pub fn spec() -> ContainerSpec {
    ContainerSpec {
        owner: ContainerOwner {
            network: network(),
            namespace: "prod".parse().unwrap(),
            service: "web".parse().unwrap(),
            instance: "web-x7k2".parse().unwrap(),
            slot: 0,
            machine: "n1".parse::<MachineId>().unwrap(),
            deploy: "0123456789abcdef".parse().unwrap(),
            revision: "r1".into(),
        },
        image: "lab/busybox".parse().unwrap(),
        image_id: None,
        command: vec!["sleep".into(), "1000".into()],
        env: BTreeMap::from([("A".parse().unwrap(), "b=c".into())]),
        bridge: BRIDGE.into(),
        address: "10.101.0.9".parse().unwrap(),
        dns: "10.101.0.2".parse().unwrap(),
        publish: BTreeSet::from([PublishedPort { protocol: Protocol::Tcp, host: 8099, container: 80 }]),
        restart: Restart::UnlessStopped,
        resources: Resources { cpus: None, memory: Some(Bytes::new(64 << 20)) },
        stop_grace: Span::from_secs(10),
        parent: None,
    }
}

/// A recorded container under another id and name.
pub fn container(id: &str, name: &str) -> Value {
    let mut value: Value = serde_json::from_str(RECORDED_26).unwrap();
    value["Id"] = id.into();
    value["Name"] = format!("/{name}").into();
    value
}

/// The container of an instance, running.
pub fn instance(id: &str, owner: &ContainerOwner) -> Value {
    let mut value = container(id, &container_name(&owner.namespace, &owner.instance));
    let labels = &mut value["Config"]["Labels"];
    for (name, text) in [
        (label::NETWORK, owner.network.to_string()),
        (label::NAMESPACE, owner.namespace.to_string()),
        (label::SERVICE, owner.service.to_string()),
        (label::INSTANCE, owner.instance.to_string()),
        (label::SLOT, owner.slot.to_string()),
        (label::MACHINE, owner.machine.to_string()),
        (label::DEPLOY, owner.deploy.to_string()),
        (label::REVISION, owner.revision.clone()),
    ] {
        labels[name] = text.into();
    }
    value
}

/// One that carries no label of ours.
pub fn foreign(id: &str, name: &str) -> Value {
    let mut value = container(id, name);
    value["Config"]["Labels"] = json!({"com.example": "theirs"});
    value
}

impl Fake {
    /// An engine with this version of the API.
    pub fn start(api: &str) -> Self {
        let name: [u8; 8] = ployz_host::random::bytes();
        let socket =
            std::env::temp_dir().join(format!("ployz-fake-docker-{:016x}", u64::from_ne_bytes(name)));
        let (events, _) = tokio::sync::broadcast::channel(16);
        let held = Held { api: api.to_owned(), events: Some(events), ..Held::default() };
        let state = Arc::new(Mutex::new(held));
        let task = tokio::spawn(serve(socket.clone(), state.clone()));
        Self { socket, state, task }
    }

    /// A connection, as soon as it listens.
    pub async fn connect(&self) -> Docker {
        for _ in 0..200 {
            match Docker::connect(&self.socket, &network()).await {
                Ok(docker) => return docker,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the fake did not come up");
    }

    /// Breaks the streams of events, as a restart of the engine does that leaves containers running.
    pub fn cut(&self) {
        let (events, _) = tokio::sync::broadcast::channel(16);
        self.state.lock().events = Some(events);
    }

    /// Puts a container there.
    pub fn put(&self, value: Value) {
        let id = value["Id"].as_str().unwrap().to_owned();
        self.state.lock().containers.insert(id, value);
    }

    /// Tells subscribers that something happened to a container.
    pub fn emit(&self, action: &str, id: &str) {
        self.emit_of("container", action, id);
    }

    /// Takes all networks away, as a prune does.
    pub fn prune_networks(&self) {
        self.state.lock().networks.clear();
        self.emit_of("network", "destroy", "net-made");
    }

    fn emit_of(&self, kind: &str, action: &str, id: &str) {
        let message = json!({"Type": kind, "Action": action, "Actor": {"ID": id, "Attributes": {}}});
        let mut held = self.state.lock();
        held.past.push(format!("{message}\n"));
        let _ = held.events.as_ref().unwrap().send(format!("{message}\n"));
    }

    /// Requests whose line contains `words`.
    pub fn asked(&self, words: &str) -> Vec<String> {
        self.state.lock().asked.iter().filter(|line| line.contains(words)).cloned().collect()
    }

    /// Ends it as a stopped daemon ends: connections break, the socket is gone.
    pub fn stop(self) {}
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
        self.state.lock().events = None;
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve(socket: PathBuf, state: Shared) {
    let listener = UnixListener::bind(&socket).unwrap();
    let router = Router::new()
        .route("/_ping", get(|| async { "OK" }))
        .route("/version", get(version))
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/exec", post(command))
        .route("/exec/{id}/start", post(begin))
        .route("/exec/{id}/json", get(command_state))
        .route("/networks", get(networks))
        .route("/networks/create", post(create_network))
        .route("/networks/{id}", delete(remove_network))
        .route("/events", get(events))
        .merge(super::fake_images::routes())
        .layer(from_fn_with_state(state.clone(), note))
        .with_state(state);
    axum::serve(listener, router).await.unwrap();
}

async fn note(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let hangs = {
        let mut held = state.lock();
        held.asked.push(format!("{} {}", request.method(), request.uri()));
        held.hangs
    };
    if hangs {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    next.run(request).await
}

async fn version(State(state): State<Shared>) -> Json<Value> {
    let api = state.lock().api.clone();
    Json(json!({"Version": "26.1.5+dfsg1", "ApiVersion": api, "MinAPIVersion": "1.24", "Os": "linux"}))
}

/// The real one filters by label; so must this one, or a test would prove nothing.
async fn list(State(state): State<Shared>, RawQuery(query): RawQuery) -> Json<Value> {
    let query = query.unwrap_or_default();
    let ours = format!("ployz.network%3D{}", network());
    let held = state.lock();
    let found = held.containers.iter().filter(|(_, value)| {
        let labels = &value["Config"]["Labels"];
        !query.contains(&ours) || labels["ployz.network"] == network().to_string()
    });
    Json(found.map(|(id, value)| json!({"Id": id, "Names": [value["Name"]], "Labels": value["Config"]["Labels"]})).collect())
}

fn find(held: &Held, key: &str) -> Option<String> {
    let named = |value: &Value| value["Name"] == format!("/{key}");
    let found = held.containers.iter().find(|(id, value)| *id == key || named(value));
    found.map(|(id, _)| id.clone())
}

fn missing(key: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"message": format!("No such container: {key}")}))).into_response()
}

async fn inspect(State(state): State<Shared>, Path(key): Path<String>) -> Response {
    let held = state.lock();
    if held.mute.as_ref() == Some(&key) {
        let message = json!({"message": "context deadline exceeded"});
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(message)).into_response();
    }
    match find(&held, &key) {
        Some(id) => Json(held.containers[&id].clone()).into_response(),
        None => missing(&key),
    }
}

async fn create(State(state): State<Shared>, RawQuery(query): RawQuery, Json(body): Json<Value>) -> Response {
    let name =
        query.unwrap_or_default().replace("name=", "").split('&').next().unwrap_or_default().to_owned();
    let mut held = state.lock();
    if held.being_made.contains(&name) || find(&held, &name).is_some() {
        let message = format!("Conflict. The container name \"/{name}\" is already in use");
        return (StatusCode::CONFLICT, Json(json!({"message": message}))).into_response();
    }
    let id = format!("made-{}", held.containers.len());
    let mut value = container(&id, &name);
    value["Config"] = body.clone();
    value["HostConfig"] = body["HostConfig"].clone();
    value["NetworkSettings"]["Networks"] = body["NetworkingConfig"]["EndpointsConfig"].clone();
    value["State"] = json!({"Status": "created"});
    held.containers.insert(id.clone(), value);
    (StatusCode::CREATED, Json(json!({"Id": id, "Warnings": []}))).into_response()
}

fn set_state(state: &Shared, id: &str, status: Value) -> Response {
    match state.lock().containers.get_mut(id) {
        Some(value) => value["State"] = status,
        None => return missing(id),
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn start(State(state): State<Shared>, Path(id): Path<String>) -> Response {
    set_state(&state, &id, json!({"Status": "running"}))
}

/// A stop that nobody waits for any more goes on, as the real one's does.
async fn stop(State(state): State<Shared>, Path(id): Path<String>) -> Response {
    let takes = state.lock().stops_take;
    let work = tokio::spawn(async move {
        tokio::time::sleep(takes).await;
        set_state(&state, &id, json!({"Status": "exited", "ExitCode": 143}))
    });
    work.await.unwrap()
}

async fn command(State(state): State<Shared>, Path(_id): Path<String>) -> Response {
    let mut held = state.lock();
    let id = format!("command-{}", held.commands.len());
    held.commands.insert(id.clone(), false);
    (StatusCode::CREATED, Json(json!({"Id": id}))).into_response()
}

/// It runs, says nothing, and ends when the test says so.
async fn begin(State(state): State<Shared>, Path(id): Path<String>, request: Request) -> Response {
    state.lock().commands.insert(id.clone(), true);
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else { return };
        while state.lock().commands[&id] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(connection);
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn command_state(State(state): State<Shared>, Path(id): Path<String>) -> Response {
    match state.lock().commands.get(&id) {
        Some(true) => Json(json!({"ID": id, "Running": true})).into_response(),
        Some(false) => Json(json!({"ID": id, "Running": false, "ExitCode": 0})).into_response(),
        None => missing(&id),
    }
}

async fn remove(State(state): State<Shared>, Path(id): Path<String>) -> Response {
    match state.lock().containers.remove(&id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => missing(&id),
    }
}

async fn networks(State(state): State<Shared>) -> Json<Value> {
    Json(state.lock().networks.clone().into())
}

async fn create_network(State(state): State<Shared>, Json(mut body): Json<Value>) -> Response {
    body["Id"] = "net-made".into();
    state.lock().networks.push(body);
    (StatusCode::CREATED, Json(json!({"Id": "net-made", "Warning": ""}))).into_response()
}

async fn remove_network(State(state): State<Shared>, Path(id): Path<String>) -> Response {
    let mut held = state.lock();
    if !held.containers.is_empty() {
        let message = json!({"message": "error while removing network: network has active endpoints"});
        return (StatusCode::FORBIDDEN, Json(message)).into_response();
    }
    held.networks.retain(|network| network["Id"] != *id);
    StatusCode::NO_CONTENT.into_response()
}

async fn events(State(state): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let (past, receiver) = {
        let held = state.lock();
        let since = query.contains("since=");
        let past = if since { held.past.clone() } else { Vec::new() };
        (past, held.events.as_ref().unwrap().subscribe())
    };
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await.ok()?;
        Some((line, receiver))
    });
    // The real one filters by type; so must this one.
    let wanted = ["container", "network"].map(|one| (one, format!("%22type%22%3A%5B%22{one}%22%5D")));
    let wanted = wanted.into_iter().filter(|(_, filter)| query.contains(filter)).map(|(one, _)| one);
    let wanted: Vec<String> = wanted.map(|one| format!("\"Type\":\"{one}\"")).collect();
    let is_wanted = move |line: &String| wanted.is_empty() || wanted.iter().any(|one| line.contains(one));
    let lines = futures_util::stream::iter(past).chain(lines);
    let lines = lines.filter(move |line| futures_util::future::ready(is_wanted(line)));
    let lines = lines.map(Ok::<_, std::io::Error>);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}
