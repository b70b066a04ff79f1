//! A node in memory for the reconciler and the teardown: operations change it as the kernel and systemd would, and it can fail
//! one or ignore a restart. A daemon is killed in front of any of them by `state::crash`.

use super::error::{UnitCause, UnitError};
use crate::node::teardown::Part;
use crate::state::crash;
use parking_lot::{Mutex, MutexGuard};
use ployz_core::adopt::{Op, Seen};
use ployz_core::live::{FirewallLive, NodeLive, UnitLive};
use ployz_core::spec::{NodeSpec, UnitName};
use std::sync::Arc;

/// What is there, to change it.
macro_rules! present {
    ($seen:expr) => {
        match &mut $seen {
            Seen::Present(live) => live,
            other => panic!("not present: {other:?}"),
        }
    };
}

/// The node as it should be, and as it is found.
#[allow(dead_code)]
#[path = "../../../../core/tests/plan/node.rs"]
pub mod node;
#[allow(dead_code)]
#[path = "../../../../core/tests/plan/world.rs"]
mod world;

/// A node that outlives the reconcilers that work on it; clones are the same node.
#[derive(Clone)]
pub struct Fake(Arc<Mutex<State>>);

/// What it is and how it behaves.
pub struct State {
    /// What an inspection finds.
    pub live: NodeLive,
    /// Operations that were carried out, as a plan prints them.
    pub effects: Vec<String>,
    /// The operation that fails, as a plan prints it.
    pub fails: Option<String>,
    /// What the store's unit is whatever is started.
    pub stuck: Option<UnitLive>,
}

impl Fake {
    /// A machine that nothing runs on.
    pub fn bare() -> Self {
        let live = NodeLive {
            netns: Seen::Absent,
            tunnel: Seen::Absent,
            wireguard: Seen::Absent,
            link: Seen::Absent,
            firewall: Seen::Absent,
            nats: Seen::Absent,
            gateway: Seen::Absent,
            dns: Seen::Absent,
        };
        let state = State { live, effects: Vec::new(), fails: None, stuck: None };
        Self(Arc::new(Mutex::new(state)))
    }

    /// To look at it, or to change what it does.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// What is there.
    pub fn inspect(&self) -> NodeLive {
        self.state().live.clone()
    }

    /// Carries out one operation.
    pub fn apply(&self, op: &Op, spec: &NodeSpec) -> Result<(), UnitError> {
        self.change(op.to_string(), |live| world::apply(op, spec, live))?;
        let mut state = self.state();
        if let (Some(unit), Seen::Present(nats)) = (state.stuck.clone(), &mut state.live.nats) {
            nats.unit = unit;
        }
        Ok(())
    }

    /// Takes one part down.
    pub fn remove(&self, part: &Part, spec: &NodeSpec) -> Result<(), UnitError> {
        self.change(format!("take down {part:?}"), |live| match part {
            Part::Unit(name) => world::apply(&Op::StopUnit(name.clone()), spec, live),
            Part::Sidecar(name) => world::apply(&Op::StopSidecar(name.clone()), spec, live),
            // The other table goes with its namespace.
            Part::Firewall => {
                if let Seen::Present(firewall) = &mut live.firewall {
                    firewall.host = None;
                }
            }
            Part::DockerNetwork | Part::StaleNetns => {}
            Part::Link => live.link = Seen::Absent,
            Part::Wireguard => world::apply(&Op::RemoveWireguard(spec.wireguard.name.clone()), spec, live),
            Part::Netns => world::apply(&Op::RemoveNetns(spec.netns.name.clone()), spec, live),
        })
    }

    fn change(&self, what: String, change: impl FnOnce(&mut NodeLive)) -> Result<(), UnitError> {
        crash::effect();
        let mut state = self.state();
        if state.fails.as_ref() == Some(&what) {
            return Err(UnitError::new("change", &UnitName::NATS, UnitCause::Other("no room".into())));
        }
        change(&mut state.live);
        if matches!(&state.live.firewall, Seen::Present(firewall) if *firewall == FirewallLive::default()) {
            state.live.firewall = Seen::Absent;
        }
        state.effects.push(what);
        Ok(())
    }
}
