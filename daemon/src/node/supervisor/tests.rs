//! A node in memory for the reconciler: operations change it as the kernel and systemd would, and it can fail one, ignore a
//! restart, or stop in front of any effect as a daemon that is killed there.

use super::error::{UnitCause, UnitError};
use ployz_core::adopt::{Op, Seen};
use ployz_core::live::{NodeLive, UnitLive};
use ployz_core::spec::{NodeSpec, UnitName};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

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
pub struct Fake(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    killed: Notify,
}

/// What it is and how it behaves.
pub struct State {
    /// What an inspection finds.
    pub live: NodeLive,
    /// Operations that were carried out, as a plan prints them.
    pub effects: Vec<String>,
    /// Effects until the daemon is killed; `None` = it is not.
    pub left: Option<usize>,
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
        let state = State { live, effects: Vec::new(), left: None, fails: None, stuck: None };
        Self(Arc::new(Inner { state: Mutex::new(state), killed: Notify::new() }))
    }

    /// To look at it, or to change what it does.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Returns when the daemon is to be killed.
    pub async fn killed(&self) {
        self.0.killed.notified().await;
    }

    /// What is there.
    pub fn inspect(&self) -> NodeLive {
        self.state().live.clone()
    }

    /// Carries out one operation; never returns where the daemon is killed in front of it.
    pub async fn apply(&self, op: &Op, spec: &NodeSpec) -> Result<(), UnitError> {
        if self.state().left == Some(0) {
            self.0.killed.notify_one();
            return std::future::pending().await;
        }
        let mut state = self.state();
        if state.fails.as_ref() == Some(&op.to_string()) {
            return Err(UnitError::new("change", &UnitName::NATS, UnitCause::Other("no room".into())));
        }
        state.left = state.left.map(|left| left - 1);
        world::apply(op, spec, &mut state.live);
        state.effects.push(op.to_string());
        if let (Some(unit), Seen::Present(nats)) = (state.stuck.clone(), &mut state.live.nats) {
            nats.unit = unit;
        }
        Ok(())
    }
}
