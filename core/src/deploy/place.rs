//! Where containers go. Stable: what may stay, stays. Even: the machine with the fewest of a service is next. The same
//! for everybody: ties go to the machine with fewer containers, then to the first by name.

use crate::deploy::address::capacity;
use crate::deploy::plan::Machine;
use crate::id::MachineId;
use crate::wire::v1::manifest::{Placement, Protocol, Service};
use crate::wire::v1::record::Lifecycle;
use std::collections::{BTreeMap, BTreeSet};

/// Machines, and what this plan puts on them.
pub(super) struct Places<'a> {
    machines: BTreeMap<&'a MachineId, Place<'a>>,
}

struct Place<'a> {
    machine: &'a Machine,
    /// Containers that run or will, old ones counted until they are removed.
    containers: usize,
    /// Ports of the machine that are held: by others, and by this plan.
    ports: BTreeSet<(Protocol, u16)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(machines: &'a [Machine]) -> Self {
        let place = |machine: &'a Machine| Place {
            machine,
            containers: machine.instances,
            ports: machine.published.clone(),
        };
        Self { machines: machines.iter().map(|machine| (&machine.id, place(machine))).collect() }
    }

    /// The machine, if it is a member.
    pub(super) fn machine(&self, id: &MachineId) -> Option<&'a Machine> {
        self.machines.get(id).map(|place| place.machine)
    }

    /// Whether what runs on a machine may go on there: it is a member and the constraints allow it. Its lifecycle does
    /// not matter: draining ends new work, not what runs.
    pub(super) fn may_stay(&self, service: &Service, id: &MachineId) -> bool {
        self.machine(id).is_some_and(|machine| allowed(&service.placement, machine))
    }

    /// Whether something new may be put on a machine.
    pub(super) fn may_start(&self, service: &Service, id: &MachineId) -> bool {
        self.machines.get(id).is_some_and(|place| place.takes(service))
    }

    /// Machines that one of a global service belongs on, reachable or not: a deploy that would leave one out is refused,
    /// not shortened.
    pub(super) fn for_global(&self, service: &Service) -> Vec<MachineId> {
        let wanted = |place: &&Place<'_>| {
            place.machine.lifecycle == Lifecycle::Active && allowed(&service.placement, place.machine)
        };
        self.machines.values().filter(wanted).map(|place| place.machine.id.clone()).collect()
    }

    /// The best machine for one more of a service, of which `spread` says how many are where.
    pub(super) fn best(&self, service: &Service, spread: &BTreeMap<MachineId, usize>) -> Option<MachineId> {
        let rank = |place: &&Place<'_>| {
            let here = spread.get(&place.machine.id).copied().unwrap_or(0);
            (here, place.containers, place.machine.id.clone())
        };
        let able = self.machines.values().filter(|place| place.takes(service));
        able.min_by_key(rank).map(|place| place.machine.id.clone())
    }

    /// Takes note of a container that will be there.
    pub(super) fn start(&mut self, service: &Service, id: &MachineId) {
        if let Some(place) = self.machines.get_mut(id) {
            place.containers += 1;
            place.ports.extend(service.published());
        }
    }

    /// Takes note of ports that a container which runs holds; it was counted already.
    pub(super) fn hold(&mut self, service: &Service, id: &MachineId) {
        if let Some(place) = self.machines.get_mut(id) {
            place.ports.extend(service.published());
        }
    }

    /// Takes note that a container stops before its successor starts: its ports are free for that one.
    pub(super) fn release(&mut self, service: &Service, id: &MachineId) {
        if let Some(place) = self.machines.get_mut(id) {
            service.published().for_each(|port| {
                place.ports.remove(&port);
            });
        }
    }

    /// Why no machine will do, for a person: the first reason of each, by machine.
    pub(super) fn refusals(&self, service: &Service) -> Vec<(MachineId, &'static str)> {
        let refusal = |place: &Place<'_>| Some((place.machine.id.clone(), place.refusal(service)?));
        self.machines.values().filter_map(refusal).collect()
    }
}

impl Place<'_> {
    fn takes(&self, service: &Service) -> bool {
        self.refusal(service).is_none()
    }

    fn refusal(&self, service: &Service) -> Option<&'static str> {
        let machine = self.machine;
        if !allowed(&service.placement, machine) {
            return Some("does not match the placement constraints");
        }
        match machine.lifecycle {
            Lifecycle::Active => {}
            Lifecycle::Draining => return Some("is draining"),
            Lifecycle::Standby => return Some("is on standby"),
        }
        if !machine.reachable {
            return Some("does not answer");
        }
        if self.containers >= capacity(&machine.subnet) {
            return Some("has no address left in its subnet");
        }
        let taken = service.published().any(|port| self.ports.contains(&port));
        taken.then_some("has a published port in use")
    }
}

fn allowed(placement: &Placement, machine: &Machine) -> bool {
    let named = placement.machines.is_empty() || placement.machines.contains(&machine.id);
    named && placement.labels.iter().all(|(name, value)| machine.labels.get(name) == Some(value))
}
