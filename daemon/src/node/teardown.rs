//! Taking a network's data plane down: in reverse order, each part only when it is proven ours. Errors are
//! collected, so that one stubborn part does not keep the rest.

use crate::node::reconcile::Reconciler;
use ployz_core::adopt::Seen;
use ployz_core::adopt::sidecar::is_ours;
use ployz_core::live::{SidecarLive, UnitLive};
use ployz_core::spec::netns::owner_alias;
use ployz_core::spec::{NodeSpec, UnitName};
use ployz_netns::{firewall, link, namespace, wireguard};

/// Removes everything of `spec` that is its own; returns what is ours, or may be, and could not be removed. When the
/// namespace belongs to somebody else (another daemon's network, an unknown one), nothing at all is touched: its
/// children are theirs.
pub async fn run(reconciler: &Reconciler, spec: &NodeSpec) -> Vec<String> {
    let live = reconciler.inspect(spec).await;
    match &live.netns {
        Seen::Absent => {}
        Seen::Present(found) if is_own(spec, found.alias.as_deref()) => {}
        Seen::Present(_) | Seen::Foreign(_) => {
            tracing::info!(
                netns = %spec.netns.name,
                "the network namespace is foreign: left alone with all in it"
            );
            return Vec::new();
        }
        Seen::Unknown(why) => return vec![format!("netns: cannot be inspected: {why}")],
    }
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
    note("dns", stop_sidecar(reconciler, UnitName::DNS, &live.dns).await);
    note("gateway", stop_sidecar(reconciler, UnitName::GATEWAY, &live.gateway).await);
    note("nats", stop(reconciler, UnitName::NATS, &nats).await);
    note("firewall", firewall::remove().await.map_err(|error| ployz_core::text::chain(&error)));
    note("docker network", ployz_engine::leave(&spec.link.network).await);
    note("link", link::remove(&spec.link).await.map_err(|error| ployz_core::text::chain(&error)));
    note("tunnel", stop(reconciler, UnitName::WIREGUARD, &live.tunnel).await);
    if live.netns.present().is_some() {
        let file = namespace::path(&spec.netns.name);
        let removed = wireguard::remove(&spec.wireguard.name, &file).await;
        note("wireguard", removed.map_err(|error| ployz_core::text::chain(&error)));
        let removed = namespace::remove(&spec.netns.name);
        note("netns", removed.map_err(|error| ployz_core::text::chain(&error)));
    } else {
        let removed = namespace::remove_stale(&spec.netns.name);
        note("netns", removed.map_err(|error| ployz_core::text::chain(&error)));
    }
    errors
}

/// Of this network, or of another one on this disk.
fn is_own(spec: &NodeSpec, alias: Option<&str>) -> bool {
    let own = std::iter::once(&spec.netns.network).chain(&spec.netns.siblings);
    own.map(owner_alias).any(|wanted| alias == Some(&wanted))
}

async fn stop_sidecar(
    reconciler: &Reconciler,
    name: UnitName,
    seen: &Seen<SidecarLive>,
) -> Result<(), String> {
    match seen {
        Seen::Absent => Ok(()),
        Seen::Present(live) if is_ours(live) => {
            reconciler.supervisor().stop_sidecar(&name).await.map_err(|error| ployz_core::text::chain(&error))
        }
        Seen::Present(_) | Seen::Foreign(_) => {
            tracing::info!(unit = %name, "the unit is foreign: left alone");
            Ok(())
        }
        Seen::Unknown(why) => Err(format!("cannot be inspected: {why}")),
    }
}

async fn stop(reconciler: &Reconciler, name: UnitName, seen: &Seen<UnitLive>) -> Result<(), String> {
    match seen {
        Seen::Absent => Ok(()),
        Seen::Present(unit) if unit.fingerprint.is_some() => {
            reconciler.supervisor().stop(&name).await.map_err(|error| ployz_core::text::chain(&error))
        }
        Seen::Present(_) | Seen::Foreign(_) => {
            tracing::info!(unit = %name, "the unit is foreign: left alone");
            Ok(())
        }
        Seen::Unknown(why) => Err(format!("cannot be inspected: {why}")),
    }
}
