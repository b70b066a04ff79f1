//! Connections of the Unix socket, within limits: so many in all, so many of one user, each with one request that comes in
//! time. Every user in the group may connect, and none may take the descriptors that ployzd needs for its own work, nor root's
//! way in.
//!
//! A stream that is followed (a deploy, logs) may last, and counts as long as it does. One connection too many is answered 503,
//! as long as there are not too many of these as well.

use crate::bounded::{Open, Place, routed, whole};
use crate::descriptors;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use ployz_core::wire::v1::api::{Envelope, ErrorCode};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the socket bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Of these, only root's.
    pub root: usize,
    /// Connections of one user; root has no such limit.
    pub per_user: usize,
    /// Connections beyond the limit that are answered, of one user and in all.
    pub refusals: usize,
    /// From the connection to the request's head, and from there to the end of its body.
    pub reading: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let connections = descriptors::share(CONNECTIONS);
        Self {
            connections,
            root: connections / 4,
            per_user: connections / 4,
            refusals: connections.div_ceil(8),
            reading: Duration::from_secs(10),
        }
    }
}

/// Serves one request a connection until the future ends, and then those under way.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    limits: Limits,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    let (open, refused, ending) = (Arc::default(), Arc::default(), CancellationToken::new());
    let mut connections = JoinSet::new();
    let mut until = std::pin::pin!(until);
    loop {
        // Cancel-safe: a connection is either taken or still in the listener's queue.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut until => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(user) = stream.peer_cred().map(|cred| cred.uid()) else { continue };
                if let Some(place) = enter(&open, user, limits) {
                    let connection = connection(stream, router.clone(), limits, ending.clone(), place);
                    connections.spawn(connection);
                } else if let Some(place) = Open::enter(&refused, user, limits.refusals, limits.refusals) {
                    tracing::debug!(user, "connection refused: too many of this user");
                    let router = Router::new().fallback(async || too_many());
                    connections.spawn(connection(stream, router, limits, ending.clone(), place));
                }
            }
            // Out of descriptors, most often.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    ending.cancel();
    while connections.join_next().await.is_some() {}
    Ok(())
}

fn enter(open: &Arc<Open<u32>>, user: u32, limits: Limits) -> Option<Place<u32>> {
    match user {
        ROOT => Open::enter(open, user, limits.connections, limits.connections),
        _ => Open::enter(open, user, limits.connections - limits.root, limits.per_user),
    }
}

async fn connection(
    stream: UnixStream,
    router: Router,
    limits: Limits,
    ending: CancellationToken,
    _place: Place<u32>,
) {
    let service = service_fn(move |request| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request, limits).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.reading)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    // Cancel-safe: the connection is polled on where it was.
    let end = tokio::select! {
        end = &mut served => end,
        () = ending.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = end {
        tracing::debug!(%error, "connection broke");
    }
}

async fn answer(router: Router, request: Request<Incoming>, limits: Limits) -> Response {
    match whole(request, limits.reading, BODY).await {
        Ok(request) => routed(router, request).await,
        Err(status) => status.into_response(),
    }
}

fn too_many() -> Response {
    let message = "ployzd has as many connections as it takes";
    let hint = "end calls that are under way (`logs -f`, `deploy attach`), or try again when they are over";
    let envelope = Envelope::error(ErrorCode::DaemonUnreachable, message, Vec::new());
    let envelope = Envelope { hint: Some(hint.to_owned()), ..envelope };
    (StatusCode::SERVICE_UNAVAILABLE, Json(envelope)).into_response()
}

