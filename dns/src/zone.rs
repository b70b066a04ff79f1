//! The names of the mesh as one flat table: every name that exists, also those that only have names below them.
//!
//! Pure. It knows neither messages nor freshness; what a name is not found in is decided by [`crate::realm`]. The one fact
//! a stranger needs: a name that is in the table exists (no data of a type is NODATA), one that is not does not.

use hickory_server::proto::rr::{LowerName, Name};
use ployz_core::id::{InstanceId, MachineId, Namespace};
use ployz_core::routing::{InstanceRoute, ServiceRef, ServiceRoute, State};
use ployz_nats::events::View;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub mod owner;

use owner::Owner;

/// Everything that can be asked for, at one point of the stream.
#[derive(Debug, Default)]
pub struct Zone {
    nodes: HashMap<Owner, Node>,
    /// Who is behind an address of a container.
    askers: HashMap<Ipv4Addr, Asker>,
    /// How much there is, for diagnostics.
    pub counts: Counts,
}

/// What a name has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// A.
    pub a: Vec<Ipv4Addr>,
    /// AAAA.
    pub aaaa: Vec<Ipv6Addr>,
    /// SRV.
    pub srv: Vec<Target>,
    /// PTR.
    pub ptr: Option<Owner>,
    /// Whether it is a service's own name, which can be shortened.
    service: bool,
}

/// One target of an SRV name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The instance's own name.
    pub name: Owner,
    /// Port in the container.
    pub port: u16,
    /// Address of that name.
    pub address: Ipv4Addr,
}

/// Sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Machines.
    pub machines: usize,
    /// Services.
    pub services: usize,
    /// Instances, routable or not.
    pub instances: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asker {
    namespace: Namespace,
    /// Of two claims on one address the better one counts: a record that its machine has not taken back yet must not
    /// shadow the container that has the address now.
    rank: (bool, bool),
}

impl View for Zone {
    fn of(state: &State) -> Self {
        let mut zone = Self::default();
        zone.node(below(&[]).expect("the zone's own name is a valid one"));
        for (id, machine) in &state.machines {
            let Some(own) = below(&[id.as_str(), MACHINE]) else { continue };
            zone.pointer(machine.subnet.service().into(), &own);
            zone.pointer(machine.overlay_ip.into(), &own);
            let node = zone.node(own);
            node.a = vec![machine.subnet.service()];
            node.aaaa = vec![machine.overlay_ip];
        }
        for (id, service) in &state.services {
            zone.service(state, id, service);
        }
        for (id, instances) in &state.instances {
            zone.askers(state, id, instances);
        }
        zone.counts = Counts {
            machines: state.machines.len(),
            services: state.services.len(),
            instances: state.instances.values().map(BTreeMap::len).sum(),
        };
        zone
    }
}

impl Zone {
    /// What is known of a full name; `None`: there is no such name.
    pub fn find(&self, name: &LowerName) -> Option<&Node> {
        self.nodes.get(&*owner::octets(name))
    }

    /// What a service's bare name means to whoever asks from `source`.
    pub fn find_short(&self, service: &[u8], source: IpAddr) -> Option<&Node> {
        let namespace = self.namespace(source)?;
        let service = std::str::from_utf8(service).ok()?;
        let full = below(&[service, namespace.as_str()])?;
        self.nodes.get(&full).filter(|node| node.service)
    }

    /// The namespace of the container that has this address.
    pub fn namespace(&self, source: IpAddr) -> Option<&Namespace> {
        match source.to_canonical() {
            IpAddr::V4(address) => self.askers.get(&address).map(|asker| &asker.namespace),
            IpAddr::V6(_) => None,
        }
    }

    fn service(&mut self, state: &State, id: &ServiceRef, service: &ServiceRoute) {
        // Only in a namespace called `machine` can the two meet; machines were there first.
        if id.namespace.as_str() == MACHINE
            && state.machines.keys().any(|m| m.as_str() == id.service.as_str())
        {
            return;
        }
        let Some(own) = below(&[id.service.as_str(), id.namespace.as_str()]) else { return };
        let node = self.node(own);
        node.service = true;
        node.a = state.routable(id).map(|(_, _, instance)| instance.address).collect();
        let mut own_names = BTreeMap::new();
        for ((instance, machine), route) in state.instances.get(id).into_iter().flatten() {
            let Some(own) = instance_name(instance, id) else { continue };
            if !state.speaks_for(machine, route.address) {
                continue;
            }
            self.pointer(route.address.into(), &own);
            self.node(own.clone()).a.push(route.address);
            own_names.insert(instance, own);
        }
        for port in service.ports.iter().filter(|port| matches!(port.protocol.as_str(), "tcp" | "udp")) {
            let labels = [&format!("_{}", port.name), &format!("_{}", port.protocol)];
            let labels = [labels[0], labels[1], id.service.as_str(), id.namespace.as_str()];
            let Some(own) = below(&labels) else { continue };
            let targets = state.routable(id).filter_map(|(instance, _, route)| {
                Some(Target {
                    name: own_names.get(instance)?.clone(),
                    port: port.port,
                    address: route.address,
                })
            });
            let targets: Vec<Target> = targets.collect();
            self.node(own).srv.extend(targets);
        }
    }

    fn askers(
        &mut self,
        state: &State,
        id: &ServiceRef,
        instances: &BTreeMap<(InstanceId, MachineId), InstanceRoute>,
    ) {
        for ((_, machine), route) in instances {
            if !state.speaks_for(machine, route.address) {
                continue;
            }
            let rank = (route.ready, !route.draining);
            let known = self.askers.get(&route.address);
            if known.is_none_or(|known| known.rank < rank) {
                self.askers.insert(route.address, Asker { namespace: id.namespace.clone(), rank });
            }
        }
    }

    /// The node of a name, made with all that lie between it and the top.
    fn node(&mut self, name: Owner) -> &mut Node {
        for above in name.above(ZONE.len()) {
            if self.nodes.contains_key(above) {
                break;
            }
            self.nodes.insert(above.into(), Node::default());
        }
        self.nodes.entry(name).or_default()
    }

    /// The first to claim an address has its PTR: one name is what callers expect.
    fn pointer(&mut self, address: IpAddr, to: &Owner) {
        self.node(Owner::reverse(address)).ptr.get_or_insert_with(|| to.clone());
    }
}

/// The name with these labels below the zone.
pub fn name(labels: &[&str]) -> Option<Name> {
    Name::from_labels(labels.iter().chain(ZONE).map(|label| label.as_bytes())).ok()
}

fn below(labels: &[&str]) -> Option<Owner> {
    Owner::of(labels.iter().chain(ZONE).copied())
}

fn instance_name(instance: &InstanceId, of: &ServiceRef) -> Option<Owner> {
    below(&[instance.as_str(), "instance", of.service.as_str(), of.namespace.as_str()])
}

/// Labels of the zone's own name.
pub const ZONE: &[&str] = &["ployz", "internal"];

/// The label that machines are below.
pub const MACHINE: &str = "machine";

#[cfg(test)]
mod tests;
