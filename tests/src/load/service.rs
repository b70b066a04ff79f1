//! The service that the clients ask: an echo, long downloads and WebSockets, by one program in an image of its own.
//!
//! Told to stop it behaves as a service should: it takes no connections any more, ends WebSockets with a close frame, lets
//! downloads come to their end, and then goes.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, interval};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Body = BoxBody<Bytes, Infallible>;

/// What every connection knows.
#[derive(Clone)]
struct Service {
    name: String,
    version: String,
    stop: CancellationToken,
    open: TaskTracker,
}

/// Serves on this port of every address until SIGTERM, and then until nothing is open any more.
pub async fn serve(port: u16) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM")?;
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.context("listen")?;
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("the host's name")?.trim().to_owned();
    let version = env::var("VERSION").unwrap_or_default();
    let service = Service { name, version, stop: CancellationToken::new(), open: TaskTracker::new() };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { service.open.spawn(service.clone().connection(stream)); }
                Err(error) => eprintln!("accept: {error}"),
            },
            _ = terminated.recv() => break,
        }
    }
    drop(listener);
    service.stop.cancel();
    service.open.close();
    service.open.wait().await;
    Ok(())
}

impl Service {
    async fn connection(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let stop = self.stop.clone();
        let answer = service_fn(move |request| {
            let service = self.clone();
            async move { Ok::<_, Infallible>(service.answer(request)) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }

    fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if let Some(token) = path.strip_prefix("/echo/") {
            return self.tell(Full::from(format!("{token} from {}\n", self.name)).boxed());
        }
        if let Some(seconds) = path.strip_prefix("/download/").and_then(|text| text.parse().ok()) {
            return self.download(seconds);
        }
        if path == "/ws" {
            return self.upgrade(request);
        }
        failure(StatusCode::NOT_FOUND)
    }

    fn tell(&self, body: Body) -> Response<Body> {
        let response =
            Response::builder().header(REPLICA, &self.name).header(VERSION, &self.version).body(body);
        response.unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR))
    }

    fn download(&self, seconds: u64) -> Response<Body> {
        let length = seconds * BYTES_A_SECOND;
        let parts = stream::unfold((0, interval(PART_EVERY)), move |state| part(length, state));
        let mut response = self.tell(BodyExt::boxed(StreamBody::new(parts)));
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        response
    }

    fn upgrade(&self, mut request: Request<Incoming>) -> Response<Body> {
        let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
            return failure(StatusCode::BAD_REQUEST);
        };
        let accept = derive_accept_key(key.as_bytes());
        let (service, upgrade) = (self.clone(), hyper::upgrade::on(&mut request));
        self.open.spawn(async move {
            if let Ok(stream) = upgrade.await {
                service.echo(stream).await;
            }
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .body(Full::default().boxed());
        response.unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR))
    }

    /// Says who it is, then gives every word back.
    async fn echo(self, stream: hyper::upgrade::Upgraded) {
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        let mut word = Some(Message::text(self.name.clone()));
        while let Some(answer) = word.take() {
            if socket.send(answer).await.is_err() {
                return;
            }
            tokio::select! {
                next = socket.next() => match next {
                    Some(Ok(text @ Message::Text(_))) => word = Some(text),
                    _ => return,
                },
                () = self.stop.cancelled() => {
                    let going = CloseFrame { code: CloseCode::Away, reason: Utf8Bytes::from_static("stopping") };
                    let _ = socket.close(Some(going)).await;
                    // The peer's close frame is the end, and what it said meanwhile is not answered any more.
                    let _ = tokio::time::timeout(GOODBYE, async { while let Some(Ok(_)) = socket.next().await {} }).await;
                }
            }
        }
    }
}

/// The next part of a download, one every [`PART_EVERY`].
async fn part(
    length: u64,
    (at, mut clock): (u64, Interval),
) -> Option<(Result<Frame<Bytes>, Infallible>, (u64, Interval))> {
    if at == length {
        return None;
    }
    clock.tick().await;
    let end = length.min(at + BYTES_A_SECOND / PARTS_A_SECOND);
    let bytes: Vec<u8> = (at..end).map(pattern).collect();
    Some((Ok(Frame::data(bytes.into())), (end, clock)))
}

fn failure(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = status;
    response
}

/// Byte number `at` of every download.
pub(super) fn pattern(at: u64) -> u8 {
    (at % 251) as u8
}

/// The answer's header that says which replica gave it.
pub(super) const REPLICA: &str = "x-replica";

/// The answer's header that says which version the replica was deployed as.
pub(crate) const VERSION: &str = "x-version";

/// How fast a download comes.
pub(super) const BYTES_A_SECOND: u64 = 200_000;

const PARTS_A_SECOND: u64 = 10;
const PART_EVERY: Duration = Duration::from_millis(1000 / PARTS_A_SECOND);
const GOODBYE: Duration = Duration::from_secs(2);
