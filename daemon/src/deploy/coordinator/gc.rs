//! Forgets decisions on deploys that nothing refers to any more. Only the founder does, with its own store's clock.
//!
//! A namespace's status refers to its own deploy and to the one committed before it; no other decision is ever read
//! (decision 0014), and one that is not referred to now never will be: ids are drawn at random for each deploy. A status that cannot
//! be read refers to anything: then nothing of its namespace is forgotten.

use crate::network::context::Network;
use ployz_core::wire::v1::deploy::DeployStatus;
use ployz_host::clock;
use ployz_nats::bucket::StoreError;
use ployz_nats::deploys::Records;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Looks every few hours, for as long as the network runs here.
pub async fn run(mesh: Arc<Network>) {
    // What was looked at and stays is not looked at again until the next start.
    let mut from = 1;
    loop {
        tokio::time::sleep(GC_INTERVAL).await;
        let Some(store) = mesh.store.borrow().clone().filter(|_| mesh.network().is_founder()) else {
            continue;
        };
        let done = async {
            let records = Records::open(&store).await?;
            prune(&records, clock::now().saturating_sub(DECISION_RETENTION.as_secs()), &mut from).await
        };
        match done.await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(count = forgotten, "deleted old deploy decisions"),
            Err(error) => tracing::warn!(%error, "cannot delete old deploy decisions"),
        }
    }
}

/// Forgets what was decided before `before` (Unix seconds) and is not referred to, from the message `from` on; how many.
async fn prune(records: &Records, before: u64, from: &mut u64) -> Result<usize, StoreError> {
    // Before the decisions: what is committed from here on is too young.
    let referred = referred(&records.statuses().await?, records);
    let mut forgotten = 0;
    for _ in 0..AT_ONCE {
        let Some(decided) = records.decided_from(*from).await? else { break };
        if decided.at >= before {
            break;
        }
        if referred.is_without(&decided.subject) {
            records.forget(decided.sequence).await?;
            forgotten += 1;
        }
        *from = decided.sequence + 1;
    }
    Ok(forgotten)
}

/// The decisions that are still read.
struct Referred {
    /// Subjects of them.
    decisions: BTreeSet<String>,
    /// What the subjects of all decisions of a namespace begin with, for those whose status was read.
    namespaces: BTreeSet<String>,
}

impl Referred {
    /// Whether a namespace's status was read and does not refer to this decision. One of a namespace without a status is
    /// left: a list that broke off is no reason to forget.
    fn is_without(&self, subject: &str) -> bool {
        let namespace = subject.rsplit_once('.').map(|(namespace, _)| namespace);
        namespace.is_some_and(|namespace| self.namespaces.contains(namespace))
            && !self.decisions.contains(subject)
    }
}

fn referred(statuses: &[DeployStatus], records: &Records) -> Referred {
    let of = |status: &DeployStatus| {
        let deploys = [Some(status.deploy.clone()), status.base.clone()].into_iter().flatten();
        deploys.map(|deploy| records.decision_subject(&status.namespace, &deploy)).collect::<Vec<_>>()
    };
    let decisions: BTreeSet<String> = statuses.iter().flat_map(of).collect();
    let namespace = |subject: &String| Some(subject.rsplit_once('.')?.0.to_owned());
    Referred { namespaces: decisions.iter().filter_map(namespace).collect(), decisions }
}

const GC_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Longer than any coordinator sleeps, and long enough to see what happened.
const DECISION_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// A few seconds of the store's time.
const AT_ONCE: usize = 2_000;

#[cfg(test)]
mod tests;