const ROOT: u32 = 0;
/// Where a process may open 2,048 files; see [`descriptors::share`].
const CONNECTIONS: usize = 128;
/// Of a request; a manifest has 1 MiB at most.
const BODY: usize = 2 * 1024 * 1024;
const RETRY_DELAY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use std::path::{Path, PathBuf};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    const LIMITS: Limits =
        Limits { connections: 4, root: 1, per_user: 2, refusals: 2, reading: Duration::from_millis(500) };
    const PLAIN: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const STREAM: &str = "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n";

    struct Listening {
        at: PathBuf,
        ending: CancellationToken,
        serving: tokio::task::JoinHandle<io::Result<()>>,
    }

    impl Drop for Listening {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.at);
        }
    }

    fn listening(name: &str) -> Listening {
        let at = std::env::temp_dir().join(format!("ployz-socket-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&at);
        let listener = UnixListener::bind(&at).unwrap();
        let endless = async || {
            let first = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from("begun\n"))]);
            Body::from_stream(futures_util::StreamExt::chain(first, futures_util::stream::pending()))
        };
        let router = Router::new().route("/", get(async || "done")).route("/stream", get(endless));
        let ending = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, LIMITS, ending.clone().cancelled_owned()));
        Listening { at, ending, serving }
    }

    async fn open(at: &Path, text: &str) -> UnixStream {
        let mut stream = UnixStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until this text has, or the connection is closed.
    async fn heard(stream: &mut UnixStream, until: &str) -> String {
        let (mut text, mut buffer) = (String::new(), [0; 1024]);
        while !text.contains(until) {
            let read = timeout(Duration::from_secs(10), stream.read(&mut buffer)).await;
            match read.expect("it is heard in time") {
                Ok(0) | Err(_) => break, // a reset is an end
                Ok(read) => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
            }
        }
        text
    }

    #[tokio::test]
    async fn connections_over_the_limit_are_answered_503_and_served_when_streams_have_ended() {
        let here = listening("limit");
        // A test may run as root or not.
        let most = if nix::unistd::getuid().is_root() { 4 } else { 2 };
        let mut streams = Vec::new();
        for _ in 0..most {
            let mut stream = open(&here.at, STREAM).await;
            assert!(heard(&mut stream, "begun").await.contains("begun"));
            streams.push(stream);
        }
        let refused = heard(&mut open(&here.at, PLAIN).await, "\u{0}").await;
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("DAEMON_UNREACHABLE"), "{refused}");
        // Refusals take no more than their own places: the others are closed.
        let mut silent = Vec::new();
        for _ in 0..10 {
            silent.push(UnixStream::connect(&here.at).await.unwrap());
        }
        drop(streams);
        let until = Instant::now() + Duration::from_secs(10);
        while !heard(&mut open(&here.at, PLAIN).await, "done").await.ends_with("done") {
            assert!(Instant::now() < until, "places are not given back");
        }
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_in_time_is_closed_and_a_stream_is_not() {
        let here = listening("late");
        let mut stream = open(&here.at, STREAM).await;
        let unfinished = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{";
        let mut late = open(&here.at, unfinished).await;
        assert!(heard(&mut late, "\u{0}").await.starts_with("HTTP/1.1 408"));
        let begun = Instant::now();
        assert_eq!(heard(&mut open(&here.at, "GET / HT").await, "\u{0}").await, "");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        heard(&mut stream, "begun").await;
        let more = timeout(Duration::from_millis(600), stream.read_u8()).await;
        assert!(more.is_err(), "it is still open");
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_under_way() {
        let mut here = listening("end");
        let mut stream = open(&here.at, STREAM).await;
        heard(&mut stream, "begun").await;
        here.ending.cancel();
        let until = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&here.at).await.is_ok() {
            assert!(Instant::now() < until, "it still listens");
            tokio::task::yield_now().await;
        }
        assert!(!here.serving.is_finished());
        drop(stream);
        timeout(Duration::from_secs(10), &mut here.serving).await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn a_user_cannot_take_the_places_of_others_nor_all_of_them_roots() {
        let open = Arc::new(Open::default());
        let mut held: Vec<_> = (0..2).map(|_| enter(&open, 7, LIMITS).unwrap()).collect();
        assert!(enter(&open, 7, LIMITS).is_none(), "two of one user");
        held.push(enter(&open, 8, LIMITS).unwrap());
        assert!(enter(&open, 9, LIMITS).is_none(), "the last one is root's");
        held.push(enter(&open, ROOT, LIMITS).unwrap());
        assert!(enter(&open, ROOT, LIMITS).is_none(), "four in all");
    }
}
