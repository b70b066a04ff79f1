//! Taking a network's data plane down: in reverse order, each part only when it is proven ours. Errors are
//! collected, so that one stubborn part does not keep the rest.

use crate::reconcile::Reconciler;
use ployz_core::adopt::Seen;
use ployz_core::live::UnitLive;
use ployz_core::spec::netns::owned_by_us;
use ployz_core::spec::{NodeSpec, UnitName};
use ployz_netns::{firewall, link, namespace, wireguard};

/// Removes everything of `spec` that is ours; returns what could not be removed.
pub async fn run(reconciler: &Reconciler, spec: &NodeSpec) -> Vec<String> {
    let live = reconciler.inspect(spec).await;
    let mut errors = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            errors.push(format!("{what}: {error}"));
        }
    };
    let nats = match &live.nats {
        Seen::Present(nats) => Seen::Present(nats.unit.clone()),
        Seen::Absent => Seen::Absent,
        Seen::Foreign(owner) => Seen::Foreign(owner.clone()),
        Seen::Unknown(why) => Seen::Unknown(why.clone()),
    };
    note("nats", stop(reconciler, UnitName::NATS, &nats).await);
    note("firewall", firewall::remove().await.map_err(|error| ployz_netns::chain(&error)));
    note("link", link::remove(&spec.link).await.map_err(|error| ployz_netns::chain(&error)));
    note("tunnel", stop(reconciler, UnitName::WIREGUARD, &live.tunnel).await);
    let ours = match &live.netns {
        Seen::Present(found) => owned_by_us(found.alias.as_deref()),
        _ => false,
    };
    if ours {
        let file = namespace::path(&spec.netns.name);
        let removed = wireguard::remove(&spec.wireguard.name, &file).await;
        note("wireguard", removed.map_err(|error| ployz_netns::chain(&error)));
    }
    match &live.netns {
        Seen::Absent => {}
        Seen::Present(_) if ours => {
            let removed = namespace::remove(&spec.netns.name);
            note("netns", removed.map_err(|error| ployz_netns::chain(&error)));
        }
        Seen::Present(_) => {
            note("netns", Err(format!("namespace {} is not ours: left alone", spec.netns.name)))
        }
        Seen::Foreign(why) | Seen::Unknown(why) => note("netns", Err(format!("left alone: {why}"))),
    }
    errors
}

async fn stop(reconciler: &Reconciler, name: UnitName, seen: &Seen<UnitLive>) -> Result<(), String> {
    match seen {
        Seen::Absent => Ok(()),
        Seen::Present(unit) if unit.fingerprint.is_some() => {
            reconciler.supervisor().stop(&name).await.map_err(|error| error.to_string())
        }
        Seen::Present(_) => Err("carries no mark of ours: left alone".into()),
        Seen::Foreign(why) | Seen::Unknown(why) => Err(format!("left alone: {why}")),
    }
}
