//! A place that serves a route, and what was learnt of it: one that refuses connections is put aside for a while.

use crate::clock;
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::HttpPeer;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A backend. It outlives the table it came from, so that what is known of it survives a change elsewhere.
pub struct Backend {
    address: SocketAddrV4,
    /// Made once: a peer is copied for every request, and copying is cheaper than making.
    peer: HttpPeer,
    aside_until: AtomicU64,
    distrusted_until: AtomicU64,
}

impl Backend {
    /// One that nothing is known of.
    pub fn new(address: SocketAddrV4) -> Self {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.write_timeout = Some(WRITE_TIMEOUT);
        peer.options.idle_timeout = Some(IDLE_TIMEOUT);
        peer.options.tcp_keepalive = Some(KEEPALIVE);
        peer.options.h2_ping_interval = Some(PING_INTERVAL);
        Self { address, peer, aside_until: AtomicU64::new(0), distrusted_until: AtomicU64::new(0) }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// How Pingora reaches it.
    pub fn peer(&self) -> HttpPeer {
        self.peer.clone()
    }

    /// It did not take a connection: others are asked first for a while.
    pub fn put_aside(&self) {
        self.aside_until.store(clock::millis() + ASIDE_DURATION.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether others should be asked first.
    pub fn is_aside(&self) -> bool {
        is_ahead(&self.aside_until)
    }

    /// It sent bytes that no request asked for: for a while every request has a connection of its own.
    pub fn distrust(&self) {
        self.distrusted_until
            .store(clock::millis() + DISTRUST_DURATION.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether its connections are used for one request only.
    pub fn is_distrusted(&self) -> bool {
        is_ahead(&self.distrusted_until)
    }
}

fn is_ahead(until: &AtomicU64) -> bool {
    let until = until.load(Ordering::Relaxed);
    until != 0 && until > clock::millis()
}

/// A first SYN that is lost is sent again after one second (RFC 6298 section 2.1); this leaves room for that.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a write to a backend.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// For how long a connection without a request is kept.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Tunnels and streams wait for ever; this tells them of a machine that vanished without a word.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 3,
    user_timeout: Duration::ZERO,
};
const PING_INTERVAL: Duration = Duration::from_secs(30);
const ASIDE_DURATION: Duration = Duration::from_secs(5);
const DISTRUST_DURATION: Duration = Duration::from_secs(60);
