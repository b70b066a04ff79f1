//! What a deploy would do: a value to print, to compare and to carry out. It is made by `deploy::plan`.

use crate::id::{DeployId, InstanceId, MachineId, Namespace, ServiceName};
use crate::wire::v1::deploy::operation::Operation;
use crate::wire::v1::manifest::{ImageDigest, ImageRef, Order};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What a deploy would do to one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The namespace.
    pub namespace: Namespace,
    /// Fingerprint of the manifest.
    pub manifest_hash: String,
    /// The deploy whose outcome it starts from; `None` = nothing was ever committed.
    pub baseline: Option<DeployId>,
    /// By name, the unchanged ones too.
    pub services: Vec<ServiceChange>,
    /// Containers of this namespace that belong to no committed slot; they are removed with the old ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strays: Vec<Stray>,
    /// Machines that are asked to do something. All of them must answer before anything is done.
    pub participants: BTreeSet<MachineId>,
    /// Groups of slots that are started together: one group after the other, each until it is ready.
    pub waves: Vec<Vec<Wave>>,
    /// Images that are fetched first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulls: Vec<ImagePull>,
    /// Which command goes to which machine if nothing fails, in order, after the images were fetched. Empty where there is
    /// nothing to do, and from an older version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// What an operator should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An image that machines lack. They get it from its registry, and those that cannot from a machine that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePull {
    /// Its name in the manifest.
    pub image: ImageRef,
    /// What that is, for all machines of this deploy.
    pub digest: ImageDigest,
    /// Those that lack it.
    pub on: BTreeSet<MachineId>,
}

/// What it would do to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    /// The service.
    pub service: ServiceName,
    /// What happens.
    pub action: Action,
    /// Its revision now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// Its revision after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_revision: Option<String>,
    /// By slot.
    pub slots: Vec<SlotChange>,
}

/// What it would do to one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotChange {
    /// Its number, from 0.
    pub slot: u32,
    /// What happens.
    pub action: Action,
    /// What runs there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Placed>,
    /// What runs there after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Placed>,
}

/// An instance and its machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Placed {
    /// The machine.
    pub machine: MachineId,
    /// The instance.
    pub instance: InstanceId,
}

/// A container of the namespace that no committed slot knows: what is left of a deploy that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stray {
    /// The service by its label.
    pub service: ServiceName,
    /// Where and which.
    #[serde(flatten)]
    pub placed: Placed,
}

/// What happens to a service or slot.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Action {
    /// It is new.
    Create,
    /// Its containers are exchanged.
    Replace,
    /// Services only: its containers stay, but their number, routes, ports or readiness change.
    Update,
    /// It goes.
    Remove,
    /// Nothing.
    Unchanged,
}

/// Slots of one service that are started together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// The service.
    pub service: ServiceName,
    /// What comes first where a slot has both an old and a new instance.
    pub order: Order,
    /// The slots.
    pub slots: Vec<u32>,
}

impl Preview {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.strays.is_empty() && self.services.iter().all(|service| service.action == Action::Unchanged)
    }

    /// Every slot in which an instance comes or goes, with its service.
    pub fn changes(&self) -> impl Iterator<Item = (&ServiceChange, &SlotChange)> {
        self.services
            .iter()
            .flat_map(|service| service.slots.iter().map(move |slot| (service, slot)))
            .filter(|(_, slot)| slot.action != Action::Unchanged)
    }

    fn phases(&self) -> String {
        let starts = self.changes().filter(|(_, slot)| slot.next.is_some()).count();
        let stops = self.changes().filter(|(_, slot)| slot.current.is_some()).count();
        let mut phases = Vec::new();
        if !self.pulls.is_empty() {
            phases.push(format!("pull {}", count(self.pulls.len(), "image")));
        }
        if !self.participants.is_empty() {
            phases.push(format!("probe {}", count(self.participants.len(), "machine")));
        }
        if starts > 0 {
            phases.push(format!("start {starts} in {}", count(self.waves.len(), "wave")));
            phases.push("wait until ready".to_owned());
        }
        phases.push("commit".to_owned());
        phases.push("route".to_owned());
        if stops > 0 {
            phases.push(format!("drain {stops}"));
        }
        if stops + self.strays.len() > 0 {
            phases.push(format!("remove {}", stops + self.strays.len()));
        }
        phases.join(", ")
    }
}

impl Action {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.instance, self.machine)
    }
}

impl fmt::Display for SlotChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}  {:<9}  ", self.slot, self.action)?;
        match (&self.current, &self.next) {
            (Some(old), Some(new)) if old == new => write!(f, "{old}"),
            (Some(old), Some(new)) => write!(f, "{old} -> {new}"),
            (Some(only), None) | (None, Some(only)) => write!(f, "{only}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for ServiceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = match (&self.current_revision, &self.next_revision) {
            (Some(old), Some(new)) if old != new => format!("  {} -> {}", short(old), short(new)),
            (_, Some(new)) => format!("  {}", short(new)),
            _ => String::new(),
        };
        writeln!(f, "{}  {}{revision}", self.service, self.action)?;
        self.slots.iter().try_for_each(|slot| writeln!(f, "{slot}"))
    }
}

impl fmt::Display for ImagePull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<&str> = self.on.iter().map(MachineId::as_str).collect();
        let pinned = self.image.digest().is_some();
        let digest = if pinned { String::new() } else { format!(" ({})", self.digest) };
        write!(f, "pull {}{digest} on {}", self.image, on.join(", "))
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.services.iter().filter(|service| service.action != Action::Unchanged).count();
        let services = count(self.services.len(), "service");
        writeln!(f, "namespace {}: {services}, {changed} to change", self.namespace)?;
        self.services.iter().try_for_each(|service| write!(f, "{service}"))?;
        for stray in &self.strays {
            writeln!(f, "orphan  remove  {}", stray.placed)?;
        }
        self.pulls.iter().try_for_each(|pull| writeln!(f, "{pull}"))?;
        if !self.is_empty() {
            writeln!(f, "phases: {}", self.phases())?;
        }
        self.operations.iter().try_for_each(|operation| writeln!(f, "{operation}"))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Version and eight digits of a fingerprint.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(11).collect()
}
