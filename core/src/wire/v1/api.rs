//! The operator API: HTTP/1.1 + JSON on the daemon's Unix socket.
//!
//! `POST /v1/call` takes a [`Request`] and streams newline-delimited [`Event`]s, the last of which is the result.
//! `GET /v1/{status,ready,networks,machines,self-record}` are for `curl`; they answer with one [`Envelope`].

use crate::address::NamedEndpoint;
use crate::adopt::{Component, Plan};
use crate::id::{InviteId, MachineId, NetworkName};
use crate::key::PublicKey;
use crate::wire::v1::api_deploy::{
    DeployAttachRequest, DeployMark, DeployPreview, DeployReport, DeployRequest, ServiceDetail, ServiceList,
    ServiceListRequest, ServiceLogs, ServiceLogsRequest, ServiceRequest,
};
use crate::wire::v1::certificate::{CertificateImport, CertificateRequest, CertificateRow};
use crate::wire::v1::doctor::Doctor;
pub use crate::wire::v1::error::{Asked, ErrorCode};
use crate::wire::v1::image::{ImagePushReport, ImagePushRequest};
use crate::wire::v1::record::MachineMembership;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What an operator may ask for.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Overview of the daemon and its data plane.
    Status,
    /// Checks of this machine.
    Doctor,
    /// The last plan for one component, or for all and the containers.
    Explain {
        /// Which; `None` = all.
        component: Option<Component>,
        /// The containers alone.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        containers: bool,
    },
    /// All networks on this machine.
    MeshList,
    /// One network in detail.
    MeshStatus {
        /// Which; `None` = the running one, or the only one of this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
    },
    /// Makes a network's record, keys and subnet; starts nothing.
    MeshCreate {
        /// Its name.
        network: NetworkName,
    },
    /// Create, start and make current.
    MeshInit {
        /// Its name.
        network: NetworkName,
    },
    /// Starts an existing network.
    MeshStart {
        /// Which; `None` = the only one of this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
        /// Its state was moved to this machine for good: it is no copy.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restored: bool,
    },
    /// Stops the active network.
    MeshStop {
        /// Although workloads depend on it.
        force: bool,
    },
    /// Joins the network a token is for.
    MeshJoin {
        /// The token.
        token: String,
    },
    /// Whether the mesh can take work.
    MeshReady,
    /// Removes a network for good.
    MeshDestroy {
        /// Which.
        network: NetworkName,
        /// Only on this machine, whatever the peers say.
        local: bool,
    },
    /// This machine's membership record.
    MeshSelfRecord,
    /// All members.
    MachineList,
    /// Makes an invite.
    InviteCreate {
        /// Seconds until it expires.
        ttl_secs: u64,
        /// Endpoints of this machine for the token, before its own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        endpoints: Vec<NamedEndpoint>,
        /// Of which network; `None` = the running one. Only its founder answers for one that is not running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
    },
    /// All invites.
    InviteList {
        /// Of which network; `None` = the running one. Only its founder answers for one that is not running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
    },
    /// Takes an invite back.
    InviteRevoke {
        /// Which.
        invite: InviteId,
        /// Of which network; `None` = the running one. Only its founder answers for one that is not running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
    },
    /// Puts a certificate with its key into the store.
    CertificateImport(CertificateImport),
    /// All certificates in the store, without their keys.
    CertificateList,
    /// Takes a certificate out of the store.
    CertificateRemove(CertificateRequest),
    /// Brings a namespace, or one service of it, to what a manifest says.
    Deploy(DeployRequest),
    /// Says what that would do.
    DeployPreview(DeployRequest),
    /// Follows a deploy from its beginning to its end, or gives it up.
    DeployAttach(DeployAttachRequest),
    /// Services of one namespace, or of all.
    ServiceList(ServiceListRequest),
    /// One service in detail.
    ServiceInspect(ServiceRequest),
    /// What a service printed.
    ServiceLogs(ServiceLogsRequest),
    /// Removes one service from its namespace: a deploy of its own.
    ServiceRemove(ServiceRequest),
    /// Sends an image of this machine's engine to other machines.
    ImagePush(ImagePushRequest),
    /// Says what that would do.
    ImagePushPreview(ImagePushRequest),
}

/// One line of the answer's stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// What is being done.
    Progress {
        /// One line for a person.
        message: String,
        /// The deploy it is of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deploy: Option<DeployMark>,
    },
    /// The end.
    Result {
        /// The answer.
        #[serde(flatten)]
        envelope: Box<Envelope>,
    },
}

