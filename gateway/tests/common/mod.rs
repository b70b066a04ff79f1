//! A gateway in this process, backends on addresses of the loopback network, and a small client.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test file uses a part

pub mod asking;
pub mod scripted;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use ployz_core::id::{DeployId, InstanceId, MachineId};
use ployz_core::routing::{Freshness, HttpRoute, InstanceRoute, ServiceRef, ServiceRoute, State, TcpRoute};
use ployz_gateway::listen::{Kind, Socket, open};
use ployz_gateway::tls::Certificates;
use ployz_gateway::{Gateway, Limits, Settings, Table};
use ployz_nats::events::{Snapshot, Stats, View};
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A gateway under test.
pub struct Running {
    pub gateway: Gateway,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub tcp: SocketAddr,
    pub metrics: SocketAddr,
    pub table: watch::Sender<Arc<Snapshot<Table>>>,
    pub log: Log,
}

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

pub fn service(name: &str) -> ServiceRef {
    ServiceRef { namespace: "shop".parse().unwrap(), service: name.parse().unwrap() }
}

pub fn route(host: &str, path: &str, port: u16) -> HttpRoute {
    HttpRoute {
        host: host.into(),
        path: path.into(),
        port,
        https_only: false,
        timeout_secs: None,
        max_body: None,
        rate_limit: None,
    }
}

/// Adds a service with its routes and one instance for each address.
pub fn put(state: &mut State, name: &str, http: Vec<HttpRoute>, tcp: Vec<TcpRoute>, addresses: &[Ipv4Addr]) {
    let machine: MachineId = "node-1".parse().unwrap();
    let deploy = DeployId::from_bytes([7; 8]);
    let mut instances = std::collections::BTreeSet::new();
    for (slot, address) in addresses.iter().enumerate() {
        let id: InstanceId = format!("{name}-{slot}").parse().unwrap();
        let running = InstanceRoute {
            address: *address,
            revision: "r".into(),
            deploy: deploy.clone(),
            slot: slot as u32,
            ready: true,
            draining: false,
        };
        instances.insert(id.clone());
        state.instances.entry(service(name)).or_default().insert((id, machine.clone()), running);
    }
    let wanted = ServiceRoute { deploy, revision: "r".into(), instances, ports: vec![], http, tcp };
    state.services.insert(service(name), wanted);
}

pub fn snapshot(state: &State) -> Arc<Snapshot<Table>> {
    Arc::new(Snapshot { view: Arc::new(Table::of(state)), freshness: Freshness::Live, sequence: 42 })
}

/// One service `web` for every path of `a.org`.
pub fn one(addresses: &[Ipv4Addr], port: u16) -> State {
    let mut state = State::default();
    put(&mut state, "web", vec![route("a.org", "/", port)], vec![], addresses);
    state
}

pub fn limits() -> Limits {
    Limits { drain: Duration::from_secs(5), ..Limits::default() }
}

pub fn start(state: &State) -> Running {
    start_with(snapshot(state), None, limits())
}

pub fn start_with(
    first: Arc<Snapshot<Table>>,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
) -> Running {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut kinds = vec![Kind::Http, Kind::Tcp(5432), Kind::Metrics];
    kinds.extend(certificates.is_some().then_some(Kind::Https));
    let sockets: Vec<Socket> = kinds.into_iter().map(|kind| open(kind, any, false).unwrap()).collect();
    start_on(first, sockets, certificates, limits)
}

/// A gateway with one worker: what one client left behind meets the next.
pub fn start_single(state: &State) -> Running {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sockets = [Kind::Http, Kind::Metrics].map(|kind| open(kind, any, false).unwrap());
    start_threads(1, snapshot(state), sockets.into(), None, limits())
}

pub fn start_on(
    first: Arc<Snapshot<Table>>,
    sockets: Vec<Socket>,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
) -> Running {
    start_threads(2, first, sockets, certificates, limits)
}

fn start_threads(
    threads: usize,
    first: Arc<Snapshot<Table>>,
    sockets: Vec<Socket>,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
) -> Running {
    let address = |kind| {
        let socket = sockets.iter().find(|socket| socket.kind == kind);
        socket.map_or("127.0.0.1:1".parse().unwrap(), |socket| socket.listener.local_addr().unwrap())
    };
    let (http, https, tcp, metrics) =
        (address(Kind::Http), address(Kind::Https), address(Kind::Tcp(5432)), address(Kind::Metrics));
    let (table, watched) = watch::channel(first);
    let log = Log::default();
    let settings = Settings {
        threads,
        access_log: Some(Box::new(log.clone())),
        certificates,
        https_port: Some(8443),
        limits,
        feed: Stats::default(),
    };
    let gateway = Gateway::start(settings, sockets, watched).unwrap();
    Running { gateway, http, https, tcp, metrics, table, log }
}

/// A backend: its port is the same on every address it was started on.
pub struct Backend {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
}

pub const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

impl Backend {
    pub fn served(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A backend whose connections are served by a function of the stream and of the connection's number.
pub async fn raw_backend<F, D>(serve: F) -> Backend
where
    F: Fn(TcpStream, usize) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, count.fetch_add(1, Ordering::SeqCst)));
        }
    });
    Backend { port, connections, requests: Arc::default() }
}

/// A backend that answers with what it was sent: request line, head and body.
pub async fn echo_backend() -> Backend {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let backend = raw_backend(move |stream, _| {
        let count = count.clone();
        async move {
            let service = service_fn(move |request| {
                count.fetch_add(1, Ordering::SeqCst);
                echo(request)
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        }
    })
    .await;
    Backend { requests, ..backend }
}

async fn echo(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        let answer =
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        return Ok(answer.body(Full::default()).unwrap());
    }
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    text += &format!("\n{}", String::from_utf8_lossy(&body));
    Ok(Response::new(Full::new(text.into())))
}

/// A backend in HTTP/2 without TLS that answers like a gRPC server: a message, then the status as a trailer.
pub async fn grpc_backend() -> Backend {
    raw_backend(|stream, _| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            let te =
                request.headers().get("te").map(|te| te.to_str().unwrap().to_owned()).unwrap_or_default();
            let message = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
            let answer = Response::builder().header("content-type", "application/grpc").header("seen-te", te);
            Ok::<_, Infallible>(answer.body(body).unwrap())
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A connection that requests are sent on one after the other.
pub struct Client<S> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

impl Client<TcpStream> {
    pub async fn connect(to: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(to).await.unwrap(), buffer: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a.org\r\n\r\n")).await
    }

    pub async fn send(&mut self, request: &str) -> io::Result<Answer> {
        self.stream.write_all(request.as_bytes()).await?;
        self.answer().await
    }

    pub async fn answer(&mut self) -> io::Result<Answer> {
        tokio::time::timeout(Duration::from_secs(10), self.read()).await?
    }

    async fn read(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut answer = Answer { status, head, body: String::new() };
        let length: usize =
            answer.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.buffer.len() < length {
            self.more().await?;
        }
        answer.body = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
        self.buffer.drain(..length);
        Ok(answer)
    }

    pub async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// One value of the metrics page; 0 when it is not there.
pub async fn metric(running: &Running, name: &str) -> u64 {
    let page = read_page(running.metrics).await;
    let line = page.lines().find(|line| line.split(' ').next() == Some(name));
    // A gauge is written as `1.0`.
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) as u64
}

async fn read_page(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// One request on a connection of its own.
pub async fn once(to: SocketAddr, request: &str) -> io::Result<Answer> {
    Client::connect(to).await.send(request).await
}

/// Waits until a condition holds; panics after ten seconds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds: {what}");
}
