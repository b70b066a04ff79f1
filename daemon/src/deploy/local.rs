//! What deploys made on this machine, on disk: how each instance is asked whether it is ready, whether it is being taken
//! out, and which ids must never start again. A start without the store goes on from here.

use crate::disk::{Disk, DiskError};
use crate::workload::watch::{Checks, InstanceKey};
use ployz_core::address::NodeSubnet;
use ployz_core::id::{InstanceId, Namespace, NetworkName};
use ployz_core::spec::ContainerSpec;
use ployz_core::spec::container::ContainerOwner;
use ployz_core::wire::v1::manifest::Service;
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, watch};

/// `instances.json`, mode 0600.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InstancesFile {
    /// Instances that were started here and not removed.
    pub instances: Vec<Kept>,
    /// Instances that were removed, oldest first: they never start again.
    #[serde(default)]
    pub removed: VecDeque<Removed>,
    /// Keys of routing events of this machine's instances that may be in the stream.
    #[serde(default)]
    pub announced: BTreeSet<String>,
}

/// An instance that was started here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
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

/// All of this machine's part in deploys that is kept between two commands.
pub struct Local {
    disk: Disk,
    network: NetworkName,
    file: Mutex<InstancesFile>,
    checks: watch::Sender<Checks>,
    /// Told when something here changed.
    pub changed: Notify,
    /// Told when a deploy of this machine ended before its end.
    pub unfinished: Notify,
    /// Held from the choice of an address until its container is made.
    pub making: tokio::sync::Mutex<()>,
    /// Commands at a time.
    pub asked: Arc<Semaphore>,
    busy: Mutex<BTreeMap<Namespace, Purpose>>,
}

/// What a namespace is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A deploy that somebody asked for.
    Deploy,
    /// Finishing or undoing one that was cut off.
    Mend,
}

/// A namespace that this daemon is deploying to; dropped, another deploy may begin.
pub struct Busy<'a> {
    local: &'a Local,
    namespace: Namespace,
}

impl Kept {
    /// What it is found by.
    pub fn key(&self) -> InstanceKey {
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
    pub fn get(&self, namespace: &Namespace, instance: &InstanceId) -> Option<&Kept> {
        self.instances
            .iter()
            .find(|kept| kept.owner.namespace == *namespace && kept.owner.instance == *instance)
    }

    /// Keeps an instance, in the place of what was known of it.
    pub fn keep(&mut self, kept: Kept) {
        self.instances.retain(|known| known.key() != kept.key());
        self.instances.push(kept);
    }

    /// Whether an instance was removed.
    pub fn is_removed(&self, namespace: &Namespace, instance: &InstanceId) -> bool {
        self.removed.iter().any(|gone| gone.namespace == *namespace && gone.instance == *instance)
    }

    /// Notes that an instance must never start again.
    pub fn bury(&mut self, namespace: &Namespace, instance: &InstanceId) {
        if self.is_removed(namespace, instance) {
            return;
        }
        self.removed.push_back(Removed { namespace: namespace.clone(), instance: instance.clone() });
        // A command is good for less than a minute; nobody removes so many in that time.
        while self.removed.len() > MOST_REMOVED {
            self.removed.pop_front();
        }
    }

    /// Forgets an instance whose container is gone.
    pub fn forget(&mut self, namespace: &Namespace, instance: &InstanceId) {
        self.instances.retain(|kept| kept.owner.namespace != *namespace || kept.owner.instance != *instance);
    }

    fn checks(&self) -> Checks {
        let asked =
            self.instances.iter().filter_map(|kept| Some((kept.key(), kept.service.readiness.clone()?)));
        Arc::new(asked.collect())
    }
}

impl Local {
    /// From disk. What cannot be read is not worth a mesh: containers go on, and the store tells the rest.
    pub fn open(disk: &Disk, network: &NetworkName) -> Self {
        let file = disk.instances(network).unwrap_or_else(|error| {
            tracing::error!("what deploys made here is not known: {}", ployz_netns::chain(&error));
            None
        });
        let file = file.unwrap_or_default();
        Self {
            disk: disk.clone(),
            network: network.clone(),
            checks: watch::Sender::new(file.checks()),
            file: Mutex::new(file),
            changed: Notify::new(),
            unfinished: Notify::new(),
            making: tokio::sync::Mutex::new(()),
            asked: Arc::new(Semaphore::new(AT_ONCE)),
            busy: Mutex::default(),
        }
    }

