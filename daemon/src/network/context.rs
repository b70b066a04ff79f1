//! The state of a running network, and who may change it.

use crate::network::asked::{self, Asked};
use crate::network::commands;
use crate::network::identity_watch::Watch;
use crate::network::presence;
use crate::node::environment::Environment;
use crate::node::reconcile::{Outcome, Reconciler};
use crate::node::supervisor::ports::has_ipv6;
use crate::node::{sidecars, spec, teardown};
use crate::state::{Disk, DiskError, Keys, NetworkFile, PeersFile};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use ployz_core::adopt::Trigger;
use ployz_core::id::MachineId;
use ployz_core::key::PublicKey;
use ployz_core::live::NsId;
use ployz_core::mesh::belief::Doubt;
use ployz_core::mesh::path::Path as PeerPath;
use ployz_core::spec::NodeSpec;
use ployz_core::wire::v1::api::Phase;
use ployz_core::wire::v1::doctor::Check;
use ployz_host::clock;
use ployz_nats::presence::Presence;
use ployz_nats::rpc::Router;
use ployz_nats::store::Store;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all networks of a daemon share.
pub struct Shared {
    /// Configuration and surroundings.
    pub around: Environment,
    /// State on disk.
    pub disk: Disk,
    /// The adopt path.
    pub reconciler: Reconciler,
    /// Keys that two machines use, as probes tell.
    pub identities: watch::Sender<Vec<Check>>,
    /// Records of members that are not believed as they stand; `None` before the store has said what it has.
    pub doubts: watch::Sender<Option<Vec<Doubt>>>,
}

/// Health of one connection to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it works.
    pub healthy: bool,
    /// Since when it does not; Unix seconds.
    pub since: Option<u64>,
    /// The last error.
    pub error: Option<String>,
}

/// What the rooms above a network add to it.
pub struct Parts {
    /// Answers the commands of other machines, made for each session with the store.
    pub session: Box<dyn Fn() -> Router + Send + Sync>,
    /// What the membership listener serves.
    pub membership: axum::Router,
    /// Tasks for as long as the network runs here; each is dropped at an await when it ends.
    pub tasks: Vec<BoxFuture<'static, ()>>,
}

/// A running network.
pub struct Network {
    /// Shared with the daemon.
    pub shared: Arc<Shared>,
    /// The machine's secrets.
    pub keys: Keys,
    /// Members and invites as last known.
    pub peers: watch::Sender<PeersFile>,
    /// Where the start stands.
    pub phase: watch::Sender<Phase>,
    /// The last reconciliation.
    pub outcome: watch::Sender<Option<Arc<Outcome>>>,
    /// The open store.
    pub store: watch::Sender<Option<Store>>,
    /// What is known of the other machines' connections to it.
    pub presence: Arc<Presence>,
    /// What is remembered of the commands of other machines.
    pub commands: commands::Memory,
    /// Notified when news that should have come did not: the store is watched afresh.
    pub late_news: tokio::sync::Notify,
    /// Health of the store's connection.
    pub sync: watch::Sender<Health>,
    /// What the network relies on in the host, as last seen.
    pub host: watch::Sender<Vec<Check>>,
    /// Files that could not be written, for want of room most likely; tried again by every run.
    pub unwritten: watch::Sender<Option<String>>,
    /// What the routes of the cluster ask of this machine's gateway.
    pub asked: watch::Sender<Asked>,
    /// A peer said that the network is to be destroyed here.
    pub leave: tokio::sync::Notify,
    /// The peers said that another machine uses this identity and was there first.
    pub stand_back: tokio::sync::Notify,
    /// Who is heard under which key.
    pub twins: Watch,
    /// Ends every task.
    pub cancel: CancellationToken,
    network: Mutex<NetworkFile>,
    paths: Mutex<BTreeMap<PublicKey, PeerPath>>,
    reflected: Mutex<BTreeMap<MachineId, SocketAddr>>,
    learning: Mutex<()>,
    born: Instant,
    running: tokio::sync::Mutex<()>,
    triggers: mpsc::Sender<Trigger>,
    pub(super) tasks: TaskTracker,
}

