//! What is known of one request while it is served.

use crate::access::Line;
use crate::answer::Answer;
use crate::host::Host;
use crate::metrics::Cause;
use crate::proxy::Shared;
use crate::request_id::RequestId;
use crate::served::{Served, Tried};
use crate::table::RouteId;
use http::Version;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One request.
pub struct Ctx {
    /// When it began.
    pub started: Instant,
    /// What was served then; all of the request goes by it.
    pub served: Arc<Served>,
    /// Its route, once found.
    pub route: Option<RouteId>,
    /// Host it is for.
    pub host: Option<Host>,
    /// Its id.
    pub id: RequestId,
    /// Who asks.
    pub client: Option<IpAddr>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Backends it was sent to.
    pub tried: Tried,
    /// How often it was sent.
    pub tries: usize,
    /// Backend it was sent to last.
    pub backend: Option<SocketAddrV4>,
    /// Bytes of its body so far.
    pub received: u64,
    /// Why it is not served.
    pub cause: Option<Cause>,
    /// The code of the gateway's own answer.
    pub refused: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// Asks for a WebSocket.
    pub upgrades: bool,
    /// Whether it is gRPC.
    pub grpc: bool,
    shared: Arc<Shared>,
}

impl Ctx {
    /// A request that begins now.
    pub fn new(shared: Arc<Shared>) -> Self {
        shared.counters.active.fetch_add(1, Ordering::Relaxed);
        Self {
            started: Instant::now(),
            served: shared.served.load_full(),
            route: None,
            host: None,
            id: RequestId::draw(),
            client: None,
            scheme: "http",
            tried: Tried::default(),
            tries: 0,
            backend: None,
            received: 0,
            cause: None,
            refused: None,
            error: None,
            upgrades: false,
            grpc: false,
            shared,
        }
    }

    /// Notes and counts why it is not served; the answer that says so.
    pub fn refuse(&mut self, cause: Cause, status: u16) -> Answer {
        if self.cause.is_none() {
            self.shared.counters.refuse(cause);
            self.cause = Some(cause);
        }
        Answer {
            closes: matches!(cause, Cause::Malformed | Cause::Smuggling | Cause::BadHost),
            ..Answer::of(status)
        }
    }

    /// Counts a piece of its body; an error when that makes it larger than its route allows.
    pub fn count_body(&mut self, bytes: usize) -> pingora::Result<()> {
        self.received += bytes as u64;
        let limit = self.route.and_then(|route| self.served.route(route)?.max_body);
        if limit.is_none_or(|limit| self.received <= limit) {
            return Ok(());
        }
        self.refuse(Cause::BodyTooLarge, 413);
        Err(Error::explain(ErrorType::HTTPStatus(413), "body too large").into_down())
    }

    /// Whether a backend of its route was not tried yet.
    pub fn has_untried(&self) -> bool {
        self.route.is_some_and(|route| self.served.pick(route, &self.tried).is_some())
    }

    /// Whether clients are to go elsewhere.
    pub fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Relaxed)
    }

    /// The line of the access log.
    pub fn line<'a>(&'a self, session: &'a Session, status: u16, took: Duration) -> Line<'a> {
        let head = session.req_header();
        Line {
            time_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis(),
            client: self.client,
            scheme: self.scheme,
            protocol: protocol(head.version),
            method: head.method.as_str(),
            host: self.host.as_ref().map_or("", Host::as_str),
            path: head.uri.path(),
            status,
            received: self.received,
            sent: session.body_bytes_sent() as u64,
            duration_ms: took.as_micros() as f64 / 1000.0,
            route: self.route.and_then(|route| Some(&*self.served.route(route)?.label)),
            backend: self.backend,
            tries: self.tries,
            request_id: self.id.as_str(),
            cause: self.cause.map(Cause::word),
            error: self.error.as_deref(),
        }
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        self.shared.counters.active.fetch_sub(1, Ordering::Relaxed);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP",
    }
}