    /// How containers are asked whether they are ready.
    pub fn checks(&self) -> watch::Sender<Checks> {
        self.checks.clone()
    }

    /// What is known now.
    pub fn read(&self) -> InstancesFile {
        lock(&self.file).clone()
    }

    /// Changes it, on disk first.
    pub fn change(&self, change: impl FnOnce(&mut InstancesFile)) -> Result<(), DiskError> {
        let mut file = lock(&self.file);
        let mut changed = file.clone();
        change(&mut changed);
        if changed == *file {
            return Ok(());
        }
        self.disk.put_instances(&self.network, &changed)?;
        let checks = changed.checks();
        *file = changed;
        self.checks.send_if_modified(|known| {
            let differs = *known != checks;
            if differs {
                *known = checks;
            }
            differs
        });
        self.changed.notify_one();
        Ok(())
    }

    /// Takes a namespace within this process; else what it is taken for.
    pub fn occupy(&self, namespace: &Namespace, purpose: Purpose) -> Result<Busy<'_>, Purpose> {
        match lock(&self.busy).entry(namespace.clone()) {
            Entry::Occupied(taken) => Err(*taken.get()),
            Entry::Vacant(free) => {
                free.insert(purpose);
                Ok(Busy { local: self, namespace: namespace.clone() })
            }
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.local.busy).remove(&self.namespace);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MOST_REMOVED: usize = 4_096;
const AT_ONCE: usize = 32;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// An instance whose service is asked in this way.
    pub(in crate::deploy) fn kept(readiness: &str) -> Kept {
        let readiness: serde_json::Value = serde_json::from_str(readiness).unwrap();
        let service = json!({"name": "web", "image": "web", "ports": [{"port": 80}], "readiness": readiness});
        serde_json::from_value(json!({
            "owner": {
                "network": "07070707070707070707070707070707", "namespace": "shop", "service": "web",
                "instance": "web-0-abcde", "slot": 0, "machine": "n1", "deploy": "0011223344556677", "revision": "v1:x"
            },
            "service": service,
            "address": "10.101.0.3",
            "image_id": "sha256:1",
            "started_at": 1_000,
        }))
        .unwrap()
    }

    #[test]
    fn an_instance_keeps_how_it_is_asked_and_is_replaced_not_doubled() {
        let mut file = InstancesFile::default();
        let one = kept(r#"{"kind": "tcp", "port": 80}"#);
        file.keep(one.clone());
        file.keep(Kept { draining: true, ..one.clone() });
        assert_eq!(file.instances.len(), 1);
        assert!(file.get(&one.owner.namespace, &one.owner.instance).unwrap().draining);
        assert_eq!(file.checks().keys().next(), Some(&one.key()));
        let read: InstancesFile = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(read, file);
        file.forget(&one.owner.namespace, &one.owner.instance);
        assert!(file.instances.is_empty() && file.checks().is_empty());
    }

    #[test]
    fn what_was_removed_is_remembered_and_bounded() {
        let mut file = InstancesFile::default();
        let namespace: Namespace = "shop".parse().unwrap();
        let id = |n: usize| -> InstanceId { format!("web-0-{n}").parse().unwrap() };
        (0..MOST_REMOVED + 5).for_each(|n| file.bury(&namespace, &id(n)));
        file.bury(&namespace, &id(MOST_REMOVED));
        assert_eq!(file.removed.len(), MOST_REMOVED);
        assert!(!file.is_removed(&namespace, &id(4)) && file.is_removed(&namespace, &id(5)));
        assert!(!file.is_removed(&"other".parse().unwrap(), &id(5)));
    }

    #[test]
    fn one_deploy_a_namespace_at_a_time() {
        let root = std::env::temp_dir().join(format!("ployz-busy-{}", std::process::id()));
        let disk = Disk::open(&root).unwrap();
        let local = Local::open(&disk, &"prod".parse().unwrap());
        let namespace = "shop".parse().unwrap();
        let busy = local.occupy(&namespace, Purpose::Mend).ok().unwrap();
        assert_eq!(local.occupy(&namespace, Purpose::Deploy).err(), Some(Purpose::Mend));
        assert!(local.occupy(&"other".parse().unwrap(), Purpose::Deploy).is_ok());
        drop(busy);
        assert!(local.occupy(&namespace, Purpose::Deploy).is_ok());
        std::fs::remove_dir_all(root).unwrap();
    }
}
