//! One request and its answer over one connection, both ways at once.
//!
//! Whatever happens first is acted on: the backend takes bytes or sends some, the client sends more of its body or goes
//! away, or nothing has happened for too long. The connection may be used again only when the answer is over by its own
//! framing, the request was sent to its end, and not a byte more has come in.

use super::body::{Body, Piece};
use super::head::{self, Answer, Length};
use super::patience::{self, Patience, Wait};
use super::sending::Sending;
use crate::answer;
use crate::downstream::{Conn, conn};
use crate::forward;
use crate::request::Ctx;
use bytes::{Bytes, BytesMut};
use http::header::{TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a backend is asked.
pub(crate) struct Asked<'a> {
    /// The head, as it is sent.
    pub head: &'a RequestHeader,
    /// The target in place of the head's: as the client spelled it.
    pub target: Option<Bytes>,
    /// How its body is sent.
    pub length: Length,
    /// How long the backend may be silent.
    pub silence: Duration,
}

/// How an exchange left its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// At the end of a message in both directions.
    Reusable,
    /// Not to be used again.
    Ended,
    /// With bytes that no request asked for.
    OutOfTurn,
}

/// One request on one connection.
pub(crate) struct Exchange<'a> {
    session: &'a mut Session,
    ctx: &'a mut Ctx,
    method: Method,
    sending: Sending,
    patience: Patience,
    /// Read from the backend and not yet understood.
    buffer: BytesMut,
    answer: Progress,
    keeps: bool,
    /// Heads of the kind 1xx so far.
    interim: usize,
    client: Client,
    /// The backend takes no more of the request; its answer may still come.
    deaf: bool,
    /// The client gets the trailers.
    trailers: bool,
}

enum Progress {
    Head,
    Body(Body),
    Done,
}

/// The client's side of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// More of its body is to come.
    Sends,
    /// Its request is over; it waits.
    Waits,
    /// Its request is over and its sending side closed (RFC 9112 section 9.6): it may still read.
    HalfClosed,
}

enum Event {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
    Asked(Result<Option<Bytes>>),
    Over,
}

impl<'a> Exchange<'a> {
    /// A request that is about to be sent.
    pub fn new(session: &'a mut Session, ctx: &'a mut Ctx, asked: &Asked<'_>) -> Self {
        let events = patience::asks_events(&asked.head.headers);
        Self {
            method: asked.head.method.clone(),
            sending: Sending::new(asked.head, asked.target.as_deref(), asked.length),
            patience: Patience::new(asked.silence, events),
            session,
            ctx,
            buffer: BytesMut::with_capacity(HEAD),
            answer: Progress::Head,
            keeps: false,
            interim: 0,
            client: Client::Sends,
            deaf: false,
            trailers: false,
        }
    }

    /// Carries the exchange to its end.
    pub async fn run(mut self, stream: &mut TcpStream) -> Result<Outcome> {
        self.begin()?;
        let (mut from, mut to) = stream.split();
        while !matches!(self.answer, Progress::Done) {
            self.make_room();
            let pending = self.sending.pending();
            let (writes, waits) = (!pending.is_empty(), self.client == Client::Waits);
            let listens = !self.deaf && (waits || (self.client == Client::Sends && !writes));
            let downstream = self.session.as_downstream_mut();
            // Cancel-safe, each of them: a write and a read that are not done have moved nothing, Pingora's own loop drops
            // its read of a body in the same way, and the deadline is a value.
            let event = tokio::select! {
                biased;
                wrote = to.write(pending), if writes => Event::Wrote(wrote),
                read = from.read_buf(&mut self.buffer) => Event::Read(read),
                asked = downstream.read_body_or_idle(waits), if listens => Event::Asked(asked),
                () = std::future::poll_fn(|cx| self.patience.poll_over(cx, writes)) => Event::Over,
            };
            match event {
                Event::Wrote(wrote) => self.wrote(wrote),
                Event::Read(read) => self.read(read).await?,
                Event::Asked(asked) => self.asked(asked).await?,
                Event::Over => return self.over(),
            }
        }
        Ok(self.outcome())
    }

    /// What an earlier attempt has read of the body is sent first.
    fn begin(&mut self) -> Result<()> {
        if let Some(again) = self.session.as_downstream().get_retry_buffer() {
            self.body(&again)?;
        }
        if self.session.as_downstream_mut().is_body_done() { self.end_of_request() } else { Ok(()) }
    }

