//! The manifest: what an operator wants to run in one namespace. TOML and JSON, `version = 1`.
//!
//! Parsing is the only way to a [`Manifest`], so every value of one is valid and the rules between values hold:
//! names are unique, routes lead to declared ports, volumes are declared. What it means for containers and machines is
//! `deploy`'s. `docs/manifest.schema.json` says the same to editors; a test compares the two.

mod flags;
mod foreign;
mod image;
mod probe;
mod read;
mod service;
mod tree;
mod value;

pub use flags::ServiceFlags;
pub use image::DOCKER_HUB;
pub use probe::{HttpCheck, Method, Scheme, Statuses};
pub use read::{BadManifest, MAX_BYTES, Problem};
pub use value::{
    Bytes, CheckPath, Cpus, EnvName, FileMode, FileOwner, HeaderName, HostHeader, HostPattern, ImageDigest,
    ImageRef, InvalidValue, MountPath, PathPrefix, PortName, Span, VolumeName,
};

use crate::adopt::identity::Identity;
use crate::id::{MachineId, Namespace, ServiceName};
use crate::text::without_mark;
use read::{Item, Source};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tree::{BadSyntax, Node};

/// Everything that should run in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Always [`VERSION`].
    pub version: u32,
    /// The namespace.
    pub namespace: Namespace,
    /// Its services, in the document's order; names are unique.
    pub services: Vec<Service>,
    /// Its volumes; names are unique.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

/// One service: some equal containers and how they are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name, also its DNS name.
    pub name: ServiceName,
    /// The image, as each machine's own engine knows it, or its registry.
    pub image: ImageRef,
    /// When it is fetched from its registry; not part of the revision.
    #[serde(skip_serializing_if = "Pull::is_default")]
    pub pull: Pull,
    /// Arguments in place of the image's own; empty = the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<EnvName, String>,
    /// Ports its containers listen on; unique by name, and by protocol and number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What the gateways take for it; they lead to declared TCP ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// How many containers, and where.
    pub placement: Placement,
    /// When a container may be sent traffic; `None` = as soon as it runs; a deploy waits until that lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How containers are replaced.
    pub rollout: Rollout,
    /// Limits.
    #[serde(skip_serializing_if = "Resources::is_none")]
    pub resources: Resources,
    /// When Docker starts a container again.
    pub restart: Restart,
    /// How long a container may take to stop before it is killed.
    pub stop_grace_period: Span,
    /// Volumes in its containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Mount>,
}

/// A port that containers listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name: what routes and SRV records call it.
    pub name: PortName,
    /// Its number in the container.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the machine that leads to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<u16>,
}

/// A transport protocol.
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
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = InvalidValue, parse_err_fn = InvalidValue::not_among::<Protocol>)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Something the gateways take for a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Route {
    /// Requests for a host and path.
    Http(HttpRoute),
    /// Connections to a port of every gateway.
    Tcp(TcpRoute),
}

/// Requests for a host and path prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpRoute {
    /// The host.
    pub host: HostPattern,
    /// The path prefix.
    pub path: PathPrefix,
    /// Port in the container.
    pub port: u16,
    /// Answer plain HTTP with a redirect to HTTPS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https_only: bool,
    /// How long the first byte of an answer may take, in whole seconds; the gateway's default otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Largest request body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Bytes>,
    /// Requests a second from one client address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
}

/// Connections to a port of every gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TcpRoute {
    /// Port of the gateway.
    pub listen: u16,
    /// Port in the container.
    pub port: u16,
}

/// How many containers, and on which machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// How many.
    #[serde(flatten)]
    pub mode: Mode,
    /// Only on these machines; empty = on any.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub machines: BTreeSet<MachineId>,
    /// Only on machines that carry all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How many containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(tag = "mode", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Mode {
    /// So many, spread over the machines.
    Replicated {
        /// From 1 to [`MAX_REPLICAS`].
        replicas: u32,
    },
    /// One on each active machine.
    Global,
}

/// When a container may be sent traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// What is asked.
    #[serde(flatten)]
    pub check: Check,
    /// Time between two questions.
    pub interval: Span,
    /// How long an answer may take; at most the deadline.
    pub timeout: Span,
    /// Answers in a row until it is ready.
    pub threshold: u32,
    /// How long a new container may take to become ready before the deploy is given up.
    pub deadline: Span,
}

/// A question to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Check {
    /// A request; an answer with one of its statuses is yes.
    Http(HttpCheck),
    /// A connection that is taken is yes.
    Tcp {
        /// Port in the container.
        port: u16,
    },
    /// A command in the container; exit code 0 is yes.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// How containers are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// What comes first.
    pub order: Order,
    /// How many containers at a time.
    pub parallelism: u32,
}