/// The answer to every request; what `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Whether it was done.
    pub ok: bool,
    /// `OK` or an [`ErrorCode`].
    pub code: String,
    /// One line for a person.
    pub message: String,
    /// Causes, outermost first (errors only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it (errors only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// Typed results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Payload {
    /// [`Request::Status`].
    Status(Status),
    /// [`Request::Explain`].
    Explain(Explain),
    /// [`Request::MeshList`].
    MeshList {
        /// By name.
        networks: Vec<NetworkSummary>,
    },
    /// [`Request::MeshStatus`].
    MeshStatus(MeshStatus),
    /// [`Request::MeshReady`].
    MeshReady(MeshReady),
    /// [`Request::MeshSelfRecord`].
    MeshSelfRecord {
        /// The record.
        record: Box<MachineMembership>,
    },
    /// [`Request::MachineList`].
    MachineList {
        /// By id.
        rows: Vec<MachineMembership>,
    },
    /// [`Request::InviteCreate`].
    MachineInviteCreate {
        /// The secret token.
        token: String,
        /// Its invite.
        invite_id: InviteId,
        /// Unix seconds.
        expires_at: u64,
        /// What the operator should know about it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// [`Request::InviteList`].
    MachineInviteList {
        /// Oldest first.
        invites: Vec<InviteRow>,
    },
    /// [`Request::Doctor`].
    Doctor(Doctor),
    /// [`Request::CertificateImport`], [`Request::CertificateList`].
    CertificateList {
        /// By name.
        certificates: Vec<CertificateRow>,
    },
    /// [`Request::Deploy`], [`Request::ServiceRemove`], [`Request::DeployAttach`]; when they failed too.
    Deploy(Box<DeployReport>),
    /// [`Request::DeployPreview`].
    DeployPreview(Box<DeployPreview>),
    /// [`Request::ServiceList`].
    ServiceList(ServiceList),
    /// [`Request::ServiceInspect`].
    ServiceInspect(Box<ServiceDetail>),
    /// [`Request::ServiceLogs`].
    ServiceLogs(ServiceLogs),
    /// [`Request::ImagePush`]; when it failed too.
    ImagePush(ImagePushReport),
    /// [`Request::ImagePushPreview`].
    ImagePushPreview(ImagePushReport),
}

/// A network on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSummary {
    /// Its name.
    pub name: NetworkName,
    /// `running`, `stopped` or the phase in between.
    pub state: String,
    /// Whether it is the current one.
    pub active: bool,
}

/// One network in detail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Its name.
    pub network: NetworkName,
    /// This machine's overlay address.
    pub overlay_ip: Ipv6Addr,
    /// `running`, `stopped` or the phase in between.
    pub lifecycle: String,
    /// This machine's node subnet.
    pub subnet: String,
    /// This machine's service address.
    pub service_ip: IpAddr,
    /// Range of the whole cluster.
    pub cluster_cidr: String,
    /// The other members.
    pub peers: Vec<PeerStatus>,
    /// The operation of a reconciliation that has been under way for more than a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningOperation>,
}

/// One peer as this machine sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its id.
    pub id: MachineId,
    /// Its key.
    pub public_key: PublicKey,
    /// Its overlay address.
    pub overlay_ip: Ipv6Addr,
    /// Its node subnet.
    pub subnet: String,
    /// Endpoint in use.
    pub endpoint: Option<SocketAddr>,
    /// What it offers, best first.
    pub candidates: Vec<SocketAddr>,
    /// Seconds since the last handshake; `None` = never.
    pub handshake_age_secs: Option<u64>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Round trip of the last probe in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether probes are answered.
    pub reachable: bool,
}

/// Whether the mesh can take work, and if not, why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshReady {
    /// All of it.
    pub ready: bool,
    /// Where the start stands.
    pub phase: Phase,
    /// The store answers.
    pub store_healthy: bool,
    /// Records of peers are being followed.
    pub sync_connected: bool,
    /// The bridge with this machine's node subnet is there.
    pub workload_subnet_present: bool,
    /// Why it is not ready, one line a reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Phases of a mesh on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Phase {
    /// Nothing runs.
    Stopped,
    /// Reading the state.
    Starting,
    /// Bringing the data plane to what it should be.
    Provisioning,
    /// Connecting to the store.
    Bootstrapping,
    /// All there.
    Running,
    /// Taking it down.
    Stopping,
}

