//! `instances.json`: what deploys made on this machine.

use ployz_core::address::NodeSubnet;
use ployz_core::id::{DeployId, InstanceId, Namespace};
use ployz_core::spec::ContainerSpec;
use ployz_core::spec::container::ContainerOwner;
use ployz_core::wire::v1::manifest::Service;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// `instances.json`, mode 0600.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InstancesFile {
    /// Instances that were started here and not removed.
    pub instances: Vec<InstanceRecord>,
    /// Instances that were removed, oldest first: they never start again.
    #[serde(default)]
    pub removed: VecDeque<Removed>,
    /// Keys of routing events of this machine's instances that may be in the stream.
    #[serde(default)]
    pub announced: BTreeSet<String>,
}

/// An instance that was started here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Whose it is.
    pub owner: ContainerOwner,
    /// Its service, as last committed or, for a candidate, as asked for.
    pub service: Service,
    /// Its address.
    pub address: Ipv4Addr,
    /// The engine's id of the image it was made from.
    pub image_id: String,
    /// Unix seconds.
    pub started_at: u64,
    /// The deploy that stopped it before its own candidate started; `None` once it was started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_for: Option<DeployId>,
    /// Whether it is being taken out of service.
    #[serde(default)]
    pub draining: bool,
    /// Whether it was ready when that was last seen.
    #[serde(default)]
    pub ready: bool,
}

/// An instance that was removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its id.
    pub instance: InstanceId,
}

impl InstanceRecord {
    /// What it is found by.
    pub fn key(&self) -> (Namespace, InstanceId) {
        (self.owner.namespace.clone(), self.owner.instance.clone())
    }

    /// The container it should have.
    pub fn spec(&self, subnet: &NodeSubnet) -> ContainerSpec {
        let image_id = Some(self.image_id.clone()).filter(|id| !id.is_empty());
        ContainerSpec {
            image_id,
            ..ContainerSpec::of(&self.service, self.owner.clone(), subnet, self.address)
        }
    }
}

impl InstancesFile {
    /// An instance of this machine.
    pub fn get(&self, namespace: &Namespace, instance: &InstanceId) -> Option<&InstanceRecord> {
        self.instances
            .iter()
            .find(|kept| kept.owner.namespace == *namespace && kept.owner.instance == *instance)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, namespace: &Namespace, instance: &InstanceId) -> Option<&mut InstanceRecord> {
        self.instances
            .iter_mut()
            .find(|kept| kept.owner.namespace == *namespace && kept.owner.instance == *instance)
    }

    /// Keeps an instance, in the place of what was known of it.
    pub fn keep(&mut self, kept: InstanceRecord) {
        self.instances.retain(|known| known.key() != kept.key());
        self.instances.push(kept);
    }

    /// Whether an instance was removed.
    pub fn is_removed(&self, namespace: &Namespace, instance: &InstanceId) -> bool {
        self.removed.iter().any(|gone| gone.namespace == *namespace && gone.instance == *instance)
    }

    /// Notes that an instance must never start again.
    pub fn tombstone(&mut self, namespace: &Namespace, instance: &InstanceId) {
        if self.is_removed(namespace, instance) {
            return;
        }
        self.removed.push_back(Removed { namespace: namespace.clone(), instance: instance.clone() });
        // A command is good for less than a minute; so many are not removed in that time.
        while self.removed.len() > MOST_REMOVED {
            self.removed.pop_front();
        }
    }

    /// Forgets an instance whose container is gone.
    pub fn forget(&mut self, namespace: &Namespace, instance: &InstanceId) {
        self.instances.retain(|kept| kept.owner.namespace != *namespace || kept.owner.instance != *instance);
    }
}

/// Removed instances that are remembered.
pub const MOST_REMOVED: usize = 4_096;
