//! One workload container: what it should be, and which of that is its identity.
//!
//! Docker runs it and restarts it; ployzd makes it in a deploy and removes it in a deploy, and never recreates one on
//! its own, whatever it finds. A container without our labels is not ours.

use crate::address::NodeSubnet;
use crate::adopt::identity::Identity;
use crate::id::{DeployId, InstanceId, MachineId, Namespace, NetworkId, ServiceName};
use crate::wire::v1::manifest::{Cpus, EnvName, ImageRef, Protocol, Resources, Restart, Service, Span};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

/// The wanted container. Serialised where a machine keeps it; the fingerprint is never taken from that form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Whose it is.
    pub owner: ContainerOwner,
    /// The image as the manifest names it.
    pub image: ImageRef,
    /// The engine's id of that image on this machine, when known: a tag can be moved, an id cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Arguments in place of the image's own; empty = the image's.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment, without the image's own.
    #[serde(default)]
    pub env: BTreeMap<EnvName, String>,
    /// The Docker network it is attached to.
    pub bridge: String,
    /// Its address in the node's subnet.
    pub address: Ipv4Addr,
    /// Its resolver: the node's service address.
    pub dns: Ipv4Addr,
    /// Ports of the machine that lead to it.
    #[serde(default)]
    pub publish: BTreeSet<PublishedPort>,
    /// When Docker starts it again.
    pub restart: Restart,
    /// CPU and memory limits; nothing is reserved.
    #[serde(default)]
    pub resources: Resources,
    /// How long it may take to stop; not identity.
    pub stop_grace: Span,
    /// The container it lives in, where the overlay is one (Docker runtime); `None` on a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// Whose container it is: every name that finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerOwner {
    /// Id of the network; another network's container is foreign.
    pub network: NetworkId,
    /// Namespace of its service.
    pub namespace: Namespace,
    /// Name of its service, without the namespace.
    pub service: ServiceName,
    /// The instance, also its host name.
    pub instance: InstanceId,
    /// Its slot, from 0.
    pub slot: u32,
    /// The machine it was made for.
    pub machine: MachineId,
    /// The deploy it was made by; not identity.
    pub deploy: DeployId,
    /// Revision of the service it was made from.
    pub revision: String,
}

/// A port of the machine that leads to a port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Protocol of both.
    pub protocol: Protocol,
    /// Port of the machine.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
}

impl ContainerSpec {
    /// The container of one instance of a service, on the host runtime.
    pub fn of(service: &Service, owner: ContainerOwner, subnet: &NodeSubnet, address: Ipv4Addr) -> Self {
        let publish = service.ports.iter().filter_map(|port| {
            let host = port.publish?;
            Some(PublishedPort { protocol: port.protocol, host, container: port.port })
        });
        Self {
            owner,
            image: service.image.clone(),
            image_id: None,
            command: service.command.clone(),
            env: service.env.clone(),
            bridge: BRIDGE.to_owned(),
            address,
            dns: subnet.service(),
            publish: publish.collect(),
            restart: service.restart,
            resources: service.resources,
            stop_grace: service.stop_grace_period,
            parent: None,
        }
    }

    /// Its name in Docker: `<namespace>.<instance>`. Neither half can hold a dot, so two never meet.
    pub fn name(&self) -> String {
        container_name(&self.owner.namespace, &self.owner.instance)
    }

    /// What its resolver adds to short names: those of its own namespace.
    pub fn search(&self) -> String {
        format!("{}.{ZONE}", self.owner.namespace)
    }

