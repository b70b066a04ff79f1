//! The operator API's part about deploys and services: what a request holds and what an answer's payload holds.
//!
//! Each request is the content of one variant of `api::Request` (`deploy`, `deploy-preview`, `deploy-attach`, `service-list`,
//! `service-inspect`, `service-logs`, `service-remove`), each answer that of one variant of `api::Payload`.

use crate::id::{DeployId, InstanceId, MachineId, Namespace, ServiceName};
use crate::wire::v1::deploy::{
    CommittedService, DeployEvent, DeployFailure, DeployPhase, InstanceSeen, LogLine, Preview,
};
use crate::wire::v1::manifest::{ImageRef, Manifest};
use serde::{Deserialize, Serialize};

/// `deploy`: bring a namespace, or one service of it, to what a manifest says. `deploy-preview`: say what that would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The manifest.
    pub manifest: Box<Manifest>,
    /// Only this service; the others stay (`deploy service`). `None` = the manifest is the whole namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<ServiceName>,
    /// Refuse with `BASELINE_CHANGED` unless this is what the plan starts from: a preview's `baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_baseline: Option<DeployId>,
}

/// `deploy-attach`: show a deploy from its beginning to its end, or give it up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployAttachRequest {
    /// Which; `None` = the latest that is under way on this machine, else the latest that ended there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<DeployId>,
    /// Undo it; `DEPLOY_COMMITTED` when it is too late for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
}

/// Which deploy a line of progress is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployMark {
    /// The deploy.
    pub id: DeployId,
    /// Its namespace.
    pub namespace: Namespace,
    /// Whether it is committed: then it cannot be undone.
    pub committed: bool,
}

/// `service-list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceListRequest {
    /// Only of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
}

/// `service-inspect`, `service-remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRequest {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub service: ServiceName,
}

/// `service-logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLogsRequest {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub service: ServiceName,
    /// Only of this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// At most so many lines an instance, the newest.
    pub tail: u32,
    /// Only lines after this time (nanoseconds since 1970).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// `deploy`, `service-remove`: how it went. A failed deploy's envelope carries it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployReport {
    /// The deploy; `None` when there was nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_id: Option<DeployId>,
    /// What it was to do.
    pub preview: Preview,
    /// How it ended.
    pub state: DeployState,
    /// What was done, in order.
    pub events: Vec<DeployEvent>,
    /// What went wrong; with `cleanup-pending`, what is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<DeployFailure>,
}

/// How a deploy stands or ended.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum DeployState {
    /// There was nothing to do.
    Unchanged,
    /// Before its commit.
    Applying,
    /// Committed and cleaned up.
    Committed,
    /// Committed; some machine has still to remove old instances, which it does when it is back.
    CleanupPending,
    /// Not committed, and all of it was undone.
    Failed,
    /// Not committed, and not undone everywhere yet: some machine does its part when it is back.
    UndoPending,
}

/// `deploy-preview`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployPreview {
    /// What a deploy would do now.
    pub preview: Preview,
}

/// `service-list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceList {
    /// By namespace and name.
    pub services: Vec<ServiceRow>,
    /// Machines that did not say what they run: instances on them are not counted as ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<MachineId>,
}

/// A service in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub service: ServiceName,
    /// Its image.
    pub image: ImageRef,
    /// Its revision.
    pub revision: String,
    /// Instances it should have.
    pub wanted: u32,
    /// Instances that are ready.
    pub ready: u32,
    /// `replicated` or `global`.
    pub mode: String,
    /// Its routes: `shop.example.org/api`, `tcp 5432`.
    pub routes: Vec<String>,
    /// The deploy that last changed it.
    pub deploy: DeployId,
    /// Where the namespace's latest deploy stands, while it is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<DeployPhase>,
}

/// `service-inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDetail {
    /// Its namespace.
    pub namespace: Namespace,
    /// What was committed.
    pub committed: CommittedService,
    /// What runs, and where.
    pub instances: Vec<InstanceRow>,
    /// Machines that did not say what they run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<MachineId>,
}

/// An instance and its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// The machine.
    pub machine: MachineId,
    /// Whether it is the committed one of its slot.
    pub current: bool,
    /// What its machine says.
    #[serde(flatten)]
    pub seen: InstanceSeen,
}

/// `service-logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLogs {
    /// By time.
    pub lines: Vec<ServiceLogLine>,
    /// Instances whose lines are missing, with why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ServiceLogMissing>,
}

/// An instance whose log was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLogMissing {
    /// The instance.
    pub instance: InstanceId,
    /// Why.
    pub why: String,
}

/// A line and who printed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLogLine {
    /// The instance.
    pub instance: InstanceId,
    /// The machine.
    pub machine: MachineId,
    /// The line.
    #[serde(flatten)]
    pub line: LogLine,
}

impl DeployState {
    /// Of a deploy in this phase.
    pub fn of(phase: DeployPhase, failed: bool) -> Self {
        match phase {
            DeployPhase::Cleaned => Self::Committed,
            DeployPhase::Undone => Self::Failed,
            DeployPhase::Committed | DeployPhase::Routed | DeployPhase::Drained => Self::CleanupPending,
            _ if failed => Self::UndoPending,
            _ => Self::Applying,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
