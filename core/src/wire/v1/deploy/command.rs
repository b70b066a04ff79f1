//! What a coordinator asks of participants: request and reply on `...rpc.<machine>.<command>`, one JSON value each way.
//!
//! Every command can be sent again: instances are known by their ids, and an id is never used twice. A machine that was
//! told to remove an instance refuses to start it afterwards, and nothing is changed after a command's `not_after`, the
//! end of its sender's lock: a coordinator that was asleep cannot bring back what another has undone.

use crate::id::{DeployId, ImageId, InstanceId, Namespace, NetworkId, ServiceName};
use crate::spec::container::PublishedPort;
use crate::wire::v1::deploy::record::DeployFailure;
use crate::wire::v1::manifest::{ImageDigest, ImageRef, Protocol, Service, Span};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A command to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command")]
pub enum DeployCommand {
    /// Could you? Changes nothing.
    #[serde(rename = "deploy.probe")]
    Probe(Probe),
    /// Start these; done when all of them were started, not when they are ready.
    #[serde(rename = "deploy.start")]
    Start(Start),
    /// How ready are these?
    #[serde(rename = "deploy.readiness")]
    Readiness(Instances),
    /// Stop these, but keep them: stop-first, before the commit.
    #[serde(rename = "deploy.stop")]
    Stop(Instances),
    /// Start these again: what [`DeployCommand::Stop`] stopped, when the deploy is undone.
    #[serde(rename = "deploy.restore")]
    Restore(Instances),
    /// Take these out of service: new connections go elsewhere.
    #[serde(rename = "deploy.drain")]
    Drain(Drain),
    /// Stop and remove these, and refuse to start them ever after. Not there = done.
    #[serde(rename = "deploy.remove")]
    Remove(Instances),
    /// What runs?
    #[serde(rename = "deploy.list")]
    List(List),
    /// What did it print?
    #[serde(rename = "deploy.logs")]
    Logs(Logs),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum DeployAnswer {
    /// Of a probe.
    Probed(Probed),
    /// Of a start.
    Started {
        /// In the order asked.
        instances: Vec<Started>,
    },
    /// Of readiness; drained instances are [`ReadinessState::Gone`] or [`ReadinessState::Draining`].
    Readiness {
        /// In the order asked.
        instances: Vec<Readiness>,
    },
    /// Of a list.
    Listed {
        /// By namespace, service, slot.
        instances: Vec<InstanceSeen>,
    },
    /// Of logs.
    Logs {
        /// Oldest first.
        lines: Vec<LogLine>,
    },
    /// Of all others.
    Done,
    /// Not done: by this machine's clock it came after its `not_after`.
    TooLate {
        /// Unix seconds of this machine.
        clock: u64,
    },
    /// Not begun: too much is under way here. To be asked again.
    Busy,
    /// Not done, and why. What of it was done before can be asked for again.
    Failed(DeployFailure),
}

/// What a machine would be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The network: a machine that is in another one refuses.
    pub network: NetworkId,
    /// The namespace: ports that its own instances hold, and that go, are free.
    pub namespace: Namespace,
    /// Images that must be there.
    pub images: BTreeSet<ImageRef>,
    /// Ports of the machine that must be free.
    pub publish: BTreeSet<(Protocol, u16)>,
    /// Instances that hold such ports now and are stopped before the new ones start.
    pub releases: BTreeSet<InstanceId>,
    /// Containers to be started.
    pub starts: u32,
}

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Images asked for that are there.
    pub images: BTreeMap<ImageRef, ImageSeen>,
    /// Ports asked for that are not free.
    pub taken: BTreeSet<(Protocol, u16)>,
    /// Addresses left in its subnet.
    pub free_addresses: u32,
    /// Bytes left where the engine keeps its containers; `None` = not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_disk: Option<u64>,
    /// Containers of ours that run, of all namespaces.
    pub instances: u32,
    /// What its engine runs, as `linux/amd64`; `None` = not known, or not said by an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// An image as one engine has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSeen {
    /// The engine's id. Two engines may call one image by two ids (they store it differently).
    pub id: ImageId,
    /// What it holds, the same on every engine.
    pub content: ImageContent,
    /// What the registry of its name calls it, as far as this engine knows: none for what was built or sent here.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub digests: BTreeSet<ImageDigest>,
}

/// Fingerprint of what an image holds: layers and configuration (`deploy::image::content`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageContent(pub String);

