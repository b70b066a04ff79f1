//! One request, from its head to the line in the access log: refused, answered here, or led to a backend.
//!
//! The order of checks is the order of what they cost and of what they give away: framing, route, redirect, rate, size,
//! backend. Pingora calls; everything that decides is elsewhere. What goes to backends in HTTP/1.1 is [`crate::deliver`]'s;
//! Pingora itself leads gRPC to its backends, in HTTP/2.

use crate::access::Lane;
use crate::answer::{Answer, redirect, respond, shorten, status_of};
use crate::backend::Backend;
use crate::deliver::{died, is_repeatable};
use crate::downstream::{Conn, conn};
use crate::limit::Limiter;
use crate::metrics::{Cause, Counters};
use crate::request::Ctx;
use crate::request_id::RequestId;
use crate::served::Served;
use crate::table::Route;
use crate::upstream::Pool;
use crate::{forward, framing};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TE};
use http::{HeaderValue, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::ALPN;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    pool: Arc<Pool>,
}

impl Gateway {
    /// A gateway that logs into a lane.
    pub fn new(shared: Arc<Shared>, log: Lane) -> Self {
        let pool = Arc::new(Pool::new(shared.clone()));
        Self { shared, log, pool }
    }

    /// Its idle connections to backends.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What all workers share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What stands against serving this request, if anything does.
    fn judge(&self, session: &mut Session, ctx: &mut Ctx) -> Option<Answer> {
        ctx.grpc = is_grpc(session.req_header());
        let authority = conn(session).and_then(Conn::named).and_then(|named| named.authority);
        let head = session.req_header_mut();
        let named = match authority {
            Some(authority) => framing::take_authority(head, &authority),
            None => framing::to_origin_form(head),
        };
        let host = match named.and_then(|()| framing::check(session.as_downstream())) {
            Ok(host) => ctx.host.insert(host),
            Err(Cause::HeadTooLarge) => return Some(ctx.refuse(Cause::HeadTooLarge, 431)),
            Err(cause) => return Some(ctx.refuse(cause, 400)),
        };
        if conn(session).is_some_and(Conn::is_malformed) {
            return Some(ctx.refuse(Cause::Smuggling, 400));
        }
        let head = session.req_header();
        if framing::is_for_the_gateway(&head.method) {
            return Some(Answer { field: Some((ALLOW, METHODS)), ..ctx.refuse(Cause::Malformed, 405) });
        }
        ctx.upgrades = is_websocket(session);
        let served = ctx.served.clone();
        let found = served.find(host, head.uri.path()).and_then(|id| Some((id, served.route(id)?)));
        let Some((id, route)) = found else {
            let known = !ctx.served.is_empty();
            return Some(if known {
                ctx.refuse(Cause::NoRoute, 404)
            } else {
                ctx.refuse(Cause::NoBackend, 503)
            });
        };
        ctx.route = Some(id);
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

    /// The peer for a backend of gRPC, whose silences have no limit: a stream may wait for its next message.
    fn peer(backend: &Backend) -> Box<HttpPeer> {
        let mut peer = Box::new(backend.peer());
        peer.options.read_timeout = None;
        peer.options.alpn = ALPN::H2;
        peer.options.max_h2_streams = H2_STREAMS;
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
            // What is ill-formed already is refused when the rest of the head is judged.
            let _ = conn.frame(framing::body(session.req_header()));
        }
        session.set_write_timeout(Some(SILENCE_TIMEOUT));
        session.set_total_drain_timeout(Some(DRAIN_BODY_TIMEOUT));
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
            ctx.refused = Some(answer.status);
            respond(session, &ctx.id, answer, ctx.grpc).await?;
            return Ok(true);
        }
        if ctx.upgrades {
            // Bytes ahead of the answer are against the protocol, and Pingora would stop reading after the first.
            session.set_pipelining_enabled(false);
        }
        if ctx.grpc {
            return Ok(false);
        }
        self.deliver(session, ctx).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        Ok(Self::peer(&*self.choose(ctx)?))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        // Taken away as a field for this hop; a server of gRPC asks for it (its protocol over HTTP/2, "Requests").
        head.insert_header(TE, "trailers")?;
        forward::request(head, ctx.client, ctx.scheme, &ctx.id)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.count_body(body.as_ref().map_or(0, Bytes::len))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        if ctx.is_closing() {
            session.set_keepalive(None);
        }
        forward::answer(head, &ctx.id)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(backend) = ctx.tried.last().and_then(|last| ctx.served.backend(last)) {
            backend.put_aside();
        }
        // Nothing was sent, so any method may be sent elsewhere.
        error.set_retry(ctx.has_untried());
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
        let again = session.req_header().method.is_idempotent() && is_repeatable(session);
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
        let malformed = conn(session).is_some_and(Conn::is_malformed);
        let error_code = if malformed { 400 } else { status_of(error) };
        ctx.error = Some(shorten(error));
        if error_code == 400 {
            ctx.refuse(Cause::Malformed, 400);
        }
        // What was said in between is no answer.
        let unanswered = session.response_written().is_none_or(|head| head.status.is_informational());
        if error_code > 0 && unanswered {
            ctx.refused = Some(error_code);
            let answer = Answer { closes: true, ..Answer::of(error_code) };
            let _ = respond(session, &ctx.id, answer, ctx.grpc).await;
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        // What it is called in HTTP, where a gRPC client was given a status of its own.
        let written = session.response_written().map(|head| head.status.as_u16());
        let status = written.map_or(0, |written| ctx.refused.unwrap_or(written));
        let took = ctx.started.elapsed();
        if let Some(route) = ctx.route {
            ctx.served.count(route, status, took);
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

/// How long a backend may be silent.
pub(crate) fn silence(ctx: &Ctx) -> Duration {
    ctx.route.and_then(|route| ctx.served.route(route)?.timeout).unwrap_or(SILENCE_TIMEOUT)
}

/// What a client may ask for beside those that are the gateway's.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// Between two reads of an answer, and for a write to a client, unless the route says otherwise.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// What is left of a body after an answer of our own is read for this long, so that the client reads the answer.
const DRAIN_BODY_TIMEOUT: Duration = Duration::from_secs(5);
const H2_STREAMS: usize = 100;
