//! A client's connection as Pingora sees it: the bytes, with a limit on how long and how large the head of a request may be,
//! and with small writes gathered into one.
//!
//! Pingora's own limits are per read (60 s) and 1 MiB, so one byte a minute would hold a connection for ever. What is over a
//! limit is answered here (408, 431), because after an error of the connection nothing above does; and so is a head that could
//! be read in two ways ([`crate::incoming`]).

use crate::incoming::{Watch, Wrong};
use crate::target::{self, Named};
use crate::upstream::Body;
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID,
};
use pingora::proxy::Session;
use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// What bytes come in over: TCP itself, or TLS on it.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug + 'static {
    /// The socket's descriptor.
    fn descriptor(&self) -> RawFd;
    /// Whether what is read was encrypted.
    fn is_encrypted(&self) -> bool;
}

impl Transport for TcpStream {
    fn descriptor(&self) -> RawFd {
        self.as_raw_fd()
    }
    fn is_encrypted(&self) -> bool {
        false
    }
}

impl Transport for TlsStream<TcpStream> {
    fn descriptor(&self) -> RawFd {
        self.get_ref().0.as_raw_fd()
    }
    fn is_encrypted(&self) -> bool {
        true
    }
}

/// What the connection and whoever drives it share.
#[derive(Debug, Default)]
pub struct Conn {
    stage: AtomicU8,
    head_bytes: AtomicU32,
    http2: AtomicBool,
    /// What the next last chunk is followed by.
    trailers: Mutex<Option<Bytes>>,
    has_trailers: AtomicBool,
    /// What is written leaves at once.
    at_once: AtomicBool,
    /// The strict reading of what the client sends.
    watch: Mutex<Watch>,
    malformed: AtomicBool,
    /// What the request line said, where Pingora sees it spelled otherwise.
    named: Mutex<Option<Named>>,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The head of a request is awaited or being read.
    Head,
    /// A request is being served.
    Serving,
    /// The head was too large.
    TooLarge,
    /// The head did not come in time.
    TooSlow,
    /// The client closed.
    Closed,
    /// The head could be read in two ways.
    Malformed,
}

/// Limits on the head of a request.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// From its first byte, or from the connection's beginning for the first one, to its last.
    pub time: Duration,
    /// Bytes; a body that came along with it counts until it is parsed.
    pub size: u32,
}

/// A client's connection.
#[derive(Debug)]
pub struct Downstream<S> {
    io: S,
    conn: Arc<Conn>,
    /// Pingora asks it for the client's address.
    socket: Arc<SocketDigest>,
    /// Pingora's word for an encrypted connection.
    encrypted: Option<Arc<SslDigest>>,
    limits: HeadLimits,
    deadline: Option<Pin<Box<Sleep>>>,
    gathered: BytesMut,
    /// A request line that is not over yet.
    line: Vec<u8>,
    /// Read, and spelled as Pingora takes it, and not yet asked for.
    spelled: BytesMut,
}

impl Conn {
    /// Another request may begin; not when the one before it has left something behind that is no request.
    pub fn await_head(&self) -> bool {
        self.head_bytes.store(0, Ordering::Relaxed);
        self.gather(true);
        self.put(Stage::Head);
        *self.named.lock() = None;
        self.watch.lock().next().is_ok()
    }

    /// The body of the request that is served is framed like this; whether what has come of it already is well-formed.
    pub fn frame(&self, body: Body) -> bool {
        self.judge(|watch| watch.frame(body)).is_ok()
    }

    /// What the client sends from here on is no HTTP/1.
    pub fn let_through(&self) {
        self.watch.lock().let_through();
    }

    /// What the line of the request that is served said, where it was spelled otherwise for Pingora.
    pub fn named(&self) -> Option<Named> {
        self.named.lock().clone()
    }

