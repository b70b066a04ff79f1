//! One request, from its head to the line in the access log: refused, answered here, or led to a backend.
//!
//! The order of checks is the order of what they cost and of what they give away: framing, route, redirect, rate, size,
//! backend. Pingora calls; everything that decides is elsewhere.

use crate::access::Lane;
use crate::answer::{Answer, redirect, respond, shorten, status_of};
use crate::backend::Backend;
use crate::downstream::{Conn, Downstream, Stage};
use crate::limit::Limiter;
use crate::metrics::{Cause, Counters};
use crate::request::Ctx;
use crate::request_id::RequestId;
use crate::served::Served;
use crate::table::Route;
use crate::{forward, framing};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::ALPN;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// What all workers share.
pub struct Shared {
    /// What is served now.
    pub served: ArcSwap<Served>,
    /// What is counted.
    pub counters: Counters,
    /// Who asks too often.
    pub limiter: Limiter,
    /// Port that redirects lead to.
    pub https_port: u16,
    /// Whether requests are logged.
    pub access_log: bool,
    /// Whether clients are to go elsewhere: no connection is kept after the answer under way.
    pub closing: AtomicBool,
}

/// The gateway as Pingora sees it; one for every worker.
pub struct Gateway {
    shared: Arc<Shared>,
    log: Lane,
}

impl Gateway {
    /// A gateway that logs into a lane.
    pub fn new(shared: Arc<Shared>, log: Lane) -> Self {
        Self { shared, log }
    }

    /// What stands against serving this request, if anything does.
    fn judge(&self, session: &mut Session, ctx: &mut Ctx) -> Option<Answer> {
        let host = match framing::check(session.as_downstream()) {
            Ok(host) => ctx.host.insert(host),
            Err(cause) => return Some(ctx.refuse(cause, 400)),
        };
        let head = session.req_header();
        ctx.streams = accepts_events(head);
        ctx.upgrades = is_websocket(session);
        ctx.grpc = is_grpc(head);
        let Some(place) = ctx.served.find(host, head.uri.path()) else {
            let known = !ctx.served.is_empty();
            return Some(if known {
                ctx.refuse(Cause::NoRoute, 404)
            } else {
                ctx.refuse(Cause::NoBackend, 503)
            });
        };
        ctx.place = Some(place);
        let served = ctx.served.clone();
        let route = served.route(place);
        if route.https_only && ctx.scheme == "http" {
            return Some(redirect(head, host, self.shared.https_port));
        }
        self.limit(route, session, ctx).or_else(|| {
            route.backends.is_empty().then(|| {
                let field = Some((RETRY_AFTER, HeaderValue::from_static("1")));
                Answer { field, ..ctx.refuse(Cause::NoBackend, 503) }
            })
        })
    }

    fn limit(&self, route: &Route, session: &mut Session, ctx: &mut Ctx) -> Option<Answer> {
        if let (Some(rate), Some(client)) = (route.rate_limit, ctx.client)
            && let Err(wait) = self.shared.limiter.take(&route.label, client, rate)
        {
            let seconds = HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            return Some(Answer {
                field: Some((RETRY_AFTER, seconds)),
                ..ctx.refuse(Cause::RateLimited, 429)
            });
        }
        let length = session.req_header().headers.get(CONTENT_LENGTH)?;
        let length: u64 = length.to_str().ok()?.trim().parse().ok()?;
        (length > route.max_body?).then(|| Answer { closes: true, ..ctx.refuse(Cause::BodyTooLarge, 413) })
    }