/// What comes first when a container is replaced.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = InvalidValue, parse_err_fn = InvalidValue::not_among::<Order>)]
pub enum Order {
    /// The new one runs and is ready before the old one stops. The default, where no port is published.
    StartFirst,
    /// The old one stops before the new one starts, and starts again if the deploy is given up.
    StopFirst,
}

/// Limits of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Memory; at least 6M, as Docker asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// When Docker starts a container again.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = InvalidValue, parse_err_fn = InvalidValue::not_among::<Restart>)]
pub enum Restart {
    /// Unless it was stopped on purpose.
    UnlessStopped,
    /// Whatever happened.
    Always,
    /// When it failed.
    OnFailure,
    /// Never.
    No,
}

/// When a deploy fetches an image from its registry.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = InvalidValue, parse_err_fn = InvalidValue::not_among::<Pull>)]
pub enum Pull {
    /// Never: it is what the engines hold.
    Never,
    /// When no engine holds it.
    #[default]
    Missing,
    /// Whenever the registry has another one under its name.
    Always,
}

/// A volume of the namespace. Parsed and judged; deploys do not take them yet ([`Manifest::uses_volumes`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Largest size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Bytes>,
    /// Permissions of its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// Owner of its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<FileOwner>,
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The volume, declared in [`Manifest::volumes`].
    pub source: VolumeName,
    /// Where it is in the container.
    pub target: MountPath,
    /// Whether the container may only read it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

impl Manifest {
    /// The manifest of a TOML text; `file` names it in errors.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, BadManifest> {
        Self::from_text(file, text, Node::from_toml)
    }

    /// The manifest of a JSON text; `file` names it in errors.
    pub fn from_json(file: &str, text: &str) -> Result<Self, BadManifest> {
        Self::from_text(file, text, Node::from_json)
    }

    /// The manifest of a text in whichever of the two it is written in: JSON begins with a brace, TOML cannot.
    pub fn from_document(file: &str, text: &str) -> Result<Self, BadManifest> {
        let json = without_mark(text).trim_start().starts_with('{');
        if json { Self::from_json(file, text) } else { Self::from_toml(file, text) }
    }

    /// Whether it needs volumes, which deploys do not have yet: refused with `VOLUMES_UNSUPPORTED`.
    pub fn uses_volumes(&self) -> bool {
        !self.volumes.is_empty() || self.services.iter().any(|service| !service.volumes.is_empty())
    }

    /// One text for one meaning: `v1:` and a hash of everything it says. Two documents of equal meaning have one.
    pub fn fingerprint(&self) -> String {
        let meaning = serde_json::to_string(self).expect("a manifest is plain data");
        Identity::new(BTreeMap::from([("manifest".to_owned(), meaning)])).fingerprint()
    }

    fn from_text(
        file: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<Node, BadSyntax>,
    ) -> Result<Self, BadManifest> {
        let bad = |line, problem| BadManifest { file: file.to_owned(), line, path: String::new(), problem };
        if text.len() > MAX_BYTES {
            return Err(bad(None, Problem::TooLong(text.len())));
        }
        let node = parse(without_mark(text)).map_err(|error| bad(error.line, Problem::Syntax(error.what)))?;
        Self::from_node(file, &node)
    }

    fn from_node(file: &str, node: &Node) -> Result<Self, BadManifest> {
        service::manifest(Item::root(Source { file, strict: true }, node))
    }
}

impl Service {
    /// The port of that number and protocol TCP, or UDP.
    pub fn port(&self, number: u16, protocol: Protocol) -> Option<&Port> {
        self.ports.iter().find(|port| port.port == number && port.protocol == protocol)
    }

    /// Ports of the machine that its containers take.
    pub fn published(&self) -> impl Iterator<Item = (Protocol, u16)> {
        self.ports.iter().filter_map(|port| port.publish.map(|host| (port.protocol, host)))
    }
}

impl Pull {
    /// Whether it is what a service has that says nothing of it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Resources {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Through the same judgement as a file: a value of this type is always valid.
impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let node = Node::from_value(&serde_json::Value::deserialize(d)?);
        Self::from_node("manifest", &node).map_err(serde::de::Error::custom)
    }
}

/// As part of a stored record: judged in the same way, but keys of a newer version are passed over.
impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let node = Node::from_value(&serde_json::Value::deserialize(d)?);
        let source = Source { file: "record", strict: false };
        service::service(&Item::root(source, &node)).map_err(serde::de::Error::custom)
    }
}

macro_rules! words {
    ($($name:ident),+) => {$(
        impl $name {
            /// Its word in a manifest.
            pub fn as_str(self) -> &'static str {
                self.into()
            }
        }
    )+};
}
use words;

words!(Protocol, Order, Pull, Restart);

/// The version of the document.
pub const VERSION: u32 = 1;
/// Most containers of one service.
pub const MAX_REPLICAS: u32 = 500;
/// Docker takes no smaller limit of memory.
pub const MIN_MEMORY: Bytes = Bytes::new(6 << 20);