/// Instances to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The network.
    pub network: NetworkId,
    /// The namespace.
    pub namespace: Namespace,
    /// The deploy.
    pub deploy: DeployId,
    /// Unix seconds after which this must be refused.
    pub not_after: u64,
    /// Services of the candidates, by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// The candidates.
    pub candidates: Vec<Candidate>,
}

/// An instance to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The instance.
    pub instance: InstanceId,
    /// Its service, one of [`Start::services`].
    pub service: ServiceName,
    /// Its slot.
    pub slot: u32,
    /// Revision of the service.
    pub revision: String,
    /// What the image must hold; `None` = whatever the name leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ImageContent>,
}

/// An instance that was started, now or before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Docker's id of its container.
    pub container: String,
}

/// Some instances of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// The network.
    pub network: NetworkId,
    /// The namespace.
    pub namespace: Namespace,
    /// The deploy that asks.
    pub deploy: DeployId,
    /// Unix seconds after which this must be refused, whatever changes something.
    pub not_after: u64,
    /// The instances.
    pub instances: Vec<InstanceId>,
}

/// Instances to take out of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Which.
    #[serde(flatten)]
    pub which: Instances,
    /// How long connections may go on.
    pub at_most: Span,
}

/// How ready one instance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The instance.
    pub instance: InstanceId,
    /// How ready.
    #[serde(flatten)]
    pub state: ReadinessState,
}

/// How ready an instance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(tag = "state", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ReadinessState {
    /// Not yet.
    Starting {
        /// What the last check said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
    },
    /// It is.
    Ready,
    /// It was, and is being taken out.
    Draining,
    /// It will not be: it stopped, or its deadline is over.
    Failed {
        /// Why, with the last lines it printed.
        why: String,
    },
    /// There is no such instance.
    Gone,
}

/// Which instances to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The network.
    pub network: NetworkId,
    /// Only of this namespace; `None` = of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
}

/// An instance as its machine sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSeen {
    /// The instance.
    pub instance: InstanceId,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service.
    pub service: ServiceName,
    /// Its slot.
    pub slot: u32,
    /// The revision it was made from.
    pub revision: String,
    /// The deploy it was made by.
    pub deploy: DeployId,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Ports of the machine that lead to it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub publish: BTreeSet<PublishedPort>,
    /// How ready.
    #[serde(flatten)]
    pub state: ReadinessState,
    /// Whether its container runs or is about to; `None` = not known, or not said by an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<bool>,
    /// `adopt`, `recreate` or `hold`: what its container is, compared with what it should be.
    pub verdict: String,
    /// Each drifted field, or why it is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
}

/// Lines of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The network.
    pub network: NetworkId,
    /// The namespace.
    pub namespace: Namespace,
    /// The instance.
    pub instance: InstanceId,
    /// At most so many, the newest; the machine has a limit of its own.
    pub tail: u32,
    /// Only those after this time (nanoseconds since 1970): to follow, ask again with the last line's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Where it was printed.
    pub stream: LogStream,
    /// The line, without its end.
    pub text: String,
}

/// Where a line was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a running deploy, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployEvent {
    /// The phase it is in.
    pub step: super::DeployPhase,
    /// What is being done.
    pub message: String,
}

impl DeployCommand {
    /// Last part of its subject.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Probe(_) => "deploy.probe",
            Self::Start(_) => "deploy.start",
            Self::Readiness(_) => "deploy.readiness",
            Self::Stop(_) => "deploy.stop",
            Self::Restore(_) => "deploy.restore",
            Self::Drain(_) => "deploy.drain",
            Self::Remove(_) => "deploy.remove",
            Self::List(_) => "deploy.list",
            Self::Logs(_) => "deploy.logs",
        }
    }

    /// The namespace whose lock its sender must hold; `None` for questions.
    pub fn locked(&self) -> Option<&Namespace> {
        match self {
            Self::Start(start) => Some(&start.namespace),
            Self::Stop(which) | Self::Restore(which) | Self::Remove(which) => Some(&which.namespace),
            Self::Drain(drain) => Some(&drain.which.namespace),
            Self::Probe(_) | Self::Readiness(_) | Self::List(_) | Self::Logs(_) => None,
        }
    }

    /// The network it is for: a machine refuses those of another.
    pub fn network(&self) -> &NetworkId {
        match self {
            Self::Probe(probe) => &probe.network,
            Self::Start(start) => &start.network,
            Self::Readiness(which) | Self::Stop(which) | Self::Restore(which) | Self::Remove(which) => {
                &which.network
            }
            Self::Drain(drain) => &drain.which.network,
            Self::List(list) => &list.network,
            Self::Logs(logs) => &logs.network,
        }
    }
}
