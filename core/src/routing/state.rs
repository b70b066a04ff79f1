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
    /// Instances by service. The machine is where it runs, and part of what tells instances apart: two machines that
    /// claim one id are two keys of the stream, and what one of them takes back must not take the other's along.
    pub instances: BTreeMap<ServiceRef, BTreeMap<(InstanceId, MachineId), InstanceRoute>>,
}

/// How far what is served can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Never filled: nothing may be answered from it.
    #[default]
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
    /// Where requests for a service may go: current, ready, not draining, of the current revision, and in its machine's node subnet.
    pub fn routable(
        &self,
        service: &ServiceRef,
    ) -> impl Iterator<Item = (&InstanceId, &MachineId, &InstanceRoute)> {
        let current = self.services.get(service);
        let running = self.instances.get(service);
        current.into_iter().zip(running).flat_map(move |(current, running)| {
            running.iter().filter_map(move |((id, machine), instance)| {
                let fits = current.instances.contains(id) && instance.revision == current.revision;
                let fits = fits && self.speaks_for(machine, instance.address);
                (fits && instance.ready && !instance.draining).then_some((id, machine, instance))
            })
        })
    }

    /// Takes in one event; whether anything is different now.
    ///
    /// A value of another kind than its key takes the key away ([`crate::routing::Unreadable::event`] says why).
    pub fn apply(&mut self, event: Event) -> bool {
        match (event.key, event.value) {
            (Key::Machine(id), Some(Value::Machine(value))) => put(&mut self.machines, id, value),
            (Key::Machine(id), _) => self.machines.remove(&id).is_some(),
            (Key::Service(id), Some(Value::Service(value))) => put(&mut self.services, id, value),
            (Key::Service(id), _) => self.services.remove(&id).is_some(),
            (Key::Instance(machine, service, id), Some(Value::Instance(value))) => {
                put(self.instances.entry(service).or_default(), (id, machine), value)
            }
            (Key::Instance(machine, service, id), _) => self.forget(&service, &(id, machine)),
        }
    }

    /// All of it, as the events that make it again.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let machines = self.machines.iter().map(|(id, value)| Event {
            key: Key::Machine(id.clone()),
            value: Some(Value::Machine(value.clone())),
        });
        let services = self.services.iter().map(|(id, value)| Event {
            key: Key::Service(id.clone()),
            value: Some(Value::Service(value.clone())),
        });
        let instances = self.instances.iter().flat_map(|(service, running)| {
            running.iter().map(|((id, machine), value)| Event {
                key: Key::Instance(machine.clone(), service.clone(), id.clone()),
                value: Some(Value::Instance(value.clone())),
            })
        });
        machines.chain(services).chain(instances)
    }

    fn forget(&mut self, service: &ServiceRef, instance: &(InstanceId, MachineId)) -> bool {
        let Some(running) = self.instances.get_mut(service) else { return false };
        let known = running.remove(instance).is_some();
        if running.is_empty() {
            self.instances.remove(service);
        }
        known
    }
}

impl Fold {
    /// Takes in what a subscription was sent as its `delivery`-th message (from 1), numbered `sequence` in the stream;
    /// `None` when it is about no key.
    pub fn take(&mut self, delivery: u64, sequence: u64, event: impl Into<Option<Event>>) -> Applied {
        if delivery <= self.delivery {
            return Applied::Same;
        }
        if delivery != self.delivery + 1 {
            return Applied::Gap;
        }
        self.delivery = delivery;
        self.sequence = self.sequence.max(sequence);
        if event.into().is_some_and(|event| self.state.apply(event)) {
            Applied::Changed
        } else {
            Applied::Same
        }
    }

    /// Takes in how many messages the subscription was sent in all: without that, the loss of the last ones would show
    /// only when another one follows.
    pub fn heard(&self, sent: u64) -> Applied {
        if sent > self.delivery { Applied::Gap } else { Applied::Same }
    }

    /// The state so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state, for when the subscription is over.
    pub fn into_state(self) -> State {
        self.state
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(n: u8) -> Event {
        let text = format!(r#"{{"kind":"machine","overlay_ip":"fd00::{n}","subnet":"10.101.{n}.0/24"}}"#);
        Event::parse(&format!("machine.n{n}"), text.as_bytes()).unwrap()
    }

    fn instance(machine: &str, id: &str, more: &str) -> Event {
        let text = format!(
            r#"{{"kind":"instance","address":"10.101.1.3","revision":"r1","deploy":"00112233445566aa","slot":0{more}}}"#
        );
        Event::parse(&format!("instance.{machine}.shop.web.{id}"), text.as_bytes()).unwrap()
    }

    #[test]
    fn a_hole_asks_for_a_rebuild_and_changes_nothing() {
        let mut fold = Fold::default();
        assert_eq!(fold.take(1, 10, machine(1)), Applied::Changed);
        assert_eq!(fold.take(1, 10, machine(2)), Applied::Same, "seen before");
        assert_eq!(fold.take(3, 12, machine(3)), Applied::Gap);
        assert_eq!((fold.state().machines.len(), fold.sequence()), (1, 10));
        assert_eq!(fold.take(2, 11, machine(1)), Applied::Same, "nothing new");
        assert_eq!(fold.sequence(), 11);
    }

    #[test]
    fn a_lost_end_is_noticed_by_the_count() {
        let mut fold = Fold::default();
        assert_eq!(fold.heard(0), Applied::Same);
        fold.take(1, 1, machine(1));
        assert_eq!((fold.heard(1), fold.heard(2)), (Applied::Same, Applied::Gap));
    }

    #[test]
    fn an_event_about_no_key_is_counted() {
        let mut fold = Fold::default();
        assert_eq!(fold.take(1, 5, None), Applied::Same);
        assert_eq!(fold.take(2, 6, machine(1)), Applied::Changed);
    }

    #[test]
    fn what_one_machine_takes_back_stays_with_the_other() {
        let mut state = State::default();
        state.apply(instance("n1", "web-1", r#","ready":true"#));
        state.apply(instance("n2", "web-1", r#","ready":true"#));
        let gone = Event { value: None, ..instance("n2", "web-1", r#","ready":true"#) };
        assert!(state.apply(gone.clone()) && !state.apply(gone));
        let left: Vec<_> = state.events().map(|event| event.key.to_string()).collect();
        assert_eq!(left, ["instance.n1.shop.web.web-1"]);
    }

    #[test]
    fn requests_go_to_what_is_current_ready_and_staying() {
        let mut state = State::default();
        for (id, more) in [
            ("good", r#","ready":true"#),
            ("starting", r#","ready":false"#),
            ("leaving", r#","ready":true,"draining":true"#),
            ("replaced", r#","ready":true"#),
        ] {
            state.apply(instance("n1", id, more));
        }
        let service: ServiceRef =
            ServiceRef { namespace: "shop".parse().unwrap(), service: "web".parse().unwrap() };
        assert_eq!(state.routable(&service).count(), 0, "nothing is committed");
        let commit = |revision: &str| {
            let text = format!(
                r#"{{"kind":"service","deploy":"00112233445566aa","revision":"{revision}","instances":["good","starting","leaving"]}}"#
            );
            Event::parse("service.shop.web", text.as_bytes()).unwrap()
        };
        state.apply(commit("r1"));
        let ids: Vec<_> = state.routable(&service).map(|(id, ..)| id.as_str()).collect();
        assert_eq!(ids, ["good"]);
        state.apply(commit("r2"));
        assert_eq!(state.routable(&service).count(), 0, "of another revision");
    }
}
