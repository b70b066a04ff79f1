//! HTTP/1.1 on a Unix socket: one route that streams, and a few for `curl`.

use crate::api::{attend, handle, local, needs};
use crate::lifecycle::Daemon;
use crate::state::make_dir;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use nix::unistd::{Group, chown};
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Event, Request};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Listens on the socket: mode 0660, group `ployz` where there is one. A stale file of a dead daemon is replaced, a
/// live daemon's is refused.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        make_dir(dir, 0o755).map_err(io::Error::other)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another ployzd listens there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Ok(Some(group)) = Group::from_name(GROUP) {
        chown(path, None, Some(group.gid))?;
    }
    Ok(listener)
}

/// Serves until the future ends.
pub async fn serve(
    listener: UnixListener,
    daemon: Arc<Daemon>,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let mut router = Router::new().route("/v1/call", post(call));
    for (path, request) in [
        ("/v1/status", Request::Status),
        ("/v1/ready", Request::MeshReady),
        ("/v1/networks", Request::MeshList),
        ("/v1/machines", Request::MachineList),
        ("/v1/self-record", Request::MeshSelfRecord),
    ] {
        let one = move |State(daemon): State<Arc<Daemon>>| async move {
            answer(handle::run(&daemon, request, &|_| {}).await)
        };
        router = router.route(path, get(one));
    }
    local::serve(listener, router.with_state(daemon), local::Limits::default(), until).await
}

async fn call(State(daemon): State<Arc<Daemon>>, body: Bytes) -> Response {
    let request: Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let causes = vec![error.to_string()];
            return answer(Envelope::error(ErrorCode::InvalidRequest, "invalid request", causes));
        }
    };
    let (events, stream) = mpsc::unbounded_channel();
    // A caller that goes away does not stop a change half way: the operation runs to its end.
    tokio::spawn(async move {
        let progress = events.clone();
        let send = move |event: Event| {
            let _ = progress.send(event);
        };
        let say = |message: &str| send(Event::Progress { message: message.to_owned(), deploy: None });
        let envelope = match (attend::wish(&request), request) {
            (Some(wish), request) => attend::carry_out(&daemon, wish, request, &send).await,
            (None, Request::DeployAttach(which)) => {
                needs::wait(&daemon, &Request::DeployAttach(which.clone()), &say).await;
                attend::attach(&daemon, &which, &send).await
            }
            (None, request) => handle::run(&daemon, request, &say).await,
        };
        let _ = events.send(Event::Result { envelope: Box::new(envelope) });
    });
    let lines = UnboundedReceiverStream::new(stream).map(|event| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn answer(envelope: Envelope) -> Response {
    let status = if envelope.ok { StatusCode::OK } else { StatusCode::CONFLICT };
    (status, Json(envelope)).into_response()
}

const GROUP: &str = "ployz";