    /// What makes a live container the same container. Not identity, on purpose: `deploy` (a container outlives the
    /// deploy that made it), `stop_grace` (said again when it is stopped), readiness, routes, placement, the names of
    /// ports, and everything of the daemon. Values of variables are hashed: drift is printed, secrets are not.
    pub fn identity(&self) -> Identity {
        let owner = &self.owner;
        let mut fields = BTreeMap::new();
        let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value);
        put("network", owner.network.to_string());
        put("namespace", owner.namespace.to_string());
        put("service", owner.service.to_string());
        put("instance", owner.instance.to_string());
        put("slot", owner.slot.to_string());
        put("machine", owner.machine.to_string());
        put("revision", owner.revision.clone());
        put("image", self.image.to_string());
        if let Some(id) = &self.image_id {
            put("image_id", id.clone());
        }
        if !self.command.is_empty() {
            put("command", words(&self.command));
        }
        for (name, value) in &self.env {
            put(&format!("env.{name}"), digest(value));
        }
        put("bridge", self.bridge.clone());
        put("address", self.address.to_string());
        put("dns", self.dns.to_string());
        put("search", self.search());
        put("publish", ports(&self.publish));
        put("restart", self.restart.to_string());
        put("cpus", limit(self.resources.cpus.map(|cpus| u64::from(Cpus::as_millis(cpus)))));
        put("memory", limit(self.resources.memory.map(|memory| memory.get())));
        put("parent", self.parent.clone().unwrap_or_default());
        Identity::new(fields)
    }

    /// The labels it is created with: whose it is, and the fingerprint of what it is.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let owner = &self.owner;
        BTreeMap::from([
            (label::CONFIG_HASH.to_owned(), self.identity().fingerprint()),
            (label::PARENT.to_owned(), self.parent.clone().unwrap_or_default()),
            (label::NETWORK.to_owned(), owner.network.to_string()),
            (label::NAMESPACE.to_owned(), owner.namespace.to_string()),
            (label::SERVICE.to_owned(), owner.service.to_string()),
            (label::INSTANCE.to_owned(), owner.instance.to_string()),
            (label::SLOT.to_owned(), owner.slot.to_string()),
            (label::MACHINE.to_owned(), owner.machine.to_string()),
            (label::DEPLOY.to_owned(), owner.deploy.to_string()),
            (label::REVISION.to_owned(), owner.revision.clone()),
        ])
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.container, self.protocol)
    }
}

/// The name in Docker of an instance's container.
pub fn container_name(namespace: &Namespace, instance: &InstanceId) -> String {
    format!("{namespace}.{instance}")
}

/// Arguments as one text that no other list of arguments has.
pub(crate) fn words(command: &[String]) -> String {
    command.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
}

/// Eight bytes of a hash: enough to see that a value changed, not what it is.
pub(crate) fn digest(value: &str) -> String {
    crate::id::hex(&Sha256::digest(value.as_bytes())[..8])
}

/// Published ports in order.
pub(crate) fn ports(ports: &BTreeSet<PublishedPort>) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A limit, or that there is none.
pub(crate) fn limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "none".into(), |limit| limit.to_string())
}

/// The labels of a container.
pub mod label {
    /// Fingerprint of [`super::ContainerSpec::identity`].
    pub const CONFIG_HASH: &str = "ployz.config-hash";
    /// The container it lives in; empty on a host.
    pub const PARENT: &str = "ployz.parent-container-id";
    /// The network's id.
    pub const NETWORK: &str = "ployz.network";
    /// [`super::ContainerOwner::namespace`].
    pub const NAMESPACE: &str = "ployz.namespace";
    /// [`super::ContainerOwner::service`].
    pub const SERVICE: &str = "ployz.service";
    /// [`super::ContainerOwner::instance`].
    pub const INSTANCE: &str = "ployz.instance";
    /// [`super::ContainerOwner::slot`], in decimal digits.
    pub const SLOT: &str = "ployz.slot";
    /// [`super::ContainerOwner::machine`].
    pub const MACHINE: &str = "ployz.machine";
    /// [`super::ContainerOwner::deploy`], in hexadecimal digits.
    pub const DEPLOY: &str = "ployz.deploy";
    /// [`super::ContainerOwner::revision`].
    pub const REVISION: &str = "ployz.revision";
}

/// The Docker network on the node's workload bridge.
pub const BRIDGE: &str = "ployz0";
/// The zone of all names in the mesh.
pub const ZONE: &str = "ployz.internal";
