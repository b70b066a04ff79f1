//! Follows where deploys stand: takes in how committed services are asked whether they are ready, settles what this
//! machine owes, and goes on with deploys of this machine that were cut off.

use crate::deploy::agent::pending;
use crate::deploy::context::Deploys;
use crate::deploy::coordinator::requests;
use futures_util::StreamExt;
use ployz_core::id::Namespace;
use ployz_core::wire::v1::deploy::{DeployCommit, DeployStatus};
use ployz_nats::bucket::Change;
use ployz_nats::deploys::Records;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Follows for as long as the network runs here.
pub async fn run(deploys: Arc<Deploys>) {
    let mut stores = deploys.network.store.subscribe();
    loop {
        let store = stores.borrow_and_update().clone();
        if let Some(store) = store {
            // Cancel-safe: a new session reads everything again.
            tokio::select! {
                changed = stores.changed() => if changed.is_err() { return } else { continue },
                ended = follow(&deploys, &store) => if let Err(error) = ended {
                    tracing::debug!(%error, "cannot follow deploys");
                },
            }
            tokio::time::sleep(RETRY_DELAY).await;
        } else if stores.changed().await.is_err() {
            return;
        }
    }
}

async fn follow(
    deploys: &Arc<Deploys>,
    store: &ployz_nats::store::Store,
) -> Result<(), ployz_nats::bucket::StoreError> {
    let records = Records::open(store).await?;
    let mut changes = pin!(records.watch().await?);
    let mut known: BTreeMap<String, DeployStatus> = BTreeMap::new();
    let mut look = tokio::time::interval(PENDING_INTERVAL);
    let mut settling = None;
    loop {
        // Cancel-safe: streams, intervals and notifications lose nothing when another arm wins.
        tokio::select! {
            change = changes.next() => match change {
                None => return Ok(()),
                Some(Change::Put(key, status)) => {
                    if let Err(error) = take_in(deploys, &records, &status).await {
                        tracing::warn!(
                            namespace = %status.namespace,
                            deploy = %status.deploy,
                            %error,
                            "cannot read the commit"
                        );
                    }
                    known.insert(key, status);
                    settle_pending(deploys, &known, &mut settling);
                }
                Some(Change::Gone(key)) => drop(known.remove(&key)),
                Some(Change::Caught) => recover(deploys, &known),
                Some(Change::Unreadable(_) | Change::Hiccup(_)) => {}
            },
            _ = look.tick() => {
                recover(deploys, &known);
                settle_pending(deploys, &known, &mut settling);
            }
            () = deploys.local.unfinished.notified() => look.reset(),
        }
    }
}

/// What was committed is how instances are asked from now on: readiness may change without a new container.
async fn take_in(
    deploys: &Deploys,
    records: &Records,
    status: &DeployStatus,
) -> Result<(), ployz_nats::bucket::StoreError> {
    // What is not known cannot be changed; the log says so elsewhere.
    let known = deploys.local.read().unwrap_or_default();
    if !known.instances.iter().any(|kept| kept.owner.namespace == status.namespace) {
        return Ok(());
    }
    let Some(commit) = records.committed(status).await? else { return Ok(()) };
    let changed = deploys.local.change(|file| {
        file.instances.iter_mut().filter(|kept| kept.owner.namespace == commit.namespace).for_each(|kept| {
            if let Some(service) = committed(&commit, &kept.owner) {
                kept.service = service.clone();
            }
        });
    });
    if let Err(error) = changed {
        tracing::warn!(
            namespace = %status.namespace,
            deploy = %status.deploy,
            error = %ployz_core::text::chain(&error),
            "cannot write the committed services to disk"
        );
    }
    Ok(())
}

fn committed<'a>(
    commit: &'a DeployCommit,
    owner: &ployz_core::spec::container::ContainerOwner,
) -> Option<&'a ployz_core::wire::v1::manifest::Service> {
    let committed = commit.services.get(&owner.service)?;
    let current = committed.slots.get(&owner.slot).is_some_and(|placed| placed.instance == owner.instance);
    (current && committed.revision == owner.revision).then_some(&committed.service)
}

/// Settles what this machine owes, beside everything else; a look that comes meanwhile leaves it to the next.
fn settle_pending(
    deploys: &Arc<Deploys>,
    known: &BTreeMap<String, DeployStatus>,
    settling: &mut Option<JoinHandle<()>>,
) {
    let owing: Vec<DeployStatus> =
        known.values().filter(|status| !status.debts.is_empty()).cloned().collect();
    if !owing.is_empty() && settling.as_ref().is_none_or(JoinHandle::is_finished) {
        *settling = Some(tokio::spawn(pending::settle_pending(deploys.clone(), owing)));
    }
}

/// Goes on with what this machine began and nobody brought to its end.
fn recover(deploys: &Arc<Deploys>, known: &BTreeMap<String, DeployStatus>) {
    let own = deploys.network.network().machine.id;
    let cut_off = known.values().filter(|status| !status.phase.is_final() && status.coordinator == own);
    for status in cut_off {
        tokio::spawn(recover_one(deploys.clone(), status.namespace.clone()));
    }
}

async fn recover_one(deploys: Arc<Deploys>, namespace: Namespace) {
    let cancel = deploys.network.cancel.clone();
    let log = |line: &str| tracing::info!(%namespace, progress = line, "recovering an interrupted deploy");
    // Cancel-safe: as if the daemon had been killed there.
    let done = tokio::select! {
        () = cancel.cancelled() => return,
        done = requests::recover(&deploys, &namespace, &log) => done,
    };
    if let Err(failure) = done {
        tracing::warn!(
            %namespace,
            code = %failure.code,
            causes = failure.causes.join("; "),
            error = %failure,
            "cannot recover an interrupted deploy"
        );
    }
}

const RETRY_DELAY: Duration = Duration::from_secs(2);
const PENDING_INTERVAL: Duration = Duration::from_secs(10);