    /// A body is read in large pieces, a head in what a head needs.
    fn make_room(&mut self) {
        let room = if matches!(self.answer, Progress::Head) { HEAD } else { BODY };
        if self.buffer.capacity() - self.buffer.len() < room / 4 {
            self.buffer.reserve(room);
        }
    }

    fn wrote(&mut self, wrote: io::Result<usize>) {
        self.patience.moved();
        match wrote {
            Ok(bytes) if bytes > 0 => self.sending.wrote(bytes),
            // It may have answered before it stopped to listen.
            _ => {
                self.deaf = true;
                self.sending.give_up();
            }
        }
    }

    async fn read(&mut self, read: io::Result<usize>) -> Result<()> {
        self.patience.moved();
        if read.map_err(|error| up(ErrorType::ReadError, "reading the answer").more(error))? == 0 {
            return self.closed().await;
        }
        while let Progress::Head = self.answer {
            match head::read(&mut self.buffer, &self.method).map_err(Error::into_up)? {
                Some(answer) => self.head(answer).await?,
                None => return Ok(()),
            }
        }
        self.pass().await
    }

    /// The backend has closed: the end of an answer without a length, and of nothing else.
    async fn closed(&mut self) -> Result<()> {
        match self.answer {
            Progress::Body(Body::UntilClose) => {
                self.answer = Progress::Done;
                self.session.write_response_body(None, true).await.map_err(Error::into_down)
            }
            Progress::Head => Err(up(ErrorType::ConnectionClosed, "the backend closed before it answered")),
            Progress::Body(_) | Progress::Done => {
                Err(up(ErrorType::ConnectionClosed, "the backend closed before the end of its answer"))
            }
        }
    }

