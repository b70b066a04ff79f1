//! Two machines with one key, as probes tell: what is heard, what is told, and what an operator reads of it.

use crate::network::context::Network;
use ployz_core::id::MachineId;
use ployz_core::key::PublicKey;
use ployz_core::mesh::twin::Verdict;
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::wire::v1::doctor::Check;
use ployz_core::wire::v1::record::MachineMembership;
use ployz_netns::{namespace, wireguard};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Once a second: what is known is told, and acted on where it is this machine that must stand back.
pub async fn look(mesh: &Network, peers: &[MachineMembership]) {
    let now = mesh.millis();
    let (verdict, contested) = {
        let twins = mesh.twins.twins();
        (twins.verdict(mesh.twins.run, now), twins.contested(now))
    };
    let mut checks = Vec::new();
    match verdict {
        Verdict::Alone => {}
        Verdict::Contested => checks.push(own()),
        Verdict::Later => mesh.stand_back.notify_one(),
    }
    if contested.is_empty() {
        mesh.twins.places.lock().clear();
    } else {
        note_places(mesh, &contested).await;
        checks.extend(contested.iter().filter_map(|key| {
            let peer = peers.iter().find(|peer| peer.public_key == *key)?;
            let places = mesh.twins.places.lock();
            Some(of_peer(&peer.id, places.get(key)))
        }));
    }
    tell(mesh, checks);
}

fn tell(mesh: &Network, checks: Vec<Check>) {
    mesh.shared.identities.send_if_modified(|before| {
        let names =
            |checks: &[Check]| checks.iter().map(|check| check.check.clone()).collect::<BTreeSet<_>>();
        let (was, is) = (names(before), names(&checks));
        for check in checks.iter().filter(|check| !was.contains(&check.check)) {
            let advice = check.advice.as_deref().unwrap_or_default();
            tracing::error!(check = %check.check, seen = %check.seen, advice, "two machines, one key");
        }
        for check in was.difference(&is) {
            tracing::info!(%check, "one machine, one key again");
        }
        let changed = *before != checks;
        *before = checks;
        changed
    });
}

fn own() -> Check {
    Check::fail(
        "identity",
        "another machine uses the key of this one, and packets are lost to it",
        "it runs with a copy of /var/lib/ployz: find it (`ployzctl doctor` on a peer shows its address) and run \
         `ployzctl mesh destroy <network> --local` there",
    )
}

fn of_peer(id: &MachineId, places: Option<&BTreeSet<SocketAddr>>) -> Check {
    let places: Vec<String> = places.into_iter().flatten().map(ToString::to_string).collect();
    let at = if places.is_empty() { String::new() } else { format!(", seen at {}", places.join(" and ")) };
    Check::fail(
        format!("identity {id}"),
        format!("two machines use the key of {id}{at}"),
        "one runs with a copy of the other's /var/lib/ployz: on the copy `ployzctl mesh destroy <network> --local`, then join \
         it with a token of its own",
    )
}

async fn note_places(mesh: &Network, contested: &[PublicKey]) {
    let netns = namespace::path(crate::node::environment::NETNS);
    let Some(device) = wireguard::inspect(WG_DEVICE, &netns).await.present().cloned() else { return };
    let mut places = mesh.twins.places.lock();
    places.retain(|key, _| contested.contains(key));
    for key in contested {
        let endpoint = device.peers.get(key).and_then(|peer| peer.stats.endpoint);
        places.entry(*key).or_default().extend(endpoint);
    }
}

/// The peer that an overlay address belongs to.
pub fn sender(mesh: &Network, from: IpAddr) -> Option<PublicKey> {
    let peers = mesh.peers.borrow();
    peers
        .machines
        .iter()
        .find(|machine| from == IpAddr::V6(machine.overlay_ip))
        .map(|machine| machine.public_key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::identity_watch::Payload;
    use crate::network::tests::{Machine, member};
    use ployz_core::mesh::twin::Pair;
    use std::time::Duration;

    fn names(mesh: &Network) -> Vec<String> {
        mesh.shared.identities.borrow().iter().map(|check| check.check.clone()).collect()
    }

    async fn stands_back(mesh: &Network) -> bool {
        tokio::time::timeout(Duration::from_millis(10), mesh.stand_back.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn a_machine_stands_back_only_where_it_came_later_and_says_so_where_it_did_not() {
        let machine = Machine::founder("twins");
        let mesh = &machine.mesh;
        let own = mesh.twins.run;
        let hears = |says| mesh.twins.heard(member(2).public_key, Payload { run: 5, says }, mesh.millis());
        look(mesh, &[]).await;
        assert!(names(mesh).is_empty() && !stands_back(mesh).await);
        hears(Some(Pair { first: own, later: own ^ 1 }));
        look(mesh, &[]).await;
        assert_eq!(names(mesh), ["identity"]);
        assert!(!stands_back(mesh).await, "it was there first");
        hears(Some(Pair { first: own ^ 1, later: own }));
        look(mesh, &[]).await;
        assert!(stands_back(mesh).await);
        hears(None);
        look(mesh, &[]).await;
        assert!(names(mesh).is_empty(), "it is over");
    }

    #[tokio::test]
    async fn a_peer_whose_key_two_machines_use_is_named_with_the_places_it_was_seen_at() {
        let mut machine = Machine::founder("twin-peer");
        machine.knows(&[2, 3]);
        let (mesh, peer) = (&machine.mesh, member(2));
        for (at, run) in [1, 2, 1, 2, 1, 2].into_iter().enumerate() {
            mesh.twins.heard(peer.public_key, Payload { run, says: None }, at as u64);
        }
        let places = ["192.0.2.2:1", "198.51.100.2:1"].map(|at| at.parse().unwrap());
        mesh.twins.places.lock().insert(peer.public_key, places.into());
        look(mesh, std::slice::from_ref(&peer)).await;
        let checks = mesh.shared.identities.borrow().clone();
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].check, "identity n2");
        assert_eq!(checks[0].seen, "two machines use the key of n2, seen at 192.0.2.2:1 and 198.51.100.2:1");
        look(mesh, &[member(3)]).await;
        assert!(names(mesh).is_empty(), "no member any more");
    }

    #[test]
    fn a_probe_is_the_one_member_s_whose_overlay_address_it_came_from() {
        let mut machine = Machine::founder("sender");
        machine.knows(&[2, 3]);
        assert_eq!(sender(&machine.mesh, member(3).overlay_ip.into()), Some(member(3).public_key));
        assert_eq!(sender(&machine.mesh, member(4).overlay_ip.into()), None);
        assert_eq!(sender(&machine.mesh, [192, 0, 2, 3].into()), None);
    }
}
