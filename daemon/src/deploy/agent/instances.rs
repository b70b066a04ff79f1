//! What deploys made on this machine, on disk: how each instance is asked whether it is ready, whether it is being taken
//! out, and which ids must never start again. A start without the store goes on from here.

use crate::state::instances::InstancesFile;
use crate::state::{Disk, DiskError};
use parking_lot::Mutex;
use ployz_core::id::{InstanceId, Namespace, NetworkName};
use ployz_core::wire::v1::deploy::DeployCommand;
use ployz_engine::watch::{Checks, InstanceKey};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Notify, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};

/// All of this machine's part in deploys that is kept between two commands.
pub struct Local {
    disk: Disk,
    network: NetworkName,
    /// `None` = not known, because it cannot be read; then nothing is changed.
    file: Mutex<Option<InstancesFile>>,
    checks: watch::Sender<Checks>,
    /// Told when something here changed.
    pub changed: Notify,
    /// Told when a deploy of this machine ended before its end.
    pub unfinished: Notify,
    /// Held from the choice of an address until its container is made.
    pub making: tokio::sync::Mutex<()>,
    steps: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    turns: Mutex<BTreeMap<InstanceKey, Arc<tokio::sync::Mutex<()>>>>,
    routable: Mutex<BTreeSet<InstanceKey>>,
    busy: Mutex<BTreeMap<Namespace, Purpose>>,
}

/// Why what deploys made here was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Unknown is not absent: taken for empty, it would be written over.
    #[error(
        "instances.json cannot be read; no container is changed. Restore it, or move it away to start empty"
    )]
    Unknown(#[source] DiskError),
    /// It was not written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a namespace is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A deploy that was requested.
    Deploy,
    /// Finishing or undoing one that was cut off.
    Mend,
}

/// A namespace that this daemon is deploying to; dropped, another deploy may begin.
pub struct Busy<'a> {
    local: &'a Local,
    namespace: Namespace,
}

impl Local {
    /// From disk. What cannot be read is not worth a mesh: containers go on, and nothing of them is changed.
    pub fn open(disk: &Disk, network: &NetworkName) -> Self {
        let file = disk.instances(network).map(Option::unwrap_or_default).inspect_err(|error| {
            tracing::error!(
                %network,
                error = %ployz_core::text::chain(error),
                "instances.json cannot be read"
            );
        });
        let file = file.ok();
        Self {
            disk: disk.clone(),
            network: network.clone(),
            checks: watch::Sender::new(file.as_ref().map(checks_of).unwrap_or_default()),
            file: Mutex::new(file),
            changed: Notify::new(),
            unfinished: Notify::new(),
            making: tokio::sync::Mutex::new(()),
            steps: Arc::new(Semaphore::new(STEPS)),
            looks: Arc::new(Semaphore::new(LOOKS)),
            turns: Mutex::default(),
            routable: Mutex::default(),
            busy: Mutex::default(),
        }
    }

    /// How containers are asked whether they are ready.
    pub fn checks(&self) -> watch::Sender<Checks> {
        self.checks.clone()
    }

    /// What is known now.
    pub fn read(&self) -> Result<InstancesFile, LocalError> {
        self.known(|file| Ok(file.clone()))
    }

