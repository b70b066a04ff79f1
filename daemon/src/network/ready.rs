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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::context::Health;
    use crate::network::tests::{Machine, Server};
    use ployz_core::adopt::{Component, Seen, Trigger};
    use ployz_core::wire::v1::doctor::Check;
    use std::sync::Arc;

    fn only(mesh: &Network, reason: &str) {
        let said = check(mesh);
        assert!(!said.ready);
        assert_eq!(said.reasons, [reason]);
    }

    #[tokio::test]
    async fn a_machine_is_ready_when_nothing_is_missing_and_names_each_thing_that_is() {
        let (server, machine) = (Server::start("ready"), Machine::founder("ready-n1"));
        let mesh = &machine.mesh;
        let first = check(mesh);
        assert!(!first.ready && !first.store_healthy && !first.sync_connected);
        assert_eq!(first.reasons[0], "the data plane has not been inspected yet");
        assert_eq!(first.reasons[2], "the store: not connected yet");
        mesh.reconcile(Trigger::Startup).await;
        mesh.store.send_replace(Some(server.store(&mesh.network().id).await));
        let fine = Health { healthy: true, since: None, error: None };
        mesh.sync.send_replace(fine.clone());
        only(mesh, "the phase is starting");
        mesh.phase.send_replace(Phase::Running);
        let said = check(mesh);
        assert!(
            said.ready && said.store_healthy && said.sync_connected && said.workload_subnet_present,
            "{said:?}"
        );

        mesh.sync.send_replace(Health { healthy: false, since: Some(1), error: Some("refused".into()) });
        only(mesh, "the store: refused");
        assert!(!check(mesh).store_healthy);
        mesh.sync.send_replace(fine);
        let peers = mesh.peers.send_replace(Default::default());
        only(mesh, "this machine's record is not in the store");
        mesh.peers.send_replace(peers);
        mesh.unwritten.send_replace(Some("no room".into()));
        only(mesh, "no room");
        mesh.unwritten.send_replace(None);
        mesh.host.send_replace(vec![Check::fail("mtu", "1280", "raise it")]);
        only(mesh, "mtu: 1280");
        mesh.host.send_replace(Vec::new());

        let good = mesh.outcome.borrow().clone().unwrap();
        let mut failed = (*good).clone();
        failed.failures.insert(Component::Nats, "no room".into());
        mesh.outcome.send_replace(Some(Arc::new(failed)));
        only(mesh, "nats failed: no room");
        assert!(!check(mesh).store_healthy, "what answers may be the one that is to be replaced");
        let mut bare = (*good).clone();
        bare.live.link = Seen::Absent;
        mesh.outcome.send_replace(Some(Arc::new(bare)));
        only(mesh, "the workload bridge with this machine's subnet is missing");
        mesh.outcome.send_replace(Some(good));
        assert!(check(mesh).ready);
    }
}