    /// The peer for a backend: with the deadlines of the route, and in HTTP/2 for gRPC.
    fn peer(backend: &Backend, ctx: &Ctx) -> Box<HttpPeer> {
        let mut peer = Box::new(backend.peer());
        let silence_may_last = ctx.streams || ctx.grpc || ctx.upgrades;
        peer.options.read_timeout = (!silence_may_last).then(|| silence(ctx));
        if ctx.grpc {
            peer.options.alpn = ALPN::H2;
            peer.options.max_h2_streams = H2_STREAMS;
        }
        peer
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.shared.clone())
    }

    /// None: the default would add compression, which costs every request something even when off.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        // Its limits on heads are over; HTTP/2 has limits of its own.
        if let Some(conn) = conn(session) {
            conn.serve();
        }
        session.set_write_timeout(Some(SILENCE));
        session.set_total_drain_timeout(Some(DRAIN_BODY));
        // RFC 9110 section 15.2: such a client takes the first answer for the last.
        let old = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(old);
        ctx.client = session.client_addr().and_then(|a| a.as_inet()).map(|a| a.ip().to_canonical());
        ctx.scheme =
            if session.digest().is_some_and(|digest| digest.ssl_digest.is_some()) { "https" } else { "http" };
        if let Some(id) = RequestId::given(session.get_header_bytes("x-request-id")) {
            ctx.id = id;
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if let Some(mut answer) = self.judge(session, ctx) {
            answer.closes |= self.shared.closing.load(Ordering::Relaxed);
            respond(session, &ctx.id, answer).await?;
            return Ok(true);
        }
        if let (true, Some(conn)) = (ctx.upgrades, conn(session)) {
            conn.await_answer(silence(ctx));
            // Bytes ahead of the answer are against the protocol, and Pingora would stop reading after the first.
            session.set_pipelining_enabled(false);
        }
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let served = ctx.served.clone();
        let Some(place) = ctx.place else { return Error::e_explain(ErrorType::InternalError, "no route") };
        // When all were tried, the last again: its old connection died, which says nothing of a new one.
        let chosen = served
            .pick(place, &ctx.tried)
            .or_else(|| ctx.tried.last().map(|last| (last, served.backend(last))));
        let Some((number, backend)) = chosen else {
            return Error::e_explain(ErrorType::HTTPStatus(503), "no backend");
        };
        if ctx.tries > 0 {
            self.shared.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
        ctx.tries += 1;
        // What was kept of the body comes by again.
        ctx.received = 0;
        ctx.tried.add(number);
        ctx.backend = Some(backend.address());
        Ok(Self::peer(backend, ctx))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        forward::request(head, ctx.client, ctx.scheme, &ctx.id)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.received += body.as_ref().map_or(0, |body| body.len() as u64);
        let limit = ctx.place.and_then(|place| ctx.served.route(place).max_body);
        // What goes through a tunnel is no body.
        if limit.is_some_and(|limit| ctx.received > limit) && !session.was_upgraded() {
            ctx.refuse(Cause::BodyTooLarge, 413);
            return Err(Error::explain(ErrorType::HTTPStatus(413), "body too large").into_down());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        // A tunnel from here on, and only from here on: whoever merely asks for one keeps every deadline.
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !ctx.upgrades {
                return Err(
                    Error::explain(ErrorType::InvalidHTTPHeader, "a tunnel nobody asked for").into_up()
                );
            }
            session.set_read_timeout(None);
            conn(session).into_iter().for_each(Conn::answered);
        }
        rearm(session, ctx);
        if self.shared.closing.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
        forward::answer(head, &ctx.id)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        rearm(session, ctx);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(backend) = ctx.tried.last() {
            ctx.served.backend(backend).put_aside();
        }
        // Nothing was sent, so any method may be sent elsewhere.
        let more = ctx.place.is_some_and(|place| ctx.served.pick(place, &ctx.tried).is_some());
        error.set_retry(more);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        _ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        let again = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none()
            && !session.is_upgrade_req();
        if !again {
            error.set_retry(false);
        } else if died(&error) {
            error.set_retry(true);
        } else {
            error.retry.decide_reuse(reused);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let late = conn(session).is_some_and(|conn| conn.stage() == Stage::Unanswered);
        let error_code = if late { 504 } else { status_of(error) };
        ctx.error = Some(shorten(error));
        if error_code == 400 {
            ctx.refuse(Cause::Malformed, 400);
        }
        if error_code > 0 && session.response_written().is_none() {
            let _ = respond(session, &ctx.id, Answer { closes: true, ..Answer::of(error_code) }).await;
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let took = ctx.started.elapsed();
        if let Some(place) = ctx.place {
            ctx.served.tally(place).count(status, took);
        }
        if ctx.error.is_none() {
            ctx.error = error.map(shorten);
        }
        if self.shared.access_log {
            self.log.write(&ctx.line(session, status, took), &self.shared.counters);
        }
    }

    /// Errors are in the access log and in the metrics; a client that leaves early is nobody's error.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        _error: &Error,
        _context: pingora::proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// The backend went away, rather than answered wrongly or slowly.
fn died(error: &Error) -> bool {
    let gone = matches!(
        error.etype(),
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error
    );
    gone && *error.esource() == ErrorSource::Upstream
}

/// Not grpc-web, which is made for servers of HTTP/1.1.
fn is_grpc(head: &RequestHeader) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    let plain = |rest: &[u8]| matches!(rest.first(), None | Some(b'+' | b';' | b' '));
    head.version == Version::HTTP_2 && rest.is_some_and(plain)
}

/// The only upgrade that is passed on. Another one is a plain request to the backend, and has a plain request's deadlines.
fn is_websocket(session: &Session) -> bool {
    let wanted = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    session.is_upgrade_req() && session.req_header().headers.get(http::header::UPGRADE).is_some_and(wanted)
}

fn accepts_events(head: &RequestHeader) -> bool {
    head.headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

/// How long a backend may be silent.
fn silence(ctx: &Ctx) -> Duration {
    ctx.place.and_then(|place| ctx.served.route(place).timeout).unwrap_or(SILENCE)
}

/// A backend that was asked for a WebSocket and answers otherwise has the next piece of its answer to send in time.
fn rearm(session: &Session, ctx: &Ctx) {
    if let Some(conn) = conn(session).filter(|conn| ctx.upgrades && conn.awaits_answer()) {
        conn.await_answer(silence(ctx));
    }
}

/// What the gateway itself knows of a client's connection; nothing when it is one stream of HTTP/2.
fn conn(session: &Session) -> Option<&Conn> {
    let stream = (**session.stream()?).as_any();
    let plain = stream.downcast_ref::<Downstream<TcpStream>>().map(Downstream::conn);
    plain.or_else(|| stream.downcast_ref::<Downstream<TlsStream<TcpStream>>>().map(Downstream::conn))
}

/// Between two reads of an answer, and for a write to a client, unless the route says otherwise.
const SILENCE: Duration = Duration::from_secs(60);
/// What is left of a body after an answer of our own is read for this long, so that the client reads the answer.
const DRAIN_BODY: Duration = Duration::from_secs(5);
const H2_STREAMS: usize = 100;