    /// Whether the client sent what could be read in two ways.
    pub fn is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    fn judge(&self, look: impl FnOnce(&mut Watch) -> Result<(), Wrong>) -> Result<(), Wrong> {
        let mut watch = self.watch.lock();
        let looked = look(&mut watch);
        if looked.is_err() {
            self.malformed.store(true, Ordering::Relaxed);
            watch.let_through();
        }
        looked
    }

    /// The head has been read.
    pub fn serve(&self) {
        self.put(Stage::Serving);
    }

    /// It speaks HTTP/2: its only head is the preface, after which Pingora keeps its own limits.
    pub fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// Whether small writes are gathered until the next flush, because more is about to follow. Pingora flushes an answer
    /// with a length only at its end, and its backend may take its time.
    pub fn gather(&self, gathers: bool) {
        self.at_once.store(!gathers, Ordering::Relaxed);
    }

    /// The chunked answer that is about to end does so with these trailers.
    pub fn end_with(&self, trailers: &HeaderMap) {
        let mut section = BytesMut::new();
        for (name, value) in trailers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                section.extend_from_slice(part);
            }
        }
        *self.trailers.lock() = Some(section.freeze());
        self.has_trailers.store(true, Ordering::Relaxed);
    }

    /// The trailers to write in place of the end of a body without any.
    fn trailers(&self) -> Option<Bytes> {
        self.has_trailers.swap(false, Ordering::Relaxed).then(|| self.trailers.lock().take()).flatten()
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        [Stage::Head, Stage::Serving, Stage::TooLarge, Stage::TooSlow, Stage::Closed, Stage::Malformed]
            [usize::from(self.stage.load(Ordering::Relaxed))]
    }

    /// Whether a head has begun to come.
    pub fn head_begun(&self) -> bool {
        self.head_bytes.load(Ordering::Relaxed) > 0
    }

    fn put(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }
}

impl<S: Transport> Downstream<S> {
    /// A connection that was just taken from `peer`.
    pub fn new(io: S, peer: SocketAddr, conn: Arc<Conn>, limits: HeadLimits) -> Self {
        let socket = SocketDigest::from_raw_fd(io.descriptor());
        let _ = socket.peer_addr.set(Some(peer.into()));
        let encrypted = io.is_encrypted().then(|| Arc::new(SslDigest::new("", "", None, None, Vec::new())));
        let deadline = Some(Box::pin(tokio::time::sleep(limits.time)));
        Self {
            io,
            conn,
            socket: Arc::new(socket),
            encrypted,
            limits,
            deadline,
            gathered: BytesMut::new(),
            line: Vec::new(),
            spelled: BytesMut::new(),
        }
    }