impl Network {
    /// From what is on disk; nothing of it runs yet. `triggers` takes requests for a reconciliation.
    pub fn new(
        shared: Arc<Shared>,
        network: NetworkFile,
        keys: Keys,
        triggers: mpsc::Sender<Trigger>,
    ) -> Result<Self, DiskError> {
        let twins = Watch::new(shared.around.config.socket.parent());
        let away = Health { healthy: false, since: Some(clock::now()), error: None };
        let peers = watch::Sender::new(shared.disk.peers(&network.name)?);
        Ok(Self {
            shared,
            keys,
            commands: commands::Memory::default(),
            late_news: tokio::sync::Notify::new(),
            presence: Arc::new(Presence::new(presence::knock(peers.subscribe()))),
            peers,
            phase: watch::Sender::new(Phase::Starting),
            outcome: watch::Sender::new(None),
            store: watch::Sender::new(None),
            sync: watch::Sender::new(away),
            host: watch::Sender::default(),
            unwritten: watch::Sender::default(),
            asked: watch::Sender::new(Asked::default()),
            leave: tokio::sync::Notify::new(),
            stand_back: tokio::sync::Notify::new(),
            twins,
            cancel: CancellationToken::new(),
            network: Mutex::new(network),
            paths: Mutex::default(),
            reflected: Mutex::default(),
            learning: Mutex::default(),
            born: Instant::now(),
            running: tokio::sync::Mutex::new(()),
            triggers,
            tasks: TaskTracker::new(),
        })
    }

    /// This machine's record in the network.
    pub fn network(&self) -> NetworkFile {
        self.network.lock().clone()
    }

    /// Changes the record, on disk first.
    pub fn change_network(&self, change: impl FnOnce(&mut NetworkFile)) -> Result<NetworkFile, DiskError> {
        let mut network = self.network.lock();
        let mut changed = network.clone();
        change(&mut changed);
        if changed != *network {
            self.shared.disk.put_network(&changed)?;
            *network = changed;
        }
        Ok(network.clone())
    }

    /// What the data plane should be now.
    pub fn spec(&self) -> NodeSpec {
        let (network, peers) = (self.network(), self.peers.borrow().clone());
        let (around, now) = (&self.shared.around, clock::now());
        let mut spec = spec::node(around, &self.shared.disk, &network, &self.keys, &peers, now);
        spec.gateway.routes = self.asked.borrow().sockets(&around.config, has_ipv6());
        spec
    }

    /// One run of the adopt path. Runs never overlap, and none begins once the network is being left: the last
    /// outcome stands then.
    pub async fn reconcile(&self, trigger: Trigger) -> Arc<Outcome> {
        let _alone = self.running.lock().await;
        if self.cancel.is_cancelled()
            && let Some(last) = self.outcome.borrow().clone()
        {
            return last;
        }
        self.write_files();
        let outcome = Arc::new(self.shared.reconciler.run(trigger, &self.spec()).await);
        self.outcome.send_replace(Some(outcome.clone()));
        outcome
    }

    /// Asks for a reconciliation soon; several requests become one.
    pub fn request_reconcile(&self, why: Trigger) {
        // A full channel means that runs are already asked for.
        let _ = self.triggers.try_send(why);
    }

    /// Takes in new members and invites: on disk, then in the data plane.
    pub fn learn(&self, change: impl FnOnce(&mut PeersFile)) -> Result<bool, DiskError> {
        let _alone = self.learning.lock();
        let mut changed = self.peers.borrow().clone();
        change(&mut changed);
        if changed == *self.peers.borrow() {
            return Ok(false);
        }
        self.shared.disk.put_peers(&self.network().name, &changed)?;
        self.peers.send_replace(changed);
        self.request_reconcile(Trigger::MembersChanged);
        Ok(true)
    }

    /// What is known of the path to a peer.
    pub fn path(&self, key: &PublicKey) -> PeerPath {
        self.paths.lock().get(key).cloned().unwrap_or_default()
    }

    /// Changes what is known of a path.
    pub fn with_path<T>(&self, key: PublicKey, change: impl FnOnce(&mut PeerPath) -> T) -> T {
        change(self.paths.lock().entry(key).or_default())
    }

