//! A request on its way to a backend that speaks HTTP/1.1: which one, over which connection, and once more when it failed
//! in a way that allows it.

use crate::backend::Backend;
use crate::downstream::conn;
use crate::forward;
use crate::metrics::Counters;
use crate::proxy::{Gateway, silence};
use crate::request::Ctx;
use crate::served::MOST_TRIES;
use crate::target;
use crate::upstream::{Asked, Exchange, Outcome, outgoing};
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;

/// Why an attempt failed.
enum Failure {
    /// There is no connection, or none that is fit for a request: nothing was sent.
    Unsent(Box<Error>),
    /// The request, or a part of it, was sent.
    Sent(Box<Error>),
}

impl Gateway {
    /// Has a backend answer.
    pub(crate) async fn deliver(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let mut head = session.req_header().clone();
        let has_body = !session.as_downstream_mut().is_body_empty();
        let length = outgoing(&mut head, ctx.upgrades, has_body).map_err(Error::into_down)?;
        forward::request(&mut head, ctx.client, ctx.scheme, &ctx.id)?;
        let again = head.method.is_idempotent() && !ctx.upgrades;
        if again && has_body {
            session.as_downstream_mut().enable_retry_buffering();
        }
        let target = conn(session).and_then(|conn| target::verbatim(conn.named(), head.raw_path()));
        let asked = Asked { head: &head, target, length, silence: silence(ctx) };
        loop {
            let backend = self.choose(ctx)?;
            let error = match self.attempt(session, ctx, &backend, &asked).await {
                Ok(()) => return Ok(()),
                Err(Failure::Unsent(error)) => {
                    backend.put_aside();
                    if !ctx.has_untried() {
                        return Err(error);
                    }
                    error
                }
                Err(Failure::Sent(error)) if again && died(&error) && is_repeatable(session) => error,
                Err(Failure::Sent(error)) => return Err(error),
            };
            if ctx.tries >= MOST_TRIES {
                return Err(error);
            }
        }
    }

    /// The backend whose turn it is among those that were not tried.
    pub(crate) fn choose(&self, ctx: &mut Ctx) -> Result<Arc<Backend>> {
        let Some(route) = ctx.route else { return Error::e_explain(ErrorType::InternalError, "no route") };
        let served = ctx.served.clone();
        // When all were tried, the last again: its old connection died, which says nothing of a new one.
        let last = || ctx.tried.last().and_then(|last| Some((last, served.backend(last)?)));
        let Some((id, backend)) = served.pick(route, &ctx.tried).or_else(last) else {
            return Error::e_explain(ErrorType::HTTPStatus(503), "no backend");
        };
        if ctx.tries > 0 {
            self.counters().retries.fetch_add(1, Ordering::Relaxed);
        }
        ctx.tries += 1;
        // What was kept of the body comes by again.
        ctx.received = 0;
        ctx.tried.add(id);
        ctx.backend = Some(backend.address());
        Ok(backend.clone())
    }

    async fn attempt(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        backend: &Backend,
        asked: &Asked<'_>,
    ) -> Result<(), Failure> {
        let mut stream = self.connection(ctx, backend).await?;
        match Exchange::new(session, ctx, asked).run(&mut stream).await.map_err(Failure::Sent)? {
            Outcome::Reusable => self.pool().put(backend, stream),
            Outcome::OutOfTurn => self.pool().spoke_out_of_turn(backend),
            Outcome::Ended => {}
        }
        Ok(())
    }

    /// A connection on which nothing is under way. After a failure a new one: others that waited may be as dead.
    async fn connection(&self, ctx: &Ctx, backend: &Backend) -> Result<TcpStream, Failure> {
        if let Some(stream) = (ctx.tries == 1).then(|| self.pool().take(backend)).flatten() {
            return Ok(stream);
        }
        let stream = self.pool().connect(backend).await.map_err(unconnected)?;
        if self.pool().is_quiet(&stream, backend) {
            return Ok(stream);
        }
        let why = "the backend sent data before a request, or closed";
        Err(Failure::Unsent(Error::explain(ErrorType::ConnectError, why).into_up()))
    }

    fn counters(&self) -> &Counters {
        &self.shared().counters
    }
}

fn unconnected(error: io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        _ => ErrorType::ConnectError,
    };
    Failure::Unsent(Error::because(kind, "connecting to a backend", error).into_up())
}

/// The backend went away, rather than answered wrongly or slowly.
pub(crate) fn died(error: &Error) -> bool {
    let gone = matches!(
        error.etype(),
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error
    );
    gone && *error.esource() == ErrorSource::Upstream
}

/// Whether what was sent can be sent again: all of it is kept, and the client has seen nothing of an answer.
pub(crate) fn is_repeatable(session: &Session) -> bool {
    let downstream = session.as_downstream();
    let unanswered = session.response_written().is_none_or(|head| head.status.is_informational());
    unanswered && !downstream.retry_buffer_truncated()
}