    /// What is shared with whoever drives it.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Looks at what was read as HTTP/1, and gives up a connection on which it is none.
    fn looked_at(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let Err(wrong) = self.conn.judge(|watch| watch.came(bytes)) else { return Ok(()) };
        match (self.conn.stage(), wrong) {
            (Stage::Head, Wrong::Fields) => Err(self.give_up(cx, Stage::TooLarge, TOO_LARGE)),
            (Stage::Head, _) => Err(self.give_up(cx, Stage::Malformed, MALFORMED)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, wrong)),
        }
    }

    /// Gathers a request line and spells it as Pingora takes it ([`target::respell`]); `begins` where one may begin.
    fn spell(&mut self, bytes: &[u8], begins: bool) -> Spelled {
        if self.line.is_empty() && !begins {
            return Spelled::AsIs;
        }
        let whole = if self.line.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            self.line.extend_from_slice(bytes);
            Cow::Owned(std::mem::take(&mut self.line))
        };
        let line = request_line(&whole);
        // Otherwise all of it is empty lines, which may stand before a request.
        if line.is_none() && !whole.ends_with(b"\n") {
            self.line = whole.into_owned();
            return Spelled::Held;
        }
        let respelled = line.and_then(|line| Some((line.clone(), target::respell(&whole[line])?)));
        match (respelled, whole) {
            (Some((line, (spelled, named))), whole) => {
                *self.conn.named.lock() = Some(named);
                Spelled::Otherwise([&whole[..line.start], &spelled, &whole[line.end..]].concat())
            }
            (None, Cow::Owned(whole)) => Spelled::Otherwise(whole),
            (None, Cow::Borrowed(_)) => Spelled::AsIs,
        }
    }

    /// After a read that brought something: is the head within its size?
    fn came(&mut self, cx: &mut Context<'_>, bytes: usize) -> io::Result<()> {
        if self.conn.stage() != Stage::Head {
            self.deadline = None;
            return Ok(());
        }
        if bytes == 0 {
            self.conn.put(Stage::Closed);
            return Ok(());
        }
        let before = self.conn.head_bytes.fetch_add(bytes as u32, Ordering::Relaxed);
        let bytes = before.saturating_add(bytes as u32);
        if self.conn.http2.load(Ordering::Relaxed) {
            if bytes >= PREFACE {
                self.conn.serve();
            }
            return Ok(());
        }
        if bytes > self.limits.size {
            return Err(self.give_up(cx, Stage::TooLarge, TOO_LARGE));
        }
        Ok(())
    }

    /// Nothing has come: is the head within its time? The timer is made only when a head comes in pieces.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.conn.stage() != Stage::Head {
            self.deadline = None;
            return Poll::Pending;
        }
        if self.deadline.is_none() && self.conn.head_begun() {
            self.deadline = Some(Box::pin(tokio::time::sleep_until(Instant::now() + self.limits.time)));
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        // Browsers open connections ahead of need; one that never said anything is closed without a word.
        let (stage, answer) =
            if self.conn.head_begun() { (Stage::TooSlow, TOO_SLOW) } else { (Stage::Closed, &b""[..]) };
        Poll::Ready(Err(self.give_up(cx, stage, answer)))
    }

    /// Says why and ends; a client that does not take these few bytes at once does not get them.
    fn give_up(&mut self, cx: &mut Context<'_>, stage: Stage, answer: &[u8]) -> io::Error {
        self.conn.put(stage);
        if !self.conn.http2.load(Ordering::Relaxed) {
            let _ = Pin::new(&mut self.io).poll_write(cx, answer);
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
        io::Error::new(io::ErrorKind::TimedOut, "the head of a request exceeds a limit")
    }

    /// What was gathered and what is too large to be added to it leave together: a segment less, a TLS record less.
    fn write_both(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let both = [IoSlice::new(&self.gathered), IoSlice::new(data)];
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let gathered = written.min(self.gathered.len());
            self.gathered.advance(gathered);
            if written > gathered {
                return Poll::Ready(Ok(written - gathered));
            }
        }
    }

    fn write_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport> AsyncRead for Downstream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.spelled.is_empty() {
            let bytes = self.spelled.len().min(buf.remaining());
            buf.put_slice(&self.spelled.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            match Pin::new(&mut self.io).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.waits(cx),
            }
            let bytes = buf.filled().len() - before;
            self.came(cx, bytes)?;
            if bytes == 0 || self.conn.http2.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let begins = self.conn.watch.lock().awaits_target();
            self.looked_at(cx, &buf.filled()[before..])?;
            match self.spell(&buf.filled()[before..], begins) {
                Spelled::AsIs => return Poll::Ready(Ok(())),
                // No bytes would be the end.
                Spelled::Held => buf.set_filled(before),
                Spelled::Otherwise(spelled) => {
                    buf.set_filled(before);
                    let now = spelled.len().min(buf.remaining());
                    buf.put_slice(&spelled[..now]);
                    self.spelled.extend_from_slice(&spelled[now..]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: Transport> AsyncWrite for Downstream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data == LAST_CHUNK
            && let Some(trailers) = self.conn.trailers()
        {
            for part in [&LAST_CHUNK[..3], &trailers, &LAST_CHUNK[3..]] {
                self.gathered.extend_from_slice(part);
            }
            return Poll::Ready(Ok(data.len()));
        }
        let gathers = !self.conn.at_once.load(Ordering::Relaxed);
        if gathers && self.gathered.len() + data.len() <= GATHER {
            self.gathered.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        self.write_both(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_gathered(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_gathered(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// How bytes that were read are passed on.
enum Spelled {
    AsIs,
    /// Not yet: the request line is not over.
    Held,
    Otherwise(Vec<u8>),
}

/// Where the first line that is not empty stands, with its end, once all of it is there.
fn request_line(bytes: &[u8]) -> Option<Range<usize>> {
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let end = bytes[begin..].iter().position(|byte| *byte == b'\n')?;
    Some(begin..begin + end + 1)
}

/// What the gateway itself knows of a client's connection; nothing when it is one stream of HTTP/2.
pub fn conn(session: &Session) -> Option<&Conn> {
    let stream = (**session.stream()?).as_any();
    let plain = stream.downcast_ref::<Downstream<TcpStream>>().map(Downstream::conn);
    plain.or_else(|| stream.downcast_ref::<Downstream<TlsStream<TcpStream>>>().map(Downstream::conn))
}

#[async_trait]
impl<S: Transport> Shutdown for Downstream<S> {
    async fn shutdown(&mut self) {
        // The client may be gone already, and then there is nobody to say goodbye to.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl<S: Transport> UniqueID for Downstream<S> {
    fn id(&self) -> i32 {
        self.io.descriptor()
    }
}

impl<S: Transport> Ssl for Downstream<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.encrypted.clone()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.conn.http2.load(Ordering::Relaxed).then_some(ALPN::H2)
    }
}

impl<S: Transport> GetTimingDigest for Downstream<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<S: Transport> GetProxyDigest for Downstream<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S: Transport> GetSocketDigest for Downstream<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl<S: Transport> Peek for Downstream<S> {}

/// Up to this much is gathered until the flush, so that head and a small body leave in one segment, and in one TLS record.
const GATHER: usize = 16 * 1024;
/// RFC 9112 section 7.1: trailers stand between its two line ends.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// RFC 9113 section 3.4.
const PREFACE: u32 = 24;
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const MALFORMED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes at most so many bytes at a time, and remembers what each write brought.
    #[derive(Debug)]
    struct Wire {
        takes: usize,
        writes: Vec<Vec<u8>>,
    }

    impl Transport for Wire {
        fn descriptor(&self) -> RawFd {
            -1
        }
        fn is_encrypted(&self) -> bool {
            false
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(data)])
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let taken = all[..all.len().min(self.takes)].to_vec();
            self.writes.push(taken.clone());
            Poll::Ready(Ok(taken.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The writes that reach the wire when these pieces are written and flushed.
    fn sent(takes: usize, pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limits = HeadLimits { time: Duration::from_secs(15), size: 1_024 };
            let peer = ([192, 0, 2, 1], 1).into();
            let mut stream =
                Downstream::new(Wire { takes, writes: Vec::new() }, peer, Arc::default(), limits);
            for piece in pieces {
                stream.write_all(piece).await.unwrap();
            }
            stream.flush().await.unwrap();
            stream.io.writes
        })
    }

    #[test]
    fn a_head_leaves_with_its_body_in_one_write_whether_the_body_is_small_or_large() {
        for size in [10, GATHER - 300, GATHER, 20 * 1_024] {
            let writes = sent(usize::MAX, &[vec![b'h'; 300], vec![b'b'; size]]);
            assert_eq!(writes.iter().map(Vec::len).collect::<Vec<_>>(), [300 + size]);
        }
    }

    proptest! {
        #[test]
        fn everything_arrives_once_and_in_order_however_little_the_wire_takes(
            takes in 1..40_000_usize,
            sizes in prop::collection::vec(0..40_000_usize, 0..5),
        ) {
            let mut next = (0..=250_u8).cycle();
            let pieces: Vec<Vec<u8>> =
                sizes.iter().map(|size| next.by_ref().take(*size).collect()).collect();
            prop_assert_eq!(sent(takes.max(50), &pieces).concat(), pieces.concat());
        }
    }
}