    /// Changes it, on disk first.
    pub fn change(&self, change: impl FnOnce(&mut InstancesFile)) -> Result<(), LocalError> {
        let written = self.known(|file| {
            let mut changed = file.clone();
            change(&mut changed);
            if changed == *file {
                return Ok(false);
            }
            self.disk.put_instances(&self.network, &changed)?;
            self.ask_as(checks_of(&changed));
            *file = changed;
            Ok(true)
        });
        if written? {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Works with what is known; what could not be read is tried again each time.
    fn known<T>(
        &self,
        work: impl FnOnce(&mut InstancesFile) -> Result<T, LocalError>,
    ) -> Result<T, LocalError> {
        let mut file = self.file.lock();
        if let Some(file) = file.as_mut() {
            return work(file);
        }
        let found = self.disk.instances(&self.network).map_err(LocalError::Unknown)?.unwrap_or_default();
        tracing::info!(network = %self.network, "instances.json is readable again");
        self.ask_as(checks_of(&found));
        work(file.insert(found))
    }

    fn ask_as(&self, checks: Checks) {
        self.checks.send_if_modified(|known| {
            let differs = *known != checks;
            if differs {
                *known = checks;
            }
            differs
        });
    }

    /// Room for a command. Questions do not wait for steps, which may take minutes; `None` = ask again.
    pub fn room(&self, command: &DeployCommand) -> Option<OwnedSemaphorePermit> {
        let places = match command {
            DeployCommand::Probe(_)
            | DeployCommand::Readiness(_)
            | DeployCommand::List(_)
            | DeployCommand::Logs(_) => &self.looks,
            DeployCommand::Start(_)
            | DeployCommand::Stop(_)
            | DeployCommand::Restore(_)
            | DeployCommand::Drain(_)
            | DeployCommand::Remove(_) => &self.steps,
        };
        places.clone().try_acquire_owned().ok()
    }

    /// The turn of one instance: what is done to it is done one after the other.
    pub async fn alone(&self, namespace: &Namespace, instance: &InstanceId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry((namespace.clone(), instance.clone())).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// Notes which instances are published as ready.
    pub fn set_routable(&self, routable: BTreeSet<InstanceKey>) {
        *self.routable.lock() = routable;
    }

    /// Whether the instance is published as ready.
    pub fn is_routable(&self, key: &InstanceKey) -> bool {
        self.routable.lock().contains(key)
    }

    /// Takes a namespace within this process; else what it is taken for.
    pub fn occupy(&self, namespace: &Namespace, purpose: Purpose) -> Result<Busy<'_>, Purpose> {
        match self.busy.lock().entry(namespace.clone()) {
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
        self.local.busy.lock().remove(&self.namespace);
    }
}

fn checks_of(file: &InstancesFile) -> Checks {
    let asked = file.instances.iter().filter_map(|kept| Some((kept.key(), kept.service.readiness.clone()?)));
    Arc::new(asked.collect())
}

/// Steps at a time.
const STEPS: usize = 32;
/// Questions at a time.
const LOOKS: usize = 32;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::state::instances::{InstanceRecord, MOST_REMOVED};
    use serde_json::json;

    /// An instance whose service is asked in this way; `null` = it is not.
    pub(in crate::deploy) fn kept(readiness: &str) -> InstanceRecord {
        let readiness: serde_json::Value = serde_json::from_str(readiness).unwrap();
        let mut service = json!({"name": "web", "image": "web", "ports": [{"port": 80}]});
        if !readiness.is_null() {
            service["readiness"] = readiness;
        }
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
        file.keep(InstanceRecord { draining: true, ..one.clone() });
        assert_eq!(file.instances.len(), 1);
        assert!(file.get(&one.owner.namespace, &one.owner.instance).unwrap().draining);
        assert_eq!(checks_of(&file).keys().next(), Some(&one.key()));
        let read: InstancesFile = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(read, file);
        file.forget(&one.owner.namespace, &one.owner.instance);
        assert!(file.instances.is_empty() && checks_of(&file).is_empty());
    }

    #[test]
    fn what_was_removed_is_remembered_and_bounded() {
        let mut file = InstancesFile::default();
        let namespace: Namespace = "shop".parse().unwrap();
        let id = |n: usize| -> InstanceId { format!("web-0-{n}").parse().unwrap() };
        (0..MOST_REMOVED + 5).for_each(|n| file.tombstone(&namespace, &id(n)));
        file.tombstone(&namespace, &id(MOST_REMOVED));
        assert_eq!(file.removed.len(), MOST_REMOVED);
        assert!(!file.is_removed(&namespace, &id(4)) && file.is_removed(&namespace, &id(5)));
        assert!(!file.is_removed(&"other".parse().unwrap(), &id(5)));
    }

    /// Of a machine on whose disk this is; dropped, the directory is gone.
    pub(in crate::deploy) struct OnDisk {
        pub(in crate::deploy) local: Local,
        pub(in crate::deploy) root: std::path::PathBuf,
    }

    impl OnDisk {
        pub(in crate::deploy) fn empty() -> Self {
            let name: [u8; 8] = ployz_host::random::bytes();
            let root = std::env::temp_dir().join(format!("ployz-local-{:016x}", u64::from_ne_bytes(name)));
            let disk = Disk::open(&root).unwrap();
            crate::state::make_dir(&root.join("networks/prod"), 0o711).unwrap();
            Self { local: Local::open(&disk, &"prod".parse().unwrap()), root }
        }

        fn again(&self) -> Local {
            Local::open(&Disk::open(&self.root).unwrap(), &"prod".parse().unwrap())
        }
    }

    impl Drop for OnDisk {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_nothing() {
        let here = OnDisk::empty();
        let one = kept(r#"{"kind": "tcp", "port": 80}"#);
        here.local.change(|file| file.keep(one.clone())).unwrap();
        let path = here.root.join("networks/prod/instances.json");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();

        let local = here.again();
        assert!(matches!(local.read(), Err(LocalError::Unknown(_))));
        let refused = local.change(|file| file.tombstone(&one.owner.namespace, &one.owner.instance));
        assert!(matches!(refused, Err(LocalError::Unknown(_))));
        assert_eq!(std::fs::read(&path).unwrap(), whole[..whole.len() / 2], "it was overwritten");

        std::fs::write(&path, &whole).unwrap();
        assert_eq!(
            local.read().unwrap().instances,
            std::slice::from_ref(&one),
            "restored, it is readable again"
        );
        assert_eq!(local.checks().borrow().keys().next(), Some(&one.key()));
    }

    #[test]
    fn steps_that_take_long_leave_room_for_questions() {
        use ployz_core::wire::v1::deploy::{Instances, List};
        let here = OnDisk::empty();
        let owner = kept("null").owner;
        let which = Instances {
            network: owner.network.clone(),
            namespace: owner.namespace,
            deploy: owner.deploy,
            not_after: 0,
            instances: Vec::new(),
        };
        let remove = DeployCommand::Remove(which.clone());
        let steps: Vec<_> = std::iter::from_fn(|| here.local.room(&remove)).collect();
        assert_eq!(steps.len(), STEPS);
        let list = DeployCommand::List(List { network: owner.network, namespace: None });
        assert!(
            here.local.room(&list).is_some() && here.local.room(&DeployCommand::Readiness(which)).is_some()
        );
        drop(steps);
        assert!(here.local.room(&remove).is_some());
    }

    #[tokio::test]
    async fn what_is_done_to_one_instance_is_done_in_turn() {
        let here = OnDisk::empty();
        let (shop, one): (Namespace, InstanceId) = ("shop".parse().unwrap(), "web-0-a".parse().unwrap());
        let turn = here.local.alone(&shop, &one).await;
        let short = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(short, here.local.alone(&shop, &one)).await.is_err());
        drop(here.local.alone(&shop, &"web-1-a".parse().unwrap()).await);
        drop(turn);
        drop(here.local.alone(&shop, &one).await);
        assert!(here.local.turns.lock().len() <= 1, "turns without a waiter are forgotten");
    }

    #[test]
    fn one_deploy_a_namespace_at_a_time() {
        let here = OnDisk::empty();
        let local = &here.local;
        let namespace = "shop".parse().unwrap();
        let busy = local.occupy(&namespace, Purpose::Mend).ok().unwrap();
        assert_eq!(local.occupy(&namespace, Purpose::Deploy).err(), Some(Purpose::Mend));
        assert!(local.occupy(&"other".parse().unwrap(), Purpose::Deploy).is_ok());
        drop(busy);
        assert!(local.occupy(&namespace, Purpose::Deploy).is_ok());
    }
}
