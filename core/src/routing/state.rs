//! The fold of ordered events into the state that gateway and DNS are views of.

use crate::id::{InstanceId, MachineId};
use crate::routing::event::{Event, InstanceRoute, Key, MachineRoute, ServiceRef, ServiceRoute, Value};
use std::collections::BTreeMap;

/// Everything that is known, at one point of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Machines.
    pub machines: BTreeMap<MachineId, MachineRoute>,
    /// Services.
    pub services: BTreeMap<ServiceRef, ServiceRoute>,
    /// Instances by service; the machine is where it runs.
    pub instances: BTreeMap<ServiceRef, BTreeMap<InstanceId, (MachineId, InstanceRoute)>>,
}

/// How far what is served can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Never filled: nothing may be answered from it.
    Empty,
    /// Follows the stream.
    Live,
    /// The last good state, because the stream has been away since then (Unix seconds).
    LastGood(u64),
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The state is another one now.
    Changed,
    /// It says what was known, or was seen before.
    Same,
    /// At least one event before this one was missed: the state must be rebuilt. Nothing was changed.
    Gap,
}

/// A state and the place in the stream it stands for.
///
/// `delivery` counts what one subscription was sent, without holes, so a hole is a loss. `sequence` is the stream's own
/// number, which has holes by design: only the last event of every key is kept.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    state: State,
    delivery: u64,
    sequence: u64,
}

impl State {
    /// Where requests for a service may go: current, ready, not draining, of the current revision.
    pub fn routable(
        &self,
        service: &ServiceRef,
    ) -> impl Iterator<Item = (&InstanceId, &MachineId, &InstanceRoute)> {
        let current = self.services.get(service);
        let running = self.instances.get(service);
        current.into_iter().zip(running).flat_map(|(current, running)| {
            running.iter().filter_map(move |(id, (machine, instance))| {
                let fits = current.instances.contains(id) && instance.revision == current.revision;
                (fits && instance.ready && !instance.draining).then_some((id, machine, instance))
            })
        })
    }

    /// Takes in one event; whether anything is different now.
    pub fn apply(&mut self, event: Event) -> bool {
        match (event.key, event.value) {
            (Key::Machine(id), Some(Value::Machine(value))) => put(&mut self.machines, id, value),
            (Key::Machine(id), None) => self.machines.remove(&id).is_some(),
            (Key::Service(id), Some(Value::Service(value))) => put(&mut self.services, id, value),
            (Key::Service(id), None) => self.services.remove(&id).is_some(),
            (Key::Instance(machine, service, id), Some(Value::Instance(value))) => {
                put(self.instances.entry(service).or_default(), id, (machine, value))
            }
            (Key::Instance(machine, service, id), None) => self.forget(&machine, &service, &id),
            // A value of another kind than its key: written by nobody who follows the contract.
            _ => false,
        }
    }

    fn forget(&mut self, machine: &MachineId, service: &ServiceRef, id: &InstanceId) -> bool {
        let Some(running) = self.instances.get_mut(service) else { return false };
        if running.get(id).is_none_or(|(owner, _)| owner != machine) {
            return false;
        }
        running.remove(id);
        if running.is_empty() {
            self.instances.remove(service);
        }
        true
    }
}

impl Fold {
    /// Takes in what a subscription was sent as its `delivery`-th message (from 1), numbered `sequence` in the stream.
    pub fn take(&mut self, delivery: u64, sequence: u64, event: Event) -> Applied {
        if delivery <= self.delivery {
            return Applied::Same;
        }
        if delivery != self.delivery + 1 {
            return Applied::Gap;
        }
        self.delivery = delivery;
        self.sequence = self.sequence.max(sequence);
        if self.state.apply(event) { Applied::Changed } else { Applied::Same }
    }

    /// The state so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The stream's number of the last event taken in.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}
