//! Connections to backends that wait for their next request, and new ones.
//!
//! One is only put here when both directions are at the end of a message, and only taken when nothing came in while it
//! waited: bytes that no request asked for end it, and are counted.

use crate::backend::{Backend, CONNECT_TIMEOUT, IDLE_TIMEOUT};
use crate::proxy::Shared;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Idle connections of one worker.
pub(crate) struct Pool {
    idle: Mutex<HashMap<SocketAddrV4, Vec<Idle>>>,
    shared: Arc<Shared>,
}

struct Idle {
    stream: TcpStream,
    since: Instant,
}

/// What is on a connection that nothing was asked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Quiet,
    Closed,
    Spoke,
}

impl Pool {
    /// One without connections.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { idle: Mutex::default(), shared }
    }

    /// An idle connection to a backend that is fit for a request.
    pub fn take(&self, backend: &Backend) -> Option<TcpStream> {
        let mut idle = self.idle.lock();
        let waiting = idle.get_mut(&backend.address())?;
        // The one that was used last has the best chance to be alive still.
        while let Some(Idle { stream, since }) = waiting.pop() {
            if since.elapsed() < IDLE_TIMEOUT && self.is_quiet(&stream, backend) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless its backend was caught speaking out of turn.
    pub fn put(&self, backend: &Backend, stream: TcpStream) {
        if backend.is_distrusted() {
            return;
        }
        let mut idle = self.idle.lock();
        let waiting = idle.entry(backend.address()).or_default();
        if waiting.len() < MOST {
            waiting.push(Idle { stream, since: Instant::now() });
        }
    }

    /// A new connection to a backend.
    pub async fn connect(&self, backend: &Backend) -> io::Result<TcpStream> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend.address()))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
        Ok(stream)
    }

    /// Whether nothing came on a connection before anything is asked on it.
    pub fn is_quiet(&self, stream: &TcpStream, backend: &Backend) -> bool {
        let line = line(stream);
        if line == Line::Spoke {
            self.spoke_out_of_turn(backend);
        }
        line == Line::Quiet
    }

    /// Counts what nothing asked for, and keeps no connection to that backend for a while: its next answer out of turn
    /// may come when the next client is on the connection.
    pub fn spoke_out_of_turn(&self, backend: &Backend) {
        self.shared.counters.out_of_turn.fetch_add(1, Ordering::Relaxed);
        backend.distrust();
    }

    /// Closes what has waited for too long and what the other side closed.
    pub fn sweep(&self) {
        self.idle.lock().retain(|_, waiting| {
            waiting.retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT && line(&idle.stream) != Line::Closed);
            !waiting.is_empty()
        });
    }
}

/// Asks the kernel, not the runtime: that one learns of new bytes only when it looks at its events.
fn line(stream: &TcpStream) -> Line {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Line::Closed,
        Ok(_) => Line::Spoke,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Line::Quiet,
        Err(_) => Line::Closed,
    }
}

/// How often idle connections are looked through.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// To one backend, from one worker: as many as a heavily loaded one has requests under way.
const MOST: usize = 512;
/// Tunnels and streams of events wait for ever; this tells them of a machine that vanished without a word.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(3);
