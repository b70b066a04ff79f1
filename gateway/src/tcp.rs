//! A TCP connection, led to a backend of its route: bytes both ways, each direction ended by itself.

use crate::backend::{Backend, CONNECT_TIMEOUT};
use crate::listen::keep_alive;
use crate::metrics::Cause;
use crate::proxy::Shared;
use crate::served::{MOST_TRIES, Served, Tried};
use crate::table::RouteId;
use socket2::SockRef;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Serves one connection that came in on a port, to its end.
pub async fn serve(shared: &Shared, listen: u16, mut client: TcpStream) {
    let served = shared.served.load_full();
    let Some(route) = served.find_tcp(listen) else { return shared.counters.refuse(Cause::NoRoute) };
    let started = Instant::now();
    let Some(mut backend) = connect(shared, &served, route).await else {
        served.count(route, 503, started.elapsed());
        return shared.counters.refuse(Cause::NoBackend);
    };
    shared.counters.active.fetch_add(1, Ordering::Relaxed);
    let _under_way = UnderWay(shared);
    keep_alive(SockRef::from(&backend));
    // Ends when both directions have ended; an end of one is passed on and the other goes on.
    let copied = copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await;
    served.count(route, if copied.is_ok() { 200 } else { 0 }, started.elapsed());
}

async fn connect(shared: &Shared, served: &Served, route: RouteId) -> Option<TcpStream> {
    let mut tried = Tried::default();
    for attempt in 0..MOST_TRIES {
        let (id, backend) = served.pick(route, &tried)?;
        if attempt > 0 {
            shared.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
        tried.add(id);
        match open(backend).await {
            Ok(stream) => return Some(stream),
            Err(_) => backend.put_aside(),
        }
    }
    None
}

async fn open(backend: &Backend) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(backend.address())).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct UnderWay<'s>(&'s Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.counters.active.fetch_sub(1, Ordering::Relaxed);
    }
}

const BUFFER: usize = 32 * 1024;
