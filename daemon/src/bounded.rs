//! An HTTP listener that others can reach, within limits: so many connections, so many from one source, each with one
//! request that comes in time and is of a certain size. A connection is also the permit of the work that it asks for, so
//! no number of clients takes descriptors or memory away from the rest of the daemon.
//!
//! What is over a limit is closed at once and without a word: to answer would cost what is being kept.

use crate::descriptors;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Connections from one address.
    pub per_source: usize,
    /// From the connection to the request's head, and from there to the end of its body.
    pub reading: Duration,
    /// From the connection to the end of the answer, the work too.
    pub whole: Duration,
    /// Bytes of a request's body.
    pub body: usize,
}

/// The connections that are open, by source.
pub struct Open<S: Eq + Hash>(Mutex<HashMap<S, usize>>);

/// One of them; dropped, it is closed.
pub struct Place<S: Eq + Hash> {
    open: Arc<Open<S>>,
    source: S,
}

/// Serves one request a connection, for ever. Dropped, it drops its connections.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits) {
    let open = Arc::new(Open::default());
    let limits = Limits { connections: descriptors::share(limits.connections), ..limits };
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection is either taken or still in the listener's queue.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(place) = Open::enter(&open, from.ip(), limits.connections, limits.per_source) else {
                    continue;
                };
                connections.spawn(connection(stream, from, router.clone(), limits, place));
            }
            // Out of descriptors, most often.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    router: Router,
    limits: Limits,
    place: Place<IpAddr>,
) {
    let _place = place;
    let service = service_fn(move |request| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request, from, limits).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.reading)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.whole, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%from, %error, "connection broke"),
        Err(_) => tracing::debug!(%from, "connection timed out"),
    }
}

async fn answer(router: Router, request: Request<Incoming>, from: SocketAddr, limits: Limits) -> Response {
    match whole(request, limits.reading, limits.body).await {
        Ok(mut request) => {
            request.extensions_mut().insert(ConnectInfo(from));
            routed(router, request).await
        }
        Err(status) => status.into_response(),
    }
}

/// The whole request is read before anything is done for it: in this time, and of so many bytes at most.
pub async fn whole(
    request: Request<Incoming>,
    time: Duration,
    size: usize,
) -> Result<Request<Body>, StatusCode> {
    let (parts, body) = request.into_parts();
    match timeout(time, Limited::new(body, size).collect()).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, Body::from(body.to_bytes()))),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// What the router answers.
pub async fn routed(router: Router, request: Request<Body>) -> Response {
    match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

impl<S: Eq + Hash> Default for Open<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Eq + Hash + Copy> Open<S> {
    /// A place for one more, when fewer than `most` are open and fewer than `per_source` of this source.
    pub fn enter(open: &Arc<Self>, source: S, most: usize, per_source: usize) -> Option<Place<S>> {
        let mut by_source = open.0.lock();
        let all: usize = by_source.values().sum();
        let own = by_source.get(&source).copied().unwrap_or(0);
        if all >= most || own >= per_source {
            return None;
        }
        by_source.insert(source, own + 1);
        Some(Place { open: open.clone(), source })
    }
}

impl<S: Eq + Hash> Drop for Place<S> {
    fn drop(&mut self) {
        let mut by_source = self.open.0.lock();
        match by_source.get_mut(&self.source) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(by_source.remove(&self.source)),
        }
    }
}

/// Bytes of a request's head; no client of ours sends one.
const HEAD: usize = 16 * 1024;
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    const LIMITS: Limits = Limits {
        connections: 6,
        per_source: 4,
        reading: Duration::from_millis(500),
        whole: Duration::from_secs(5),
        body: 1024,
    };

    async fn listening() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let source = |ConnectInfo(from): ConnectInfo<SocketAddr>, body: String| async move {
            format!("{} {}", from.ip(), body.len())
        };
        tokio::spawn(serve(listener, Router::new().route("/", post(source)), LIMITS));
        at
    }

    async fn open(at: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// What is said until the connection is closed.
    async fn heard(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut text)).await;
        let _ = read.expect("it is closed in time"); // closed by a reset is closed
        String::from_utf8_lossy(&text).into_owned()
    }

    fn request(bytes: usize) -> String {
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{}", "a".repeat(bytes))
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_in_time_is_closed() {
        let at = listening().await;
        let begun = Instant::now();
        let unfinished = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
        let (silent, head, body) = tokio::join!(
            async { heard(open(at, "").await).await },
            async { heard(open(at, "POST / HT").await).await },
            async { heard(open(at, unfinished).await).await },
        );
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(!silent.contains("200") && !head.contains("200"), "{silent}{head}");
        assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_and_one_within_it_is_answered() {
        let at = listening().await;
        let fits = heard(open(at, &request(1024)).await).await;
        assert!(fits.starts_with("HTTP/1.1 200") && fits.ends_with("127.0.0.1 1024"), "{fits}");
        let large =
            heard(open(at, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{").await).await;
        assert!(large.is_empty() || large.starts_with("HTTP/1.1 4"), "{large}");
    }

    #[tokio::test]
    async fn a_flood_of_one_source_takes_only_its_own_places() {
        let at = listening().await;
        let mut held = Vec::new();
        for _ in 0..40 {
            held.push(open(at, "POST / HTTP/1.1\r\n").await);
        }
        // Another source is served meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = socket.connect(at).await.unwrap();
        other.write_all(request(3).as_bytes()).await.unwrap();
        let answer = heard(other).await;
        assert!(answer.ends_with("127.0.0.2 3"), "{answer}");
        // When the flood is over, so is its effect.
        drop(held);
        let until = Instant::now() + Duration::from_secs(10);
        while !heard(open(at, &request(1)).await).await.ends_with("127.0.0.1 1") {
            assert!(Instant::now() < until, "places are not given back");
        }
    }

    #[test]
    fn places_are_counted_by_source_and_in_all() {
        let open = Arc::new(Open::default());
        let enter = |n: u8| Open::enter(&open, n, 6, 4);
        let mut held: Vec<Place<u8>> = (0..4).map(|_| enter(1).unwrap()).collect();
        assert!(enter(1).is_none(), "four of one source");
        held.extend([enter(2).unwrap(), enter(3).unwrap()]);
        assert!(enter(4).is_none(), "six in all");
        drop(held);
        assert!(enter(4).is_some() && open.0.lock().is_empty());
    }
}
