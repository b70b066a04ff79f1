//! Following what the network relies on in the host: looked at again and again, told in the journal when it changes, and
//! kept for `mesh ready`.

use crate::network::context::Network;
use crate::node::footing::footing;
use crate::node::host::{self, Scene};
use ployz_core::wire::v1::doctor::{Check, Level};
use std::sync::Arc;
use std::time::Duration;

/// Looks, for ever.
pub async fn run(mesh: Arc<Network>) {
    let mut reconciled = mesh.outcome.subscribe();
    loop {
        let outcome = reconciled.borrow_and_update().clone();
        if let Some(outcome) = outcome {
            let (spec, machines) = (mesh.spec(), mesh.peers.borrow().machines.clone());
            let data_dir = &mesh.shared.around.config.data_dir;
            let scene = Scene { spec: &spec, live: &outcome.live, machines: &machines, data_dir };
            let mut checks = host::look(&scene).await;
            if let Some(tunnel) = outcome.live.wireguard.present() {
                let (own, at_start) = (mesh.network().machine.endpoints, mesh.shared.around.underlay_mtu);
                checks.extend(footing(tunnel.mtu, &own, spec.wireguard.listen_port, at_start).await);
            }
            take_in(&mesh, checks);
        }
        // A change of links, routes or rules leads to a reconciliation, and so back here at once.
        let _ = tokio::time::timeout(CHECK_INTERVAL, reconciled.changed()).await;
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Tells what began and what is over.
fn take_in(mesh: &Network, now: Vec<Check>) {
    let before = mesh.host.send_replace(now.clone());
    let level =
        |checks: &[Check], name: &str| checks.iter().find(|one| one.check == name).map(|one| one.level);
    for check in &now {
        let was = level(&before, &check.check).unwrap_or(Level::Ok);
        let advice = check.advice.as_deref().unwrap_or_default();
        match check.level {
            now if now == was => {}
            Level::Ok => {
                tracing::info!(check = %check.check, seen = %check.seen, "the host is back to normal")
            }
            Level::Warn => {
                tracing::warn!(check = %check.check, seen = %check.seen, advice, "the host changed")
            }
            Level::Fail => {
                tracing::error!(check = %check.check, seen = %check.seen, advice, "the host changed")
            }
        }
    }
}

/// Why the machine cannot do its work.
pub fn reasons(mesh: &Network) -> Vec<String> {
    let (checks, identities) = (mesh.host.borrow(), mesh.shared.identities.borrow());
    // Of a peer's key it is the peer that is not ready.
    let own = identities.iter().filter(|check| check.check == "identity");
    let failed = checks.iter().filter(|check| check.level == Level::Fail).chain(own);
    failed.map(|check| format!("{}: {}", check.check, check.seen)).collect()
}

const CHECK_INTERVAL: Duration = Duration::from_secs(15);
const DEBOUNCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::Machine;

    #[test]
    fn what_fails_in_the_host_and_a_second_machine_with_this_key_are_reasons_and_nothing_else_is() {
        let machine = Machine::founder("host");
        let mesh = &machine.mesh;
        take_in(mesh, vec![Check::ok("mtu", "1500"), Check::warn("rp-filter", "1", "set it to 2")]);
        assert!(reasons(mesh).is_empty());
        take_in(mesh, vec![Check::fail("mtu", "1280", "raise it"), Check::ok("rp-filter", "2")]);
        let identity = |name: &str| Check::fail(name, "two machines", "destroy one");
        mesh.shared.identities.send_replace(vec![identity("identity n2"), identity("identity")]);
        assert_eq!(reasons(mesh), ["mtu: 1280", "identity: two machines"]);
        mesh.shared.identities.send_replace(Vec::new());
        take_in(mesh, vec![Check::ok("mtu", "1500")]);
        assert!(reasons(mesh).is_empty());
    }
}
