//! What this machine still owes of deploys that were over without it: done as soon as it reads of it.

use crate::deploy::agent::container::{failed, not_kept};
use crate::deploy::agent::instances::Local;
use crate::deploy::agent::ops::{remove_container, start_again, tombstone};
use crate::deploy::context::Deploys;
use crate::state::instances::InstancesFile;
use ployz_core::id::{MachineId, Namespace};
use ployz_core::wire::v1::deploy::{Debt, DeployFailure, DeployStatus, Owed};
use ployz_engine::docker::{Docker, SOCKET};
use std::path::Path;
use std::sync::Arc;

type Result<T> = std::result::Result<T, DeployFailure>;

/// Settles those of all namespaces; what fails is tried again with the next look.
pub(super) async fn settle_pending(deploys: Arc<Deploys>, statuses: Vec<DeployStatus>) {
    let network = deploys.network.network();
    for status in statuses {
        let done = async {
            if !owes(&deploys.local, &network.machine.id, &status.namespace, &status.debts)? {
                return Ok(());
            }
            let docker = Docker::connect(Path::new(SOCKET), &network.id).await.map_err(failed)?;
            if let Err(error) = crate::deploy::agent::bridge::stand(&deploys.network, &docker).await {
                // What is to be removed needs no network.
                tracing::warn!(
                    namespace = %status.namespace,
                    error = %ployz_core::text::chain(&error),
                    "the Docker network is not up"
                );
            }
            settle(&deploys.local, &docker, &network.machine.id, &status.namespace, &status.debts).await
        };
        // Cancel-safe: as if the daemon had been killed there.
        tokio::select! {
            () = deploys.network.cancel.cancelled() => return,
            done = done => if let Err(failure) = done {
                tracing::warn!(
                    namespace = %status.namespace,
                    error = %failure,
                    "pending cleanup is not done yet"
                );
            },
        }
    }
}

/// Settles this machine's debts in a namespace, each once.
pub(super) async fn settle(
    local: &Local,
    docker: &Docker,
    own: &MachineId,
    namespace: &Namespace,
    debts: &[Debt],
) -> Result<()> {
    for debt in debts.iter().filter(|debt| debt.placed.machine == *own) {
        let instance = &debt.placed.instance;
        if !stands(&local.read().map_err(not_kept)?, namespace, debt) {
            continue;
        }
        match debt.owed {
            Owed::Remove => {
                tombstone(local, namespace, std::slice::from_ref(instance))?;
                remove_container(local, docker, namespace, instance).await?;
                tracing::info!(%namespace, deploy = %debt.deploy, %instance, "removed a leftover instance");
            }
            Owed::Restore => {
                let _turn = local.alone(namespace, instance).await;
                if stands(&local.read().map_err(not_kept)?, namespace, debt) {
                    start_again(local, docker, namespace, instance).await?;
                    tracing::info!(
                        %namespace,
                        deploy = %debt.deploy,
                        %instance,
                        "restarted a stopped instance"
                    );
                }
            }
        }
    }
    Ok(())
}

fn owes(local: &Local, own: &MachineId, namespace: &Namespace, debts: &[Debt]) -> Result<bool> {
    let mut mine = debts.iter().filter(|debt| debt.placed.machine == *own).peekable();
    if mine.peek().is_none() {
        return Ok(false);
    }
    let known = local.read().map_err(not_kept)?;
    Ok(mine.any(|debt| stands(&known, namespace, debt)))
}

/// Whether it is still to be done. Records are carried on by deploys, so one that was settled may be read again.
fn stands(known: &InstancesFile, namespace: &Namespace, debt: &Debt) -> bool {
    let instance = &debt.placed.instance;
    let (kept, removed) = (known.get(namespace, instance), known.is_removed(namespace, instance));
    match debt.owed {
        Owed::Remove => kept.is_some() || !removed,
        Owed::Restore => !removed && kept.is_some_and(|kept| kept.stopped_for.as_ref() == Some(&debt.deploy)),
    }
}