    async fn head(&mut self, answer: Answer) -> Result<()> {
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(answer.head).await;
        }
        if answer.head.status.is_informational() {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(up(ErrorType::InvalidHTTPHeader, "too many interim answers"));
            }
            let head = Box::new(answer.head);
            return self.session.write_response_header(head, false).await.map_err(Error::into_down);
        }
        self.begin_answer(answer).await
    }

    async fn begin_answer(&mut self, answer: Answer) -> Result<()> {
        let Answer { mut head, body, keeps } = answer;
        let open = matches!(body, Body::Chunked(_) | Body::UntilClose);
        let request = self.session.req_header();
        let version = request.version;
        self.trailers = matches!(body, Body::Chunked(_))
            && (version == Version::HTTP_2
                || version == Version::HTTP_11 && head::wants_trailers(&request.headers));
        if !self.trailers {
            head.remove_header(&TRAILER);
        }
        match version {
            Version::HTTP_11 if open => head.insert_header(TRANSFER_ENCODING, "chunked")?,
            // Such a client knows the end of an answer without a length by the end of the connection.
            Version::HTTP_10 if open => self.session.set_keepalive(None),
            _ => {}
        }
        self.patience.wait_for(patience::kind(&head.headers, open));
        self.keeps = keeps;
        let ends = matches!(body, Body::Done);
        self.answer = if ends { Progress::Done } else { Progress::Body(body) };
        forward::answer(&mut head, &self.ctx.id)?;
        if self.ctx.is_closing() {
            self.session.set_keepalive(None);
        }
        // The first piece of the body leaves with the head, when it is here.
        self.gather(ends || !self.buffer.is_empty());
        if ends {
            return answer::whole(self.session, head).await.map_err(Error::into_down);
        }
        self.session.write_response_header(Box::new(head), false).await.map_err(Error::into_down)
    }

    fn gather(&self, gathers: bool) {
        conn(self.session).into_iter().for_each(|conn| conn.gather(gathers));
    }

    /// A tunnel from here on, when one was asked for.
    async fn switch(&mut self, mut head: ResponseHeader) -> Result<()> {
        if !self.ctx.upgrades {
            return Err(up(ErrorType::InvalidHTTPHeader, "an unrequested protocol switch"));
        }
        head.insert_header(http::header::CONNECTION, "Upgrade")?;
        head.insert_header(http::header::UPGRADE, "websocket")?;
        forward::answer(&mut head, &self.ctx.id)?;
        self.session.set_read_timeout(None);
        self.session.write_response_header(Box::new(head), false).await.map_err(Error::into_down)?;
        conn(self.session).into_iter().for_each(Conn::let_through);
        self.sending.tunnel();
        self.client = Client::Sends;
        self.answer = Progress::Body(Body::UntilClose);
        self.patience.wait_for(Wait::Tunnel);
        Ok(())
    }

    /// Passes on what has come of the body, in one write.
    async fn pass(&mut self) -> Result<()> {
        let Progress::Body(body) = &mut self.answer else { return Ok(()) };
        let (mut first, mut more) = (None, BytesMut::new());
        let end = loop {
            let piece = body.take(&mut self.buffer);
            match piece.map_err(|why| up(ErrorType::InvalidHTTPHeader, "the answer").more(why))? {
                Piece::Data(data) if first.is_none() => first = Some(data),
                Piece::Data(data) => more.extend_from_slice(&data),
                Piece::More => break None,
                Piece::End(trailers) => break Some(trailers),
            }
        };
        let data = match first {
            Some(first) if !more.is_empty() => Some(Bytes::from([&first[..], &more[..]].concat())),
            first => first,
        };
        let Some(trailers) = end else {
            return match data {
                Some(data) => self.deliver(data).await,
                None => Ok(()),
            };
        };
        self.answer = Progress::Done;
        self.gather(true);
        if self.trailers && !trailers.is_empty() {
            if let Some(data) = data {
                self.session.write_response_body(Some(data), false).await.map_err(Error::into_down)?;
            }
            return self.end_with(trailers).await;
        }
        self.session.write_response_body(data, true).await.map_err(Error::into_down)
    }

    /// A piece that is not the last: the next may be long in coming.
    async fn deliver(&mut self, data: Bytes) -> Result<()> {
        self.gather(false);
        self.session.write_response_body(Some(data), false).await.map_err(Error::into_down)
    }

    /// Ends the answer with trailers. Pingora writes none in HTTP/1.1: the connection puts them behind its last chunk.
    async fn end_with(&mut self, trailers: HeaderMap) -> Result<()> {
        if let Some(conn) = conn(self.session) {
            conn.end_with(&trailers);
            return self.session.write_response_body(None, true).await.map_err(Error::into_down);
        }
        self.session.as_downstream_mut().write_response_trailers(trailers).await.map_err(Error::into_down)
    }

    async fn asked(&mut self, asked: Result<Option<Bytes>>) -> Result<()> {
        match asked {
            Ok(Some(data)) => {
                self.patience.moved();
                self.body(&data)?;
                if self.session.as_downstream_mut().is_body_done() { self.end_of_request() } else { Ok(()) }
            }
            // A tunnel ends with either of its sides.
            Ok(None) if self.session.was_upgraded() => {
                self.answer = Progress::Done;
                self.session.write_response_body(None, true).await.map_err(Error::into_down)
            }
            Ok(None) => self.end_of_request(),
            Err(error) if self.client == Client::Waits && is_half_close(self.session, &error) => {
                self.client = Client::HalfClosed;
                self.patience.half_closed();
                Ok(())
            }
            Err(error) => Err(error.into_down()),
        }
    }

    fn body(&mut self, data: &[u8]) -> Result<()> {
        // What goes through a tunnel is no body.
        if !self.session.was_upgraded() {
            self.ctx.count_body(data.len())?;
        }
        self.sending.body(data)
    }

    fn end_of_request(&mut self) -> Result<()> {
        self.client = Client::Waits;
        self.sending.end()
    }

    fn over(&self) -> Result<Outcome> {
        let slow_client = self.client == Client::Sends && !self.deaf && self.sending.pending().is_empty();
        let error = Error::explain(ErrorType::ReadTimedout, "timed out");
        Err(if slow_client && !self.session.was_upgraded() { error.into_down() } else { error.into_up() })
    }

    fn outcome(&self) -> Outcome {
        if self.session.was_upgraded() || !self.keeps {
            return Outcome::Ended;
        }
        match (self.buffer.is_empty(), self.sending.is_complete()) {
            (false, _) => Outcome::OutOfTurn,
            (true, true) if !self.deaf => Outcome::Reusable,
            (true, _) => Outcome::Ended,
        }
    }
}

/// The client has closed its sending side, in HTTP/1; a stream of HTTP/2 that is reset is gone.
fn is_half_close(session: &Session, error: &Error) -> bool {
    *error.etype() == ErrorType::ConnectionClosed && session.req_header().version != Version::HTTP_2
}

fn up(kind: ErrorType, what: &'static str) -> Box<Error> {
    Error::explain(kind, what).into_up()
}

/// Keeps the cause of an error.
trait More {
    fn more(self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self;
}

impl More for Box<Error> {
    fn more(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.set_cause(cause);
        self
    }
}

/// Room for the head of an answer, with which a small body often comes.
const HEAD: usize = 8 * 1024;
/// Room for a piece of a body.
const BODY: usize = 64 * 1024;
/// Interim answers to one request.
const INTERIM: usize = 32;
