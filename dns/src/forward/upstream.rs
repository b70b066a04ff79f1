//! One resolver to ask, and the exchange of one query with it.
//!
//! Every UDP try has a socket of its own: the kernel draws its port, only the resolver's address is heard on it, a port
//! that is closed is known at once, and there is nothing to tell apart. A shared socket saves 10 us and costs all of that.

use crate::wire::{self, Malformed, Response, rcode};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

/// Where a resolver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// UDP, and TCP for what does not fit.
    Net(SocketAddr),
    /// A stream socket in the file system, with the framing of TCP. It crosses network namespaces: a resolver that listens
    /// on the host's loopback only is reached this way.
    Unix(PathBuf),
}

/// A resolver and how it has been doing.
#[derive(Debug)]
pub struct Upstream {
    /// Where it is.
    pub address: Address,
    /// Microseconds, smoothed; failures raise it.
    smoothed: AtomicU64,
    /// Tries that brought nothing usable.
    pub failures: AtomicU64,
}

/// What a query is made of.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Name, type, class.
    pub question: &'a [u8],
    /// Whether signatures are wanted.
    pub dnssec_ok: bool,
    /// Whether they are not to be checked.
    pub checking_disabled: bool,
}

/// Why a try brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The network.
    #[error("asking {upstream}")]
    Io {
        /// Who was asked.
        upstream: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer.
    #[error("the answer of {upstream}")]
    Answer {
        /// Who was asked.
        upstream: Address,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
}

impl Upstream {
    /// A resolver nothing is known of yet.
    pub fn new(address: Address) -> Self {
        Self { address, smoothed: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }

    /// How long its answers take, with what it failed added.
    pub fn expected(&self) -> Duration {
        Duration::from_micros(self.smoothed.load(Ordering::Relaxed))
    }

    /// Remembers that a try brought nothing in time.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.blend(self.expected() * 2 + Duration::from_millis(50));
    }

    /// Asks once. Ends when there is an answer; the caller has the deadline.
    pub async fn ask(&self, query: Query<'_>) -> Result<Response, Failed> {
        let start = Instant::now();
        let mut response = self.exchange(query, Some(query.dnssec_ok)).await;
        // A resolver from before 1999 does not know EDNS and says so (RFC 6891 section 7).
        if let Ok(refused) = &response
            && matches!(refused.rcode, rcode::FORMERR | rcode::NOTIMP)
        {
            response = self.exchange(query, None).await;
        }
        match &response {
            Ok(_) => self.blend(start.elapsed()),
            Err(_) => self.failed(),
        }
        response
    }

    async fn exchange(&self, query: Query<'_>, edns: Option<bool>) -> Result<Response, Failed> {
        let id = random_id();
        let message = wire::query(id, query.question, edns, query.checking_disabled);
        let io = |source| Failed::Io { upstream: self.address.clone(), source };
        let bad = |source| Failed::Answer { upstream: self.address.clone(), source };
        match &self.address {
            Address::Net(at) => {
                let response = udp(*at, &message, id, query.question).await.map_err(io)?;
                if !response.truncated {
                    return Ok(response);
                }
                let stream = TcpStream::connect(at).await.map_err(io)?;
                whole(&framed(stream, &message).await.map_err(io)?, id, query.question).map_err(bad)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(io)?;
                whole(&framed(stream, &message).await.map_err(io)?, id, query.question).map_err(bad)
            }
        }
    }

    fn blend(&self, took: Duration) {
        let took = u64::try_from(took.min(SLOWEST).as_micros()).unwrap_or(u64::MAX);
        let before = self.smoothed.load(Ordering::Relaxed);
        let after = if before == 0 { took } else { (before * 7 + took) / 8 };
        self.smoothed.store(after, Ordering::Relaxed);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Sends one datagram and waits for its answer; strangers' datagrams are passed over.
async fn udp(to: SocketAddr, message: &[u8], id: u16, question: &[u8]) -> io::Result<Response> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(message).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match wire::response(&buffer[..length], id, question) {
            Ok(response) => return Ok(response),
            Err(why) => tracing::debug!(%to, %why, "a datagram is passed over"),
        }
    }
}

/// An answer that came in a connection: there is nothing larger to fall back to.
fn whole(message: &[u8], id: u16, question: &[u8]) -> Result<Response, Malformed> {
    let response = wire::response(message, id, question)?;
    if response.truncated { Err(Malformed::Short) } else { Ok(response) }
}

async fn framed<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(message);
    stream.write_all(&out).await?;
    let length = stream.read_u16().await?;
    let mut whole = vec![0; usize::from(length)];
    stream.read_exact(&mut whole).await?;
    Ok(whole)
}

/// An id nobody can guess. Without randomness nothing is asked twice under the same id either: it counts.
fn random_id() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u16::from_ne_bytes(bytes),
        Err(_) => NEXT.fetch_add(0x9e37, Ordering::Relaxed) as u16,
    }
}

/// Whether an answer settles the question; others may know better than one that failed.
pub fn settles(response: &Response) -> bool {
    matches!(response.rcode, rcode::NOERROR | rcode::NXDOMAIN)
}

const SLOWEST: Duration = Duration::from_secs(4);
