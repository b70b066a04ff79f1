//! Whether the mesh can take work, and every reason why not.

use crate::network::context::Network;
use crate::network::host;
use ployz_core::adopt::Verdict;
use ployz_core::wire::v1::api::{MeshReady, Phase};

/// The answer to `mesh ready`.
pub fn check(mesh: &Network) -> MeshReady {
    let (phase, sync) = (*mesh.phase.borrow(), mesh.sync.borrow().clone());
    let outcome = mesh.outcome.borrow().clone();
    let mut reasons = Vec::new();
    let mut subnet = false;
    match &outcome {
        None => reasons.push("the data plane has not been inspected yet".to_owned()),
        Some(outcome) => {
            reasons.extend(outcome.complaints());
            subnet = outcome.live.link.present().is_some_and(|link| {
                let own = mesh.network().subnet();
                link.bridge.as_ref().is_some_and(|b| b.addresses.iter().any(|a| a.addr() == own.bridge()))
            });
        }
    }
    if !subnet {
        reasons.push("the workload bridge with this machine's subnet is missing".to_owned());
    }
    if !sync.healthy {
        reasons.push(format!("the store: {}", sync.error.as_deref().unwrap_or("not connected yet")));
    }
    let network = mesh.network();
    let member = mesh.peers.borrow().machines.iter().any(|machine| machine.id == network.machine.id);
    if sync.healthy && !member {
        reasons.push("this machine's record is not in the store".to_owned());
    }
    reasons.extend(host::reasons(mesh));
    reasons.extend(mesh.unwritten.borrow().clone());
    if phase != Phase::Running {
        reasons.push(format!("the phase is {phase}"));
    }
    let store_healthy = mesh.store.borrow().is_some() && sync.healthy && nats_adopted(mesh);
    MeshReady {
        ready: reasons.is_empty(),
        phase,
        store_healthy,
        sync_connected: sync.healthy,
        workload_subnet_present: subnet,
        reasons,
    }
}

fn nats_adopted(mesh: &Network) -> bool {
    use ployz_core::adopt::Component;
    let outcome = mesh.outcome.borrow().clone();
    outcome.is_some_and(|outcome| {
        let held = matches!(outcome.plan.verdict(Component::Nats), Some(Verdict::Hold(_)) | None);
        !held && !outcome.failures.contains_key(&Component::Nats)
    })
}
