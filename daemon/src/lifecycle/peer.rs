//! What this machine answers when another asks about the network itself.

use crate::network::context::Network;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::peer::{PeerAnswer, PeerCommand};
use ployz_nats::rpc::{self, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Answers a command. `run` names this run of ployzd in the network.
pub fn take(mesh: &Arc<Network>, run: &str, request: Request) {
    let (mesh, run) = (mesh.clone(), run.to_owned());
    // What is more than a ping asks Docker and the kernel.
    let place = AT_ONCE.try_acquire();
    tokio::spawn(async move {
        let (answer, leaves) = match serde_json::from_slice(&request.payload) {
            Ok(command) if command != PeerCommand::Ping && place.is_err() => {
                (PeerAnswer::no("too many commands at a time"), false)
            }
            Ok(command) => {
                let leaves = matches!(command, PeerCommand::ExecuteDestroy { .. });
                let answer = handle(&mesh, command, &run).await;
                let leaves = leaves && answer.ok;
                (answer, leaves)
            }
            Err(error) => (PeerAnswer::no(format!("unknown command: {error}")), false),
        };
        drop(place);
        let asker = request.reply.machine();
        request.reply.send(&answer).await;
        if leaves {
            delivered(&mesh, asker).await;
            mesh.leave.notify_one();
        }
    });
}

/// Returns when the answer before this has reached the asker, or after a while: the tunnel it goes through is taken down next.
/// A ping of the asker takes the same connections, in order, and is answered after it. The asker itself may leave right after its
/// last answer, and then answers no ping.
async fn delivered(mesh: &Network, asker: Option<MachineId>) {
    let store = mesh.store.borrow().clone();
    let (Some(store), Some(asker)) = (store, asker) else { return };
    if let Err(error) = rpc::ping(&store, &asker, DELIVERY_TIMEOUT).await {
        tracing::debug!(machine = %asker, %error, "the answer may not have arrived");
    }
}

async fn handle(mesh: &Arc<Network>, command: PeerCommand, run: &str) -> PeerAnswer {
    let own = mesh.network().id;
    match command {
        PeerCommand::Ping => PeerAnswer { run: Some(run.to_owned()), ..PeerAnswer::yes() },
        PeerCommand::PrepareDestroy { network } | PeerCommand::ExecuteDestroy { network }
            if network != own =>
        {
            PeerAnswer::no("NETWORK_MISMATCH: this machine is in another network")
        }
        PeerCommand::PrepareDestroy { .. } => no_workloads(mesh).await.err().unwrap_or(PeerAnswer::yes()),
        PeerCommand::ExecuteDestroy { .. } => {
            if let Err(refusal) = no_workloads(mesh).await {
                return refusal;
            }
            // On disk before the answer: a daemon that dies now finishes it at its next start.
            match mesh.change_network(|network| network.lifecycle = crate::state::Stored::Leaving) {
                Err(error) => PeerAnswer::no(ployz_core::text::chain(&error)),
                Ok(_) => {
                    tracing::warn!(
                        target: "audit",
                        network = %mesh.network().name,
                        "destroying the network at a peer's request"
                    );
                    PeerAnswer::yes()
                }
            }
        }
    }
}

async fn no_workloads(mesh: &Network) -> Result<(), PeerAnswer> {
    match super::workloads(mesh).await {
        Some(0) => Ok(()),
        Some(n) => Err(PeerAnswer::no(format!("WORKLOADS_RUNNING: {n} workloads depend on the overlay"))),
        None => Err(PeerAnswer::no("WORKLOADS_RUNNING: its workloads cannot be counted")),
    }
}

/// Commands that are carried out at a time; one operator asks for one.
static AT_ONCE: Semaphore = Semaphore::const_new(16);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);
