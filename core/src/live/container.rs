//! A container as Docker's inspection shows it; the daemon fills this in, nothing here asks Docker.

use crate::adopt::identity::Identity;
use crate::id::{DeployId, InstanceId, MachineId, Namespace, NetworkId, ServiceName};
use crate::spec::ContainerSpec;
use crate::spec::container::{ContainerOwner, PublishedPort, digest, label, limit, ports, words};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// One container, running or not. Docker reports the image's own settings merged into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLive {
    /// Docker's id of it.
    pub id: String,
    /// Its name, without Docker's leading slash.
    pub name: String,
    /// Its labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// `Config.Image`: the image as it was asked for.
    pub image: String,
    /// `Image`: the engine's id of the image it was made from.
    pub image_id: String,
    /// `Config.Cmd`; the image's own where none was given.
    pub command: Vec<String>,
    /// `Config.Env`, split at the first `=`; the image's among it.
    pub env: BTreeMap<String, String>,
    /// Networks it is attached to, each with the address that was *asked for* (`IPAMConfig`): a stopped container
    /// has no other.
    pub networks: BTreeMap<String, Option<Ipv4Addr>>,
    /// `HostConfig.Dns`: resolvers, in the order in which they are tried.
    pub dns: Vec<IpAddr>,
    /// `HostConfig.DnsSearch`: search domains, in order.
    pub search: Vec<String>,
    /// `HostConfig.PortBindings`, without addresses of the machine.
    pub publish: BTreeSet<PublishedPort>,
    /// `HostConfig.RestartPolicy.Name`; empty = `no`.
    pub restart: String,
    /// `HostConfig.NanoCpus` in thousandths of a processor; `None` = no limit (0).
    pub cpu_millis: Option<u64>,
    /// `HostConfig.Memory`; `None` = no limit (0).
    pub memory: Option<u64>,
    /// Whether it runs.
    pub state: ContainerState,
    /// When it was started last, Unix seconds.
    pub started_at: Option<u64>,
    /// How often Docker has started it again by itself.
    pub restarts: u64,
}

/// Whether a container runs, in Docker's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its main process runs; that says nothing about readiness.
    Running,
    /// Stopped for a moment by `docker pause`.
    Paused,
    /// Docker waits before it starts it again, or is removing it.
    Changing,
    /// Over, with this exit code.
    Exited(i64),
    /// Could not be stopped or removed by Docker.
    Dead,
}

impl ContainerState {
    /// Whether it has a process, or may have one at any moment: what depends on the network and is stopped before it is removed.
    pub fn runs(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Changing => true,
            Self::Created | Self::Exited(_) | Self::Dead => false,
        }
    }
}

impl ContainerLive {
    /// The fingerprint it carries, of whatever version; `None` = it carries none and is not ours.
    pub fn fingerprint(&self) -> Option<&str> {
        self.label(label::CONFIG_HASH)
    }

    /// Whose it is by its labels; `None` = not all of them are there and valid, so it is not ours.
    pub fn owner(&self) -> Option<ContainerOwner> {
        owner(|name| self.label(name))
    }

    /// Its identity fields, read back. Arguments and image id are compared only where the spec says which: else they
    /// are the image's own and the engine's business.
    pub fn identity(&self, spec: &ContainerSpec) -> Identity {
        let mut fields = BTreeMap::new();
        let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value);
        for (field, name) in LABELLED {
            put(field, self.label(name).unwrap_or("-").to_owned());
        }
        // What is pinned is made from whatever name its engine has for it; the image itself is what counts.
        let same = spec.image.digest().is_some() && spec.image_id.as_ref() == Some(&self.image_id);
        put("image", if same { spec.image.to_string() } else { self.image.clone() });
        if spec.image_id.is_some() {
            put("image_id", self.image_id.clone());
        }
        if !spec.command.is_empty() {
            put("command", words(&self.command));
        }
        // Those that only the live one has are the image's: none can be added to a container that exists.
        for name in spec.env.keys() {
            if let Some(value) = self.env.get(name.as_str()) {
                put(&format!("env.{name}"), digest(value));
            }
        }
        let attached: Vec<&str> = self.networks.keys().map(String::as_str).collect();
        put("bridge", attached.join(" "));
        let address = self.networks.get(&spec.bridge).copied().flatten();
        put("address", address.map_or_else(|| "-".into(), |address| address.to_string()));
        put("dns", self.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        put("search", self.search.join(" "));
        put("publish", ports(&self.publish));
        put("restart", if self.restart.is_empty() { "no".into() } else { self.restart.clone() });
        put("cpus", limit(self.cpu_millis));
        put("memory", limit(self.memory));
        put("parent", self.label(label::PARENT).unwrap_or_default().to_owned());
        Identity::new(fields)
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// Whose a container is, by its labels; `None` = not all of them are there and valid, so it is not ours.
pub fn owner<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Option<ContainerOwner> {
    Some(ContainerOwner {
        network: label(label::NETWORK)?.parse::<NetworkId>().ok()?,
        namespace: label(label::NAMESPACE)?.parse::<Namespace>().ok()?,
        service: label(label::SERVICE)?.parse::<ServiceName>().ok()?,
        instance: label(label::INSTANCE)?.parse::<InstanceId>().ok()?,
        slot: label(label::SLOT)?.parse().ok()?,
        machine: label(label::MACHINE)?.parse::<MachineId>().ok()?,
        deploy: label(label::DEPLOY)?.parse::<DeployId>().ok()?,
        revision: label(label::REVISION)?.to_owned(),
    })
}

/// Identity fields that only labels can carry.
const LABELLED: [(&str, &str); 7] = [
    ("network", label::NETWORK),
    ("namespace", label::NAMESPACE),
    ("service", label::SERVICE),
    ("instance", label::INSTANCE),
    ("slot", label::SLOT),
    ("machine", label::MACHINE),
    ("revision", label::REVISION),
];

#[cfg(test)]
mod tests {
    use super::ContainerState::{self, Changing, Created, Dead, Exited, Paused, Running};

    #[test]
    fn a_container_runs_from_its_start_to_its_exit() {
        let runs = |state: &ContainerState| state.runs();
        assert!([Running, Paused, Changing].iter().all(runs), "a pause or a restart ends nothing");
        assert!(![Created, Exited(0), Exited(137), Dead].iter().any(runs));
    }
}
