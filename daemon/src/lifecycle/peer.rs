//! What this machine answers when another asks about the network itself.

use crate::network::context::Network;
use ployz_core::id::{MachineId, OperationId};
use ployz_core::wire::v1::peer::{PeerAnswer, PeerCommand};
use ployz_core::wire::v1::record::DestroyRecord;
use ployz_host::clock;
use ployz_nats::rpc::{self, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Answers a command. `run` names this run of ployzd in the network.
pub fn take(mesh: &Arc<Network>, run: &str, request: Request) {
    let (mesh, run, asker) = (mesh.clone(), run.to_owned(), request.sender.machine.clone());
    // What is more than a ping asks Docker and the kernel.
    let place = AT_ONCE.try_acquire();
    tokio::spawn(async move {
        let (answer, leaves) = match serde_json::from_slice(&request.payload) {
            Ok(command) if command != PeerCommand::Ping && place.is_err() => {
                (PeerAnswer::no("too many commands at a time"), false)
            }
            Ok(command) => {
                let leaves = matches!(command, PeerCommand::ExecuteDestroy { .. });
                let answer = handle(&mesh, &asker, command, &run).await;
                let leaves = leaves && answer.ok;
                (answer, leaves)
            }
            Err(error) => (PeerAnswer::no(format!("unknown command: {error}")), false),
        };
        drop(place);
        request.reply.send(&answer).await;
        if leaves {
            delivered(&mesh, &asker).await;
            mesh.leave.notify_one();
        }
    });
}

/// Returns when the answer before this has reached the asker, or after a while: the tunnel it goes through is taken down next.
/// A ping of the asker takes the same connections, in order, and is answered after it. The asker itself may leave right after its
/// last answer, and then answers no ping.
async fn delivered(mesh: &Network, asker: &MachineId) {
    let store = mesh.store.borrow().clone();
    let Some(store) = store else { return };
    if let Err(error) = rpc::ping(&store, asker, DELIVERY_TIMEOUT).await {
        tracing::debug!(machine = %asker, %error, "the answer may not have arrived");
    }
}

async fn handle(mesh: &Arc<Network>, asker: &MachineId, command: PeerCommand, run: &str) -> PeerAnswer {
    let own = mesh.network().id;
    match command {
        PeerCommand::Ping => PeerAnswer { run: Some(run.to_owned()), ..PeerAnswer::yes() },
        PeerCommand::PrepareDestroy { network, .. } | PeerCommand::ExecuteDestroy { network, .. }
            if network != own =>
        {
            PeerAnswer::no("NETWORK_MISMATCH: this machine is in another network")
        }
        PeerCommand::PrepareDestroy { id, .. } => {
            let Some(id) = id else { return PeerAnswer::no("NOT_ALLOWED: it names no operation") };
            if let Err(refusal) = is_recorded(mesh, asker, &id).await {
                return refusal;
            }
            if let Err(refusal) = no_workloads(mesh).await {
                return refusal;
            }
            mesh.commands.prepare(id);
            PeerAnswer::yes()
        }
        PeerCommand::ExecuteDestroy { id, .. } => {
            if !id.is_some_and(|id| mesh.commands.is_prepared(&id)) {
                return PeerAnswer::no("NOT_PREPARED: this machine was not asked to prepare for it");
            }
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

/// That the store has what an operator of the asking machine decided.
async fn is_recorded(mesh: &Network, asker: &MachineId, id: &OperationId) -> Result<(), PeerAnswer> {
    let away = || PeerAnswer::no("STORE_UNAVAILABLE: the operator's decision cannot be read");
    let store = mesh.store.borrow().clone().ok_or_else(away)?;
    let record = store.destroy_record().await.map_err(|_| away())?.map(|stored| stored.value);
    let holds =
        |record: &DestroyRecord| record.id == *id && record.by == *asker && record.expires_at >= clock::now();
    match record {
        Some(record) if holds(&record) => Ok(()),
        _ => Err(PeerAnswer::no("NOT_ALLOWED: the store has no operator's decision to destroy the network")),
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