/// Overview.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Unix seconds.
    pub started_at: u64,
    /// `host`.
    pub runtime: String,
    /// `system` or `user`.
    pub service_mode: String,
    /// The active network.
    pub network: Option<NetworkName>,
    /// This machine's id in it.
    pub machine_id: Option<MachineId>,
    /// This machine's overlay address.
    pub overlay_ip: Option<Ipv6Addr>,
    /// Where it stands.
    pub phase: Phase,
    /// What happened to each component at the last reconciliation.
    pub components: Vec<ComponentStatus>,
    /// Parts of the daemon that talk to others.
    pub control_plane: Vec<ControlPlaneStatus>,
}

/// What happened to one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Which.
    pub component: Component,
    /// `adopt`, `converge`, `create`, `recreate` or `hold`.
    pub verdict: String,
    /// Each drifted field, or why it is held.
    pub reasons: Vec<String>,
    /// `ok`, `held` or `failed`.
    pub outcome: String,
    /// The error when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A few facts of the live component: pid, interface index, inode.
    #[serde(default)]
    pub facts: std::collections::BTreeMap<String, String>,
}

/// One part of the daemon that talks to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPlaneStatus {
    /// Its name.
    pub component: String,
    /// Whether it works.
    pub healthy: bool,
    /// Since when it does not; Unix seconds.
    pub stale_since_unix_secs: Option<u64>,
    /// The last error.
    pub error: Option<String>,
}

/// The last plans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explain {
    /// Newest last.
    pub runs: Vec<ExplainRun>,
    /// The containers of this machine as they are now; `None` = they were not asked for, or no network runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<ExplainContainers>,
}

/// Containers of services as they are now. None of them is in a plan: deploys make and remove them, Docker restarts them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainContainers {
    /// By name.
    pub rows: Vec<ContainerStatus>,
    /// Why they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// The verdict on one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name in Docker.
    pub container: String,
    /// `adopt`, `create`, `recreate` or `hold`; what is to be made is made by the next deploy.
    pub verdict: String,
    /// Each drifted field, why it is held, or what else there is to say.
    pub reasons: Vec<String>,
}

/// One reconciliation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainRun {
    /// Unix seconds.
    pub at: u64,
    /// What started it, for example `daemon start`.
    pub trigger: String,
    /// How long it took.
    pub took_ms: u64,
    /// The lines, as in the journal.
    pub lines: Vec<String>,
    /// The operations that were planned, in order, one line each; empty when nothing was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// The same, typed.
    pub components: Vec<ComponentStatus>,
}

/// What a reconciliation is doing now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningOperation {
    /// For which component.
    pub component: Component,
    /// The operation, as in `explain`.
    pub operation: String,
    /// Since when, Unix seconds.
    pub since: u64,
}

/// An invite as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRow {
    /// Its id.
    pub invite_id: InviteId,
    /// Unix seconds.
    pub expires_at: u64,
    /// `active`, `redeemed`, `consumed`, `revoked` or `expired`.
    pub status: String,
    /// Who issued it.
    pub issuer: MachineId,
    /// Who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed_by: Option<MachineId>,
}

impl Envelope {
    /// A success.
    pub fn ok(message: impl Into<String>, payload: Option<Payload>) -> Self {
        Self { ok: true, code: "OK".into(), message: message.into(), causes: Vec::new(), hint: None, payload }
    }

    /// A failure.
    pub fn error(code: ErrorCode, message: impl Into<String>, causes: Vec<String>) -> Self {
        let hint = Some(code.hint().to_owned());
        Self { ok: false, code: code.as_str().into(), message: message.into(), causes, hint, payload: None }
    }
}

impl RunningOperation {
    /// Whether `status` shows it at `now` (Unix seconds): one that began a moment ago is over before it is read.
    pub fn is_slow(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > 1
    }
}

impl ComponentStatus {
    /// The status lines of a plan before it is applied.
    pub fn of(plan: &Plan) -> Vec<Self> {
        plan.steps
            .iter()
            .map(|step| Self {
                component: step.component,
                verdict: step.verdict.word().to_owned(),
                reasons: Some(step.verdict.why()).filter(|why| !why.is_empty()).into_iter().collect(),
                outcome: if step.verdict.word() == "hold" { "held" } else { "ok" }.to_owned(),
                error: None,
                facts: Default::default(),
            })
            .collect()
    }
}
