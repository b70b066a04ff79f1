//! `mesh destroy`: on every machine or on none, and this machine's own part of it.

use crate::deploy::context::Deploys;
use crate::failure::{Failure, Result, io_code};
use crate::lifecycle::Daemon;
use crate::network::context::Network;
use crate::progress::Say;
use crate::state::{DiskError, NetworkFile, Removal, Stored};
use ployz_core::id::{NetworkName, OperationId};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::peer::PeerCommand;
use ployz_core::wire::v1::record::{DestroyRecord, MachineMembership};
use ployz_core::wire::v1::subject;
use ployz_host::clock;
use ployz_nats::rpc;
use std::sync::Arc;
use std::time::Duration;

impl Daemon {
    /// `mesh destroy`.
    pub async fn destroy(&self, name: &NetworkName, local: bool, say: Say<'_>) -> Result<()> {
        let _alone = self.exclusive.lock().await;
        let (network, _) = self.load(name)?;
        let mesh = self.current().filter(|mesh| mesh.network().name == *name);
        if let (Some(mesh), false) = (&mesh, local) {
            // The others take it from the bootstrap node alone: root on one machine does not own the network.
            if network.lifecycle != Stored::Leaving && !network.is_founder() {
                let message = format!("the bootstrap node of network {name} is {}", network.founder.id);
                return Err(Failure::new(ErrorCode::MeshDestroyNotAllowed, message));
            }
            self.no_workloads(mesh).await?;
            destroy_peers(mesh, say).await?;
        } else if !local
            // The peers of one that is being destroyed already were told, or need not be.
            && network.lifecycle != Stored::Leaving
            && self.shared.disk.peers(name)?.machines.iter().any(|m| m.id != network.machine.id)
        {
            let message = format!(
                "network {name} has other members and is not running here, so they cannot be notified"
            );
            return Err(Failure::new(ErrorCode::MeshDestroyPeersUnreachable, message));
        }
        if let (Some(_), true, Ok(rooms)) = (&mesh, local, self.rooms()) {
            withdraw(&rooms.deploys).await;
        }
        say("removing this machine's part");
        self.remove_local(name, mesh, Removal::Delete).await
    }

    /// A peer destroyed the network, and has this machine's answer.
    pub async fn leave(&self, mesh: Arc<Network>) {
        let _alone = self.exclusive.lock().await;
        if !self.is_current(&mesh) {
            return;
        }
        let name = mesh.network().name;
        match self.remove_local(&name, Some(mesh), Removal::SetAside).await {
            Ok(()) => tracing::warn!(target: "audit", network = %name, "network destroyed"),
            Err(failure) => {
                tracing::error!(
                    network = %name,
                    code = %failure.code,
                    causes = failure.causes.join("; "),
                    error = %failure,
                    "cannot remove the destroyed network"
                )
            }
        }
    }

    /// Removes a network from this machine. The record says so first and goes last, so that what is cut short is
    /// finished by the next start, and what failed can be repeated.
    pub(super) async fn remove_local(
        &self,
        name: &NetworkName,
        mesh: Option<Arc<Network>>,
        removal: Removal,
    ) -> Result<()> {
        match &mesh {
            Some(mesh) => {
                let written = mesh.change_network(|network| network.lifecycle = Stored::Leaving);
                recorded(name, written.map(drop))?;
                let left = self.take_down(mesh).await;
                if !left.is_empty() {
                    let message = "some components could not be taken down";
                    return Err(Failure::new(ErrorCode::NetworkDestroyFailed, message).with(left));
                }
                self.shared.disk.set_active(None)?;
            }
            None if self.shared.disk.active()?.as_ref() == Some(name) => {
                let (network, keys) = self.load(name)?;
                let network = NetworkFile { lifecycle: Stored::Leaving, ..network };
                recorded(name, self.shared.disk.put_network(&network))?;
                self.finish_stop(&network, &keys, removal).await.map_err(destroy_failed)?;
            }
            None => {}
        }
        if self.held_reason().is_some_and(|(held, _)| held == *name) {
            self.no_longer_held();
        }
        Ok(removal.apply(&self.shared.disk, name)?)
    }
}

