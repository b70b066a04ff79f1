//! Everything that is there, from reality only (netlink, D-Bus, `/proc`, nft, the store's monitoring port), each
//! part with a deadline of its own.

use crate::node::nats::monitor;
use crate::node::supervisor::Supervisor;
use ployz_core::adopt::Seen;
use ployz_core::live::{ActiveState, NatsLive, NodeLive, UnitLive};
use ployz_core::spec::{NodeSpec, UnitName};
use ployz_netns::{firewall, link, namespace, wireguard};
use std::path::Path;
use std::time::Duration;

pub(super) async fn node(supervisor: &Supervisor, spec: &NodeSpec) -> NodeLive {
    #[cfg(test)]
    if let Supervisor::Fake(fake) = supervisor {
        return fake.inspect();
    }
    let file = namespace::path(&spec.netns.name);
    let (netns, tunnel, wireguard, link, firewall, nats, gateway, dns) = tokio::join!(
        limited(namespace::inspect(&spec.netns)),
        supervisor.inspect(&UnitName::WIREGUARD),
        limited(wireguard::inspect(&spec.wireguard.name, &file)),
        limited(link::inspect(&spec.link, &file)),
        limited(firewall::inspect(&file)),
        store(supervisor, &file),
        supervisor.inspect_sidecar(&spec.gateway),
        supervisor.inspect_sidecar(&spec.dns),
    );
    let mut live = NodeLive { netns, tunnel, wireguard, link, firewall, nats, gateway, dns };
    if live.tunnel.present().is_some_and(|unit| unit.state == ActiveState::Active)
        && matches!(live.wireguard, Seen::Absent)
    {
        // Looked at side by side, a tunnel that somebody restarts in this moment runs and has no device: whether one that
        // runs all the time has none, only looks one after the other tell.
        live.wireguard = limited(wireguard::inspect(&spec.wireguard.name, &file)).await;
        live.tunnel = still(&live.tunnel, supervisor.inspect(&UnitName::WIREGUARD).await);
    }
    live
}

/// What was found last; one that runs, but not as the process it was, is on its way.
fn still(before: &Seen<UnitLive>, now: Seen<UnitLive>) -> Seen<UnitLive> {
    match now {
        Seen::Present(unit) if before.present().is_some_and(|before| before.pid != unit.pid) => {
            Seen::Present(UnitLive { state: ActiveState::Changing, ..unit })
        }
        now => now,
    }
}

/// The store's process and the settings it runs with.
pub(super) async fn store(supervisor: &Supervisor, netns: &Path) -> Seen<NatsLive> {
    match supervisor.inspect(&UnitName::NATS).await {
        Seen::Absent => Seen::Absent,
        Seen::Foreign(owner) => Seen::Foreign(owner),
        Seen::Unknown(why) => Seen::Unknown(why),
        Seen::Present(unit) => {
            let loaded = loaded(&unit, netns).await;
            Seen::Present(NatsLive { unit, loaded })
        }
    }
}

async fn loaded(unit: &UnitLive, netns: &Path) -> Option<String> {
    // A server in another namespace is not asked: whoever answers on this one's loopback is somebody else.
    let here = namespace::id_of(netns).ok().flatten();
    if unit.pid == 0 || here.is_none() || unit.netns != here {
        return None;
    }
    tokio::time::timeout(INSPECT_TIMEOUT, monitor::revision(netns)).await.ok().flatten()
}

async fn limited<T>(inspection: impl Future<Output = Seen<T>>) -> Seen<T> {
    match tokio::time::timeout(INSPECT_TIMEOUT, inspection).await {
        Ok(seen) => seen,
        Err(_) => Seen::Unknown(format!("no answer within {}s", INSPECT_TIMEOUT.as_secs())),
    }
}

const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);
