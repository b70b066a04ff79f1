//! One resolver to ask, and the exchange of one query with it.
//!
//! Every UDP try has a socket of its own: the kernel draws its port, only the resolver's address is heard on it, a port
//! that is closed is known at once, and there is nothing to tell apart. A shared socket saves 10 us and costs all of that.

use super::exchange::{framed, udp, whole};
use super::plain::Plain;
use crate::outside::{self, Kind, Wanted};
use crate::wire::{self, Malformed, Response, rcode};
use ployz_core::resolv::Nameserver;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

/// Where a resolver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// UDP, and TCP for what does not fit.
    Net(SocketAddr),
    /// The same, from the host's network namespace.
    Host {
        /// Who is asked.
        nameserver: Nameserver,
        /// At which port.
        port: u16,
        /// The socket of the process that opens sockets there.
        opener: Arc<Path>,
    },
    /// A stream socket in the file system, with the framing of TCP.
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
    /// Whether it is better asked without EDNS.
    pub plain: Plain,
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
        let (smoothed, failures) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { address, smoothed, failures, plain: Plain::default() }
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

    /// Asks once; `edns`: unless it does not stand that. Ends when there is an answer; the caller has the deadline.
    pub async fn ask(&self, query: Query<'_>, edns: bool) -> Result<Response, Failed> {
        let start = Instant::now();
        // Who wants signatures gets none without EDNS, so it is tried for that whatever is known.
        let edns = edns && (query.dnssec_ok || !self.plain.is_better(start));
        let mut response = self.exchange(query, edns.then_some(query.dnssec_ok)).await;
        if edns {
            match &response {
                // A resolver from before 1999 does not know EDNS and says so (RFC 6891 section 7), or speaks it badly.
                Ok(refused) if refuses_edns(refused) => response = self.without_edns(query).await,
                Err(Failed::Answer { .. }) => response = self.without_edns(query).await,
                Ok(_) => self.plain.edns_was_heard(),
                Err(_) => {}
            }
        }
        match &response {
            Ok(_) => self.blend(start.elapsed()),
            Err(_) => self.failed(),
        }
        response
    }

    async fn without_edns(&self, query: Query<'_>) -> Result<Response, Failed> {
        let response = self.exchange(query, None).await;
        if response.as_ref().is_ok_and(settles) {
            self.plain.edns_was_refused(Instant::now());
        }
        response
    }

    async fn exchange(&self, query: Query<'_>, edns: Option<bool>) -> Result<Response, Failed> {
        let id = random_id();
        let message = wire::query(id, query.question, edns, query.checking_disabled);
        let io = |source| Failed::Io { upstream: self.address.clone(), source };
        let bad = |source| Failed::Answer { upstream: self.address.clone(), source };
        if let Address::Unix(path) = &self.address {
            let stream = UnixStream::connect(path).await.map_err(io)?;
            return whole(&framed(stream, &message, id).await.map_err(io)?, id, query.question).map_err(bad);
        }
        let socket = self.datagrams().await.map_err(io)?;
        let response = udp(&socket, &message, id, query.question).await.map_err(io)?.map_err(bad)?;
        // Given up before the connection, which may take its time: it is a descriptor.
        drop(socket);
        if !response.truncated {
            return Ok(response);
        }
        let stream = self.connection().await.map_err(io)?;
        whole(&framed(stream, &message, id).await.map_err(io)?, id, query.question).map_err(bad)
    }

    async fn datagrams(&self) -> io::Result<UdpSocket> {
        match &self.address {
            Address::Net(at) => {
                let any: SocketAddr = match at {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(at).await?;
                Ok(socket)
            }
            other => UdpSocket::from_std(other.opened(Kind::Udp).await?.into()),
        }
    }

    async fn connection(&self) -> io::Result<TcpStream> {
        match &self.address {
            Address::Net(at) => TcpStream::connect(at).await,
            // Writing waits until it stands, or says why it does not.
            other => TcpStream::from_std(other.opened(Kind::Tcp).await?.into()),
        }
    }

    fn blend(&self, took: Duration) {
        let took = u64::try_from(took.min(EXPECTED_DELAY_MAX).as_micros()).unwrap_or(u64::MAX);
        let before = self.smoothed.load(Ordering::Relaxed);
        let after = if before == 0 { took } else { (before * 7 + took) / 8 };
        self.smoothed.store(after, Ordering::Relaxed);
    }
}

impl Address {
    async fn opened(&self, kind: Kind) -> io::Result<std::os::fd::OwnedFd> {
        match self {
            Self::Host { nameserver, port, opener } => {
                outside::ask(opener, &Wanted { kind, nameserver: nameserver.clone(), port: *port }).await
            }
            Self::Net(_) | Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(at) => at.fmt(f),
            Self::Host { nameserver, port: 53, .. } => write!(f, "{nameserver} of the host"),
            Self::Host { nameserver, port, .. } => write!(f, "{nameserver} port {port} of the host"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
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

/// Whether an answer settles the question; others may know better than one that failed, or that speaks of something else.
pub fn settles(response: &Response) -> bool {
    matches!(response.rcode, rcode::NOERROR | rcode::NXDOMAIN) && !response.beside
}

fn refuses_edns(response: &Response) -> bool {
    matches!(response.rcode, rcode::FORMERR | rcode::NOTIMP | rcode::BADVERS)
}

const EXPECTED_DELAY_MAX: Duration = Duration::from_secs(4);