/// To destroy makes room, so a full disk does not keep from it; and the peers may have their command already.
fn recorded(name: &NetworkName, written: std::result::Result<(), DiskError>) -> Result<()> {
    match written {
        Err(error) if io_code(&error) == ErrorCode::DiskFull => {
            tracing::warn!(
                network = %name,
                error = %ployz_core::text::chain(&error),
                "cannot record the destroy, continuing"
            );
            Ok(())
        }
        other => Ok(other?),
    }
}

fn destroy_failed(failure: Failure) -> Failure {
    match failure.code {
        ErrorCode::NetworkStopFailed => Failure { code: ErrorCode::NetworkDestroyFailed, ..failure },
        _ => failure,
    }
}

/// All peers prepare, then all execute: the founder last, because everybody's commands go through it.
async fn destroy_peers(mesh: &Arc<Network>, say: Say<'_>) -> Result<()> {
    let network = mesh.network();
    let mut peers: Vec<MachineMembership> =
        mesh.peers.borrow().machines.iter().filter(|peer| peer.id != network.machine.id).cloned().collect();
    if peers.is_empty() {
        return Ok(());
    }
    peers.sort_by_key(|peer| peer.id == network.founder.id);
    let away = || {
        Failure::new(
            ErrorCode::StoreUnavailable,
            "the store is not connected, so the peers cannot be notified",
        )
    };
    let store = mesh.store.borrow().clone().ok_or_else(away)?;
    say("asking every peer");
    let record = DestroyRecord {
        id: OperationId::from_bytes(ployz_host::random::bytes()),
        by: network.machine.id.clone(),
        expires_at: clock::now() + DECISION_TTL.as_secs(),
    };
    let revision = store.put_destroy_record(&record).await?;
    let command = PeerCommand::PrepareDestroy { network: network.id.clone(), id: Some(record.id.clone()) };
    let asked =
        peers.iter().map(|peer| async { (peer.id.clone(), rpc::ask(&store, &peer.id, &command).await) });
    let refused: Vec<String> = futures_util::future::join_all(asked)
        .await
        .into_iter()
        .filter_map(|(id, answer)| match answer {
            Ok(answer) if answer.ok => None,
            Ok(answer) => Some(format!("{id}: {}", answer.message)),
            Err(error) => Some(format!("{id}: {error}")),
        })
        .collect();
    if !refused.is_empty() {
        // Left there it counts for nothing either, in a while.
        if let Err(error) = store.unlock(subject::DESTROY_LOCK, revision).await {
            tracing::warn!(network = %network.name, %error, "cannot take the decision to destroy back");
        }
        let message = "some peers cannot take part; nothing was changed";
        return Err(Failure::new(ErrorCode::MeshDestroyPeersUnreachable, message).with(refused));
    }
    say("destroying on every peer");
    let command = PeerCommand::ExecuteDestroy { network: network.id.clone(), id: Some(record.id) };
    let mut failed = Vec::new();
    for peer in &peers {
        match rpc::ask(&store, &peer.id, &command).await {
            Ok(answer) if answer.ok => {}
            Ok(answer) => failed.push(format!("{}: {}", peer.id, answer.message)),
            Err(error) => failed.push(format!("{}: {error}", peer.id)),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::MeshDestroyPeerExecuteFailed, "some peers did not confirm").with(failed))
}

/// Takes this machine out of everybody's routes when the rest of the network goes on; best effort, because it is left
/// even when nobody can be told.
async fn withdraw(deploys: &Deploys) {
    let mesh = &deploys.network;
    let (store, network) = (mesh.store.borrow().clone(), mesh.network());
    let Some(store) = store else { return };
    let work = async {
        crate::deploy::agent::publish::withdraw(deploys, &store).await?;
        crate::network::routes::withdraw(&store, &network).await
    };
    match tokio::time::timeout(WITHDRAW_TIMEOUT, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(
                network = %network.name,
                error = %ployz_core::text::chain(&error),
                "cannot withdraw this machine's route"
            )
        }
        Err(_) => {
            tracing::warn!(
                network = %network.name,
                timeout_secs = WITHDRAW_TIMEOUT.as_secs(),
                "timed out withdrawing this machine's route"
            )
        }
    }
}

/// How long the decision to destroy counts: every machine is asked within it.
const DECISION_TTL: Duration = Duration::from_secs(600);
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(2);
