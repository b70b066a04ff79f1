//! The durable records of a deploy.
//!
//! [`DeployStatus`]: bucket `deploy_status`, key = namespace, changed only by compare-and-set; it is written *before*
//! what it announces, so that the next coordinator knows what may exist. [`Decision`]: stream `deploy_commits`, one subject
//! a deploy, created and never overwritten. Commit and abandonment compete for that one message, so a coordinator that
//! was thought dead cannot commit what has been undone, and a committed deploy cannot be undone.

use crate::id::{DeployId, MachineId, Namespace, ServiceName};
use crate::wire::v1::api::ErrorCode;
use crate::wire::v1::deploy::command::ImageContent;
use crate::wire::v1::deploy::preview::Placed;
use crate::wire::v1::manifest::{Order, Service};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How far a deploy came: the last phase that is behind it.
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
pub enum DeployPhase {
    /// The namespace is ours; nothing was done.
    Locked,
    /// Every participant agreed. From here on candidates may exist, and old instances may be stopped.
    Probed,
    /// All candidates were started.
    Started,
    /// All candidates are ready.
    Ready,
    /// The decision was written and read back.
    Committed,
    /// The routes were published for gateways and DNS.
    Routed,
    /// Old instances have no connections left, or had their time.
    Drained,
    /// Old instances are gone, or owed by machines that did not answer. The end of a deploy that happened.
    Cleaned,
    /// Candidates are gone and old instances run, or that is owed. The end of a deploy that did not happen.
    Undone,
}

/// Where the latest deploy of a namespace stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployStatus {
    /// [`super::VERSION`].
    pub version: u32,
    /// The namespace.
    pub namespace: Namespace,
    /// The deploy.
    pub deploy: DeployId,
    /// The machine that carries it out.
    pub coordinator: MachineId,
    /// How far it came.
    pub phase: DeployPhase,
    /// The deploy that was committed before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<DeployId>,
    /// Fingerprint of its manifest.
    pub manifest_hash: String,
    /// Everything it does to instances: enough to undo it.
    pub work: Vec<SlotWork>,
    /// Why it did not happen, or what is in the way of its cleaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<DeployFailure>,
    /// What machines could not do after the decision, of this deploy and of those before it: each settles its own
    /// when it reads this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub debts: Vec<Debt>,
    /// Unix seconds.
    pub started_at: u64,
    /// Unix seconds.
    pub updated_at: u64,
}

/// What a deploy does in one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotWork {
    /// The service.
    pub service: ServiceName,
    /// The slot.
    pub slot: u32,
    /// The candidate: removed if the deploy is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Placed>,
    /// The old instance: removed if it is committed, started again if it is undone after it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Placed>,
    /// What comes first.
    pub order: Order,
}

/// What one machine still has to do to one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// The deploy it is left of.
    pub deploy: DeployId,
    /// What is to be done.
    pub owed: Owed,
    /// Where, and to which.
    #[serde(flatten)]
    pub placed: Placed,
}

/// What is still to be done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owed {
    /// Stop and remove it.
    Remove,
    /// Start it again, if it is this deploy that stopped it.
    Restore,
}

/// Why a deploy failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFailure {
    /// An [`ErrorCode`]; a newer machine may send one that this version does not know.
    pub code: String,
    /// One line for a person.
    pub message: String,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// Of which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
}

/// Whether a deploy happened: the one message of its subject in `deploy_commits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// It did: this is what the namespace is now.
    Committed(Box<DeployCommit>),
    /// It did not, and never will.
    Abandoned {
        /// [`super::VERSION`].
        version: u32,
        /// The namespace.
        namespace: Namespace,
        /// The deploy.
        deploy: DeployId,
        /// Who decided that.
        by: MachineId,
        /// Unix seconds.
        at: u64,
    },
}

/// What a namespace is after a deploy, whole, and what the deploy took out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployCommit {
    /// [`super::VERSION`].
    pub version: u32,
    /// The namespace.
    pub namespace: Namespace,
    /// The deploy.
    pub deploy: DeployId,
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<DeployId>,
    /// Who committed it.
    pub coordinator: MachineId,
    /// Unix seconds.
    pub committed_at: u64,
    /// Fingerprint of its manifest.
    pub manifest_hash: String,
    /// All services of the namespace.
    pub services: BTreeMap<ServiceName, CommittedService>,
    /// Services that are no more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<ServiceName>,
    /// Instances that are no more: drained, then removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
}

/// A service as committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedService {
    /// What was asked for.
    pub service: Service,
    /// Fingerprint of what makes its containers.
    pub revision: String,
    /// What its image holds, as far as machines agreed when it was deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ImageContent>,
    /// The deploy that last changed anything of it.
    pub deploy: DeployId,
    /// Its instances by slot.
    #[serde(with = "by_slot")]
    pub slots: BTreeMap<u32, Placed>,
}

/// An instance that a deploy takes out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Retired {
    /// Its service.
    pub service: ServiceName,
    /// Where and which.
    #[serde(flatten)]
    pub placed: Placed,
}

/// The lock of a namespace: bucket `locks`, key `deploy.<namespace>`; created with a time to live, renewed by
/// compare-and-set, removed by its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployLock {
    /// The deploy it is held for.
    pub deploy: DeployId,
    /// Who holds it.
    pub owner: MachineId,
    /// Unix seconds; informs an operator, the store's own time to live decides.
    pub expires_at: u64,
}

impl DeployPhase {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the deploy is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cleaned | Self::Undone)
    }
}

impl Decision {
    /// The commit, if it is one.
    pub fn commit(&self) -> Option<&DeployCommit> {
        match self {
            Self::Committed(commit) => Some(commit),
            Self::Abandoned { .. } => None,
        }
    }

    /// The deploy it is about.
    pub fn deploy(&self) -> &DeployId {
        match self {
            Self::Committed(commit) => &commit.deploy,
            Self::Abandoned { deploy, .. } => deploy,
        }
    }
}

impl DeployFailure {
    /// A failure that has no particular place.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), message: message.into(), machine: None, service: None }
    }

    /// The same, on a machine.
    pub fn on(self, machine: &MachineId) -> Self {
        Self { machine: Some(machine.clone()), ..self }
    }

    /// The same, of a service.
    pub fn of(self, service: &ServiceName) -> Self {
        Self { service: Some(service.clone()), ..self }
    }
}

impl fmt::Display for DeployFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.machine, &self.service) {
            (Some(machine), Some(service)) => write!(f, "{machine}: {service}: {}", self.message),
            (Some(machine), None) => write!(f, "{machine}: {}", self.message),
            (None, Some(service)) => write!(f, "{service}: {}", self.message),
            (None, None) => f.write_str(&self.message),
        }
    }
}

/// Slots as a list: JSON has no numbers as keys.
mod by_slot {
    use super::{BTreeMap, Deserialize, Placed, Serialize};
    use serde::{Deserializer, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Row {
        slot: u32,
        #[serde(flatten)]
        placed: Placed,
    }

    pub(super) fn serialize<S: Serializer>(slots: &BTreeMap<u32, Placed>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(slots.iter().map(|(slot, placed)| Row { slot: *slot, placed: placed.clone() }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<u32, Placed>, D::Error> {
        let rows = Vec::<Row>::deserialize(d)?;
        Ok(rows.into_iter().map(|row| (row.slot, row.placed)).collect())
    }
}