    /// Milliseconds on this network's own clock.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How peers see this machine.
    pub fn reflected(&self) -> MutexGuard<'_, BTreeMap<MachineId, SocketAddr>> {
        self.reflected.lock()
    }

    /// Identity of the namespace that the last run found or left in place.
    pub fn netns_id(&self) -> Option<NsId> {
        self.outcome.borrow().as_ref()?.live.netns.present().map(|netns| netns.id)
    }

    /// Identity of the namespace that the last run left in place, if the overlay can be used there.
    pub fn usable_netns(&self) -> Option<NsId> {
        let outcome = self.outcome.borrow().clone()?;
        outcome.live.wireguard.present()?;
        outcome.live.netns.present().map(|netns| netns.id)
    }

    /// Ends the tasks and takes the data plane down; no run of the adopt path is under way meanwhile or begins after.
    pub async fn tear_down(&self) -> Vec<String> {
        self.detach().await;
        let _alone = self.running.lock().await;
        teardown::run(&self.shared.reconciler, &self.spec()).await
    }

    /// Ends the tasks and leaves the data plane as it is.
    pub async fn detach(&self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(DETACH_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(timeout_secs = DETACH_TIMEOUT.as_secs(), "timed out waiting for tasks to stop");
        }
    }

    pub(super) fn task(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            // Cancel-safe: a task is dropped only at an await, and writes of state are single calls.
            tokio::select! { () = cancel.cancelled() => {}, () = work => {} }
        });
    }

    /// Chosen at the first start and kept.
    pub(super) async fn choose_backend(&self) -> Result<(), DiskError> {
        let stored = self.network().backend;
        let backend = spec::backend(&self.shared.around.config, stored).await;
        self.change_network(|network| network.backend = Some(backend)).map(|_| ())
    }

    /// What the store and the sidecars start from. The mesh is worth more than what is served on it, so what cannot be
    /// written is no reason to stop; each run tries again and writes only what is not there as it should be.
    fn write_files(&self) {
        let (around, disk, network) = (&self.shared.around, &self.shared.disk, self.network());
        let written = [
            self.install_seed(),
            sidecars::install(around, disk, &network, &self.keys),
            asked::prepare(disk, &network),
        ];
        let errors = written.iter().filter_map(|written| written.as_ref().err());
        let errors: Vec<String> = errors.map(|error| ployz_core::text::chain(error)).collect();
        let now = (!errors.is_empty()).then(|| errors.join("; "));
        self.unwritten.send_if_modified(|before| {
            let changed = *before != now;
            match &now {
                Some(why) if changed => {
                    tracing::error!(error = why, "cannot write the files that store and sidecars start from")
                }
                None if changed => tracing::info!("the files of store and sidecars are written again"),
                _ => {}
            }
            before.clone_from(&now);
            changed
        });
    }

    fn install_seed(&self) -> Result<(), DiskError> {
        let (network, peers) = (self.network(), self.peers.borrow().clone());
        if network.is_founder() {
            return Ok(());
        }
        spec::nats(&self.shared.around, &self.shared.disk, &network, &self.keys, &peers).install_seed()
    }
}

const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use crate::network::tests::{Machine, member};
    use ployz_core::adopt::Trigger;

    #[test]
    fn what_cannot_be_kept_on_disk_is_not_believed() {
        let mut machine = Machine::founder("learn");
        let mesh = machine.mesh.clone();
        assert!(!mesh.learn(|_| {}).unwrap());
        assert!(machine.asked().is_empty(), "nothing new");
        assert!(mesh.learn(|peers| peers.machines.push(member(2))).unwrap());
        assert_eq!(machine.asked(), [Trigger::MembersChanged]);
        assert_eq!(mesh.shared.disk.peers(&mesh.network().name).unwrap(), *mesh.peers.borrow());
        let (dir, before) = (mesh.shared.disk.network_dir(&mesh.network().name), mesh.network());
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::write(&dir, "in the way").unwrap();
        mesh.learn(|peers| peers.machines.clear()).unwrap_err();
        assert_eq!(mesh.peers.borrow().machines.len(), 2, "a restart would know them again");
        mesh.change_network(|network| network.machine.endpoints.clear()).unwrap_err();
        assert_eq!(mesh.network(), before);
        assert!(machine.asked().is_empty());
    }
}
