//! Taking a network's data plane down: in reverse order, each part only when it is proven ours. Errors are
//! collected, so that one stubborn part does not keep the rest.

use crate::node::reconcile::Reconciler;
#[cfg(test)]
use crate::node::supervisor::Supervisor;
use ployz_core::adopt::Seen;
use ployz_core::adopt::sidecar::is_ours;
use ployz_core::live::{SidecarLive, UnitLive};
use ployz_core::spec::netns::owner_alias;
use ployz_core::spec::{NodeSpec, UnitName};
use ployz_core::text::chain;
use ployz_netns::{firewall, link, namespace, wireguard};

/// What one call takes down.
#[derive(Debug)]
pub enum Part {
    /// A unit that is ours.
    Unit(UnitName),
    /// A process of ours with its sockets.
    Sidecar(UnitName),
    /// The table of both sides.
    Firewall,
    /// Docker's network on the bridge.
    DockerNetwork,
    /// The host's link to the namespace.
    Link,
    /// The tunnel's device.
    Wireguard,
    /// The namespace.
    Netns,
    /// What a namespace that is gone has left.
    StaleNetns,
}

/// What parts are taken down with.
struct Hands<'a> {
    reconciler: &'a Reconciler,
    spec: &'a NodeSpec,
}

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
    let hands = Hands { reconciler, spec };
    note("dns", hands.stop_sidecar(UnitName::DNS, &live.dns).await);
    note("gateway", hands.stop_sidecar(UnitName::GATEWAY, &live.gateway).await);
    note("nats", hands.stop(UnitName::NATS, &nats).await);
    note("firewall", hands.remove(Part::Firewall).await);
    note("docker network", hands.remove(Part::DockerNetwork).await);
    note("link", hands.remove(Part::Link).await);
    note("tunnel", hands.stop(UnitName::WIREGUARD, &live.tunnel).await);
    if live.netns.present().is_some() {
        note("wireguard", hands.remove(Part::Wireguard).await);
        note("netns", hands.remove(Part::Netns).await);
    } else {
        note("netns", hands.remove(Part::StaleNetns).await);
    }
    errors
}

/// Of this network, or of another one on this disk.
fn is_own(spec: &NodeSpec, alias: Option<&str>) -> bool {
    let own = std::iter::once(&spec.netns.network).chain(&spec.netns.siblings);
    own.map(owner_alias).any(|wanted| alias == Some(&wanted))
}

impl Hands<'_> {
    async fn stop_sidecar(&self, name: UnitName, seen: &Seen<SidecarLive>) -> Result<(), String> {
        match seen {
            Seen::Absent => Ok(()),
            Seen::Present(live) if is_ours(live) => self.remove(Part::Sidecar(name)).await,
            Seen::Present(_) | Seen::Foreign(_) => {
                tracing::info!(unit = %name, "the unit is foreign: left alone");
                Ok(())
            }
            Seen::Unknown(why) => Err(format!("cannot be inspected: {why}")),
        }
    }

    async fn stop(&self, name: UnitName, seen: &Seen<UnitLive>) -> Result<(), String> {
        match seen {
            Seen::Absent => Ok(()),
            Seen::Present(unit) if unit.fingerprint.is_some() => self.remove(Part::Unit(name)).await,
            Seen::Present(_) | Seen::Foreign(_) => {
                tracing::info!(unit = %name, "the unit is foreign: left alone");
                Ok(())
            }
            Seen::Unknown(why) => Err(format!("cannot be inspected: {why}")),
        }
    }

    async fn remove(&self, part: Part) -> Result<(), String> {
        let (supervisor, spec) = (self.reconciler.supervisor(), self.spec);
        #[cfg(test)]
        if let Supervisor::Fake(fake) = supervisor {
            return fake.remove(&part, spec).map_err(|error| chain(&error));
        }
        let file = namespace::path(&spec.netns.name);
        match part {
            Part::Unit(name) => supervisor.stop(&name).await.map_err(|error| chain(&error)),
            Part::Sidecar(name) => supervisor.stop_sidecar(&name).await.map_err(|error| chain(&error)),
            Part::DockerNetwork => ployz_engine::leave(&spec.link.network).await,
            Part::Firewall => firewall::remove().await.map_err(|error| chain(&error)),
            Part::Link => link::remove(&spec.link).await.map_err(|error| chain(&error)),
            Part::Wireguard => {
                wireguard::remove(&spec.wireguard.name, &file).await.map_err(|error| chain(&error))
            }
            Part::Netns => namespace::remove(&spec.netns.name).map_err(|error| chain(&error)),
            Part::StaleNetns => namespace::remove_stale(&spec.netns.name).map_err(|error| chain(&error)),
        }
    }
}
