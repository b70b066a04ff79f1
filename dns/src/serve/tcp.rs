//! Connections (RFC 7766): queries are answered as their answers come, several at once.
//!
//! Nobody holds a place without using it: a connection without a query is closed, and so is one whose message does not become
//! whole in time, however steadily its octets come. One source has few places.
//!
//! A stop closes a connection only when nothing has come for a while, so that a client in the middle of a series, or one that
//! has connected and not asked yet, is not cut off; the deadline of the process is the end of that.

use super::{Outcome, Server};
use crate::answer::Transport;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Serves until it is told to stop. Connections are tasks of `tasks`.
pub async fn serve(listener: TcpListener, server: Arc<Server>, tasks: TaskTracker, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Cancel-safe: a place that is not taken is given back, a connection not accepted stays in the backlog.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, from)), place) => {
                let Some(share) = server.connected.take(from.ip()) else {
                    server.metrics.connections_refused.fetch_add(1, Relaxed);
                    continue;
                };
                let (server, stop) = (server.clone(), stop.clone());
                tasks.spawn(async move {
                    let _held = (place, share);
                    server.metrics.connections.fetch_add(1, Relaxed);
                    if let Err(error) = converse(stream, from, &server, &stop).await {
                        tracing::debug!(%error, %from, "a connection ended");
                    }
                    server.metrics.connections.fetch_sub(1, Relaxed);
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of descriptors: they come back when connections end.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    from: SocketAddr,
    server: &Server,
    stop: &CancellationToken,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let (mut input, mut output) = stream.into_split();
    let mut read = Vec::with_capacity(1024);
    let mut waiting = FuturesUnordered::new();
    let mut open = true;
    // Since when what is read is no whole message; since when nobody has said anything.
    let (mut begun, mut quiet) = (None, Instant::now());
    loop {
        while waiting.len() < AT_ONCE
            && let Some(packet) = next_message(&mut read)
        {
            (begun, quiet) = (None, Instant::now());
            let at = server.snapshots.borrow().clone();
            match server.take(&packet, from, Transport::Tcp, &at) {
                // Whoever sends what cannot be answered, in a connection, sends nothing better after it.
                Outcome::Silence => return Ok(()),
                Outcome::Reply(reply, _) | Outcome::Kept(reply, ..) => write(&mut output, &reply).await?,
                Outcome::Wait(query) => waiting.push(server.wait(query)),
            }
        }
        if !open && waiting.is_empty() {
            return Ok(());
        }
        let reads = open && waiting.len() < AT_ONCE;
        if reads && begun.is_none() && !read.is_empty() {
            begun = Some(Instant::now());
        }
        let idle = if stop.is_cancelled() { STOPPING_IDLE_TIMEOUT } else { IDLE_TIMEOUT };
        let until = begun.map_or(quiet + idle, |begun| begun + MESSAGE_TIMEOUT);
        // Cancel-safe: `next` keeps what is waited for, `read_buf` keeps what it has read in `read`.
        tokio::select! {
            Some(reply) = waiting.next() => {
                write(&mut output, &reply).await?;
                quiet = Instant::now();
            }
            count = input.read_buf(&mut read), if reads => open = count? > 0,
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            // Whoever waits for an answer may be quiet; what it has asked is answered even if it sends rubbish after it.
            () = tokio::time::sleep_until(until), if reads && (begun.is_some() || waiting.is_empty()) => open = false,
        }
    }
}

fn next_message(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [high, low, rest @ ..] = read.as_slice() else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let message = rest.get(..length)?.to_vec();
    read.drain(..2 + length);
    Some(message)
}

/// In one piece, so that it is one segment.
async fn write(output: &mut tokio::net::tcp::OwnedWriteHalf, reply: &[u8]) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(reply.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(reply);
    timeout(WRITE_TIMEOUT, output.write_all(&framed)).await?
}

const CONNECTIONS: usize = 256;
/// Queries of one connection that wait at the same time.
const AT_ONCE: usize = 32;
/// RFC 7766 section 6.2.3: "of the order of a few seconds".
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has connected asks by then.
const STOPPING_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// From the first octet of a message to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
