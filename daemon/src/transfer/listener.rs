//! The transfer listener on this machine's overlay address: made inside the namespace, made again when the namespace is.
//!
//! A connection comes from a member, shows its ticket at once and is handed to whoever waits for it. Any other is closed
//! without a word.

use crate::network::context::Network;
use crate::network::listener::until_moved;
use crate::node::environment::NETNS;
use crate::reach;
use crate::transfer::context::Transfers;
use crate::transfer::frame::{self, Frame};
use ployz_core::wire::v1::image::{Opening, TRANSFER_VERSION};
use ployz_netns::namespace;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Listens, for ever.
pub async fn run(mesh: Arc<Network>, transfers: Arc<Transfers>) {
    let port = mesh.shared.around.config.zfs_transfer_port;
    loop {
        if let Some(id) = mesh.usable_netns() {
            let at = SocketAddrV6::new(mesh.network().machine.overlay_ip, port, 0, 0);
            match reach::listen(&namespace::path(NETNS), at) {
                // Cancel-safe: connections that nobody has taken over are closed, and made again by the other end.
                Ok(listener) => tokio::select! {
                    () = serve(&mesh, &transfers, &listener) => {}
                    () = until_moved(&mesh, id) => {}
                },
                Err(error) => tracing::debug!(address = %at, %error, "cannot listen"),
            }
        }
        tokio::time::sleep(BIND_RETRY_DELAY).await;
    }
}

async fn serve(mesh: &Arc<Network>, transfers: &Arc<Transfers>, listener: &TcpListener) {
    let mut opening = JoinSet::new();
    loop {
        // Cancel-safe: a connection is either taken or still in the listener's queue.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = opening.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a transfer connection");
                tokio::time::sleep(BIND_RETRY_DELAY).await;
                continue;
            }
        };
        let Ok(permit) = transfers.opening.clone().try_acquire_owned() else {
            transfers.refuse();
            continue;
        };
        let (mesh, transfers) = (mesh.clone(), transfers.clone());
        opening.spawn(async move {
            let _permit = permit;
            if let Err(why) = open(&mesh, &transfers, stream, from).await {
                transfers.refuse();
                tracing::info!(from = %from.ip(), error = why, "transfer connection refused");
            }
        });
    }
}

async fn open(
    mesh: &Network,
    transfers: &Transfers,
    mut stream: TcpStream,
    from: SocketAddr,
) -> Result<(), String> {
    let IpAddr::V6(address) = from.ip() else { return Err("it is not from the overlay".into()) };
    let machines = mesh.peers.borrow().machines.clone();
    let member = machines.into_iter().find(|machine| machine.overlay_ip == address);
    let member = member.ok_or("it is not from a member")?.id;
    let shown = match tokio::time::timeout(TICKET_TIMEOUT, frame::read(&mut stream, OPENING)).await {
        Err(_) => return Err(format!("no ticket within {}s", TICKET_TIMEOUT.as_secs())),
        Ok(Ok(Some(Frame::Word(word)))) => serde_json::from_slice::<Opening>(&word),
        Ok(Ok(_)) => return Err("no ticket".into()),
        Ok(Err(error)) => return Err(error.to_string()),
    };
    let shown = shown.map_err(|_| "invalid hello")?;
    if shown.version != TRANSFER_VERSION {
        return Err(format!("unsupported version {}", shown.version));
    }
    let wait = transfers.tickets.take(&shown.ticket, &member, Instant::now());
    let wait = wait.ok_or_else(|| format!("{member} sent an invalid ticket"))?;
    wait.send(stream).map_err(|_| "the request for it has ended".to_owned())
}

const BIND_RETRY_DELAY: Duration = Duration::from_millis(200);
/// From the connection to its ticket.
const TICKET_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the opening.
const OPENING: usize = 1024;
