//! The operations of a deploy: which command goes to which machine, in which order. A preview shows them, and the
//! coordinator sends what the list holds; `deploy::operations` makes it.

use crate::id::{InstanceId, MachineId, ServiceName};
use crate::wire::v1::deploy::{DeployPhase, Owed};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One command to one machine, or one write to the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its place in the order, from 1. A step begins when the one before it is done; operations of one step go to all
    /// machines at once, and to one machine in the order of the list.
    pub step: u32,
    /// The phase that is reached when all its operations are done.
    pub phase: DeployPhase,
    /// Where; `None` = the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// What is done.
    pub command: OperationKind,
    /// In which wave, from 1; `None` = it belongs to no wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// To what, by service and slot; empty = to the deploy as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
}

/// What an operation is about: an instance, or a service whose routes are published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The service.
    pub service: ServiceName,
    /// The slot; `None` = a service as a whole, or an orphan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// The instance; `None` = a service as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Why, in a few words.
    pub cause: String,
}

/// What is done.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum OperationKind {
    /// Ask a machine whether it could; changes nothing.
    Probe,
    /// Stop old instances and keep them: stop-first.
    Stop,
    /// Start candidates.
    Start,
    /// Wait until candidates are ready.
    AwaitReady,
    /// Write the decision.
    Commit,
    /// Publish the routes of services.
    Route,
    /// Take instances out of service.
    Drain,
    /// Stop and remove instances.
    Remove,
    /// Start again what was stopped.
    Restore,
}

impl OperationKind {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What a machine owes that did not do it after the decision; `None` = it is never owed, because it comes before.
    pub fn owed(self) -> Option<Owed> {
        match self {
            Self::Drain | Self::Remove => Some(Owed::Remove),
            Self::Restore => Some(Owed::Restore),
            Self::Probe | Self::Stop | Self::Start | Self::AwaitReady | Self::Commit | Self::Route => None,
        }
    }
}

impl Operation {
    /// The instances that it is about, in order.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceId> {
        self.targets.iter().filter_map(|target| target.instance.as_ref())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.slot, &self.instance) {
            (Some(slot), _) => write!(f, "{}/{slot}", self.service),
            (None, Some(instance)) => write!(f, "{instance}"),
            (None, None) => write!(f, "{}", self.service),
        }
    }
}

/// `[3] node-2 start web/0, web/1 (new revision); web/4 (new)`
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.machine.as_ref().map_or("store", MachineId::as_str);
        write!(f, "[{}] {place} {}", self.step, self.command)?;
        for (number, group) in self.targets.chunk_by(|a, b| a.cause == b.cause).enumerate() {
            let names: Vec<String> = group.iter().map(ToString::to_string).collect();
            let cause = group.first().map_or("", |target| &target.cause);
            write!(f, "{} {} ({cause})", if number == 0 { "" } else { ";" }, names.join(", "))?;
        }
        Ok(())
    }
}
