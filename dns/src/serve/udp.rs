//! Datagrams. Several loops share one socket, so that a replacement can too: with `SO_REUSEPORT` what is queued at a socket
//! that closes is lost.
//!
//! A stop is heard between two datagrams: what was taken off the socket is answered, what was not stays for the next
//! process.

use super::packets::Packets;
use super::{Outcome, Server};
use crate::answer::Transport;
use crate::metrics::Origin;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Serves until it is told to stop. Replies that are waited for are tasks of `tasks`.
pub async fn serve(socket: Arc<UdpSocket>, server: Arc<Server>, tasks: TaskTracker, stop: CancellationToken) {
    let mut buffer = vec![0; BUFFER];
    let mut packets = Packets::default();
    let mut snapshots = server.snapshots.clone();
    let mut at = snapshots.borrow_and_update().clone();
    loop {
        // Cancel-safe: readiness takes nothing off the socket, and a change is still to be seen.
        let ready = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ready = socket.readable() => ready,
            // A loop that nobody asks must not keep a zone that is served no more: it is megabytes.
            Ok(()) = snapshots.changed() => {
                at = snapshots.borrow_and_update().clone();
                packets.renew(&at);
                continue;
            }
        };
        if let Err(error) = ready {
            tracing::error!(%error, "cannot wait for a UDP socket");
            return;
        }
        for _ in 0..BATCH {
            if stop.is_cancelled() {
                return;
            }
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An ICMP error for something sent earlier; says nothing about this socket.
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a datagram");
                    continue;
                }
            };
            if snapshots.has_changed().unwrap_or(false) {
                at = snapshots.borrow_and_update().clone();
            }
            let since = Instant::now();
            let query = &buffer[..length];
            if let Some((reply, origin)) = packets.find(query, from.ip(), &at, since) {
                if origin == Origin::Kept {
                    server.forwarder.counts.hits.fetch_add(1, Relaxed);
                }
                server.metrics.count(reply, origin, since.elapsed());
                send(&socket, &server, reply, from).await;
                continue;
            }
            match server.take(query, from, Transport::Udp, &at) {
                Outcome::Silence => {}
                Outcome::Reply(reply, origin) => {
                    if origin == Origin::Own {
                        packets.keep(&reply);
                    }
                    send(&socket, &server, &reply, from).await;
                }
                Outcome::Kept(reply, ask, entry) => {
                    packets.remember(ask, entry);
                    send(&socket, &server, &reply, from).await;
                }
                Outcome::Wait(waiting) => {
                    let (socket, server) = (socket.clone(), server.clone());
                    tasks.spawn(async move {
                        let reply = server.wait(waiting).await;
                        send(&socket, &server, &reply, from).await;
                    });
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, server: &Server, reply: &[u8], to: std::net::SocketAddr) {
    let sent = match socket.try_send_to(reply, to) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => socket.send_to(reply, to).await,
        other => other,
    };
    if let Err(error) = sent {
        server.metrics.unsent.fetch_add(1, Relaxed);
        tracing::debug!(%error, %to, "cannot send a reply");
    }
}

/// A query that is larger than any that makes sense is cut and then does not parse.
const BUFFER: usize = 4096;
/// Datagrams between two looks at the other tasks.
const BATCH: usize = 64;
