//! One stream of HTTP/2 as a session of Pingora's: a request, and what is answered to it.

use super::retry::Kept;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream as Messages;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response};
use pingora::ErrorType::{ConnectionClosed, H2Error, ReadError, ReadTimedout, WriteError, WriteTimedout};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, OrErr, Result};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

/// One stream.
pub(crate) struct Stream {
    request: RequestHeader,
    incoming: RecvStream,
    respond: SendResponse<Bytes>,
    /// There once the head of the answer has been sent.
    outgoing: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    ended: bool,
    received: usize,
    sent: usize,
    kept: Option<Kept>,
    digest: Arc<Digest>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

impl Stream {
    /// A request that has come.
    pub fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, digest: Arc<Digest>) -> Self {
        let (head, incoming) = request.into_parts();
        Self {
            request: head.into(),
            incoming,
            respond,
            outgoing: None,
            written: None,
            ended: false,
            received: 0,
            sent: 0,
            kept: None,
            digest,
            read_timeout: Some(READ_TIMEOUT),
            write_timeout: None,
            drain_timeout: None,
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let data = within(self.read_timeout, ReadTimedout, self.incoming.data()).await?;
        let Some(data) = data.transpose().or_err(ReadError, "reading the body of a request")? else {
            return Ok(None);
        };
        self.received += data.len();
        if let Some(kept) = &mut self.kept {
            kept.add(&data);
        }
        // A stream that was reset in the meantime has no window any more.
        let _ = self.incoming.flow_control().release_capacity(data.len());
        Ok(Some(data))
    }

    /// Waits for the client to give the stream up.
    async fn reset(&mut self) -> Result<h2::Reason> {
        let (respond, outgoing) = (&mut self.respond, &mut self.outgoing);
        let reset = poll_fn(|cx| match outgoing {
            Some(outgoing) => outgoing.poll_reset(cx),
            None => respond.poll_reset(cx),
        });
        reset.await.or_err(H2Error, "waiting for a stream")
    }

    fn outgoing(&mut self) -> Result<&mut SendStream<Bytes>> {
        self.outgoing.as_mut().ok_or_else(|| Error::explain(H2Error, "a body before the response head"))
    }

    /// As much at a time as the client has room for.
    async fn send(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        let write_timeout = self.write_timeout;
        let outgoing = self.outgoing()?;
        while !data.is_empty() {
            outgoing.reserve_capacity(data.len());
            let room = within(write_timeout, WriteTimedout, poll_fn(|cx| outgoing.poll_capacity(cx))).await?;
            let Some(room) = room else { return Error::e_explain(ConnectionClosed, "the stream is closed") };
            let room = room.or_err(WriteError, "waiting for room")?.min(data.len());
            let piece = data.split_to(room);
            let last = end && data.is_empty();
            outgoing.send_data(piece, last).or_err(WriteError, "writing a body")?;
            if last {
                return Ok(());
            }
        }
        if end { outgoing.send_data(data, true).or_err(WriteError, "ending a body") } else { Ok(()) }
    }

    fn head(&mut self, mut head: ResponseHeader, end: bool) -> Result<()> {
        if self.ended || self.outgoing.is_some() {
            return Ok(());
        }
        for name in [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE] {
            head.remove_header(name);
        }
        if head.status.is_informational() {
            let interim = Response::from_parts(head.as_owned_parts(), ());
            return self.respond.send_informational(interim).or_err(WriteError, "an interim answer");
        }
        head.insert_header(DATE, get_cached_date())?;
        let answer = Response::from_parts(head.as_owned_parts(), ());
        self.outgoing = Some(self.respond.send_response(answer, end).or_err(WriteError, "writing a head")?);
        self.written = Some(Box::new(head));
        self.ended = end;
        Ok(())
    }

    async fn task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => self.head(*head, end)?,
            HttpTask::Body(data, end) | HttpTask::UpgradedBody(data, end) => {
                self.write_body(data.unwrap_or_default(), end).await?;
            }
            HttpTask::Trailer(Some(trailers)) => self.write_trailers(*trailers).await?,
            HttpTask::Trailer(None) | HttpTask::Done => self.finish().await?,
            HttpTask::Failed(error) => return Err(error),
        }
        Ok(self.ended)
    }
}

#[async_trait]
impl Session for Stream {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let limit = self.drain_timeout;
        let drained = async {
            while !self.is_body_done() && self.read().await?.is_some() {}
            Ok(())
        };
        within(limit, ReadTimedout, drained).await?
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.head(*head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.head(head.clone(), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.ended || (data.is_empty() && !end) {
            return Ok(());
        }
        let bytes = data.len();
        self.send(data, end).await?;
        self.sent += bytes;
        self.ended = end;
        Ok(())
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.outgoing()?.send_trailers(trailers).or_err(WriteError, "writing trailers")?;
        self.ended = true;
        Ok(())
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended = self.task(task).await?;
        }
        Ok(ended)
    }

    fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.read_timeout = limit;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, limit: Option<Duration>) {
        self.write_timeout = limit;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, limit: Option<Duration>) {
        self.drain_timeout = limit;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, self.request.uri.path())
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, code: u32, _why: &str) {
        if !self.ended {
            self.respond.send_reset(h2::Reason::from(code));
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.is_body_empty() || self.incoming.is_end_stream()
    }

    async fn finish(&mut self) -> Result<()> {
        if self.ended || self.outgoing.is_none() {
            return Ok(());
        }
        self.ended = true;
        self.outgoing()?.send_data(Bytes::new(), true).or_err(WriteError, "ending an answer")
    }

    fn is_body_empty(&mut self) -> bool {
        let none = self.request.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        self.received == 0 && (none || self.incoming.is_end_stream())
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.is_body_done() {
            return self.read().await;
        }
        let reason = self.reset().await?;
        Error::e_explain(H2Error, format!("the client reset the stream: {reason}"))
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.received
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    /// Only asked for subrequests, of which there are none.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.kept.get_or_insert_default();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.kept.as_ref()?.whole()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}

/// A limit that may be absent.
async fn within<T>(
    limit: Option<Duration>,
    kind: pingora::ErrorType,
    what: impl Future<Output = T>,
) -> Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, what).await.or_err(kind, "on a stream of HTTP/2"),
        None => Ok(what.await),
    }
}

/// Between two pieces of a body, as Pingora has it for HTTP/1.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
