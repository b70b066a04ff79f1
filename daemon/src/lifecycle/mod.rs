//! The operations an operator can ask for. One at a time changes anything; reading never waits for them.

mod create;
mod destroy;
mod identity;
mod invite;
mod join;
pub mod peer;
mod resume;

use crate::deploy::context::Deploys;
use crate::failure::{Failure, Result};
use crate::image::context::Images;
use crate::network::context::{Network, Parts, Shared};
use crate::network::start::start;
use crate::node::reconcile::StartFailure;
use crate::node::{spec, teardown};
use crate::progress::Say;
use crate::state::{Keys, NetworkFile, Removal, Stored};
use parking_lot::RwLock;
use ployz_core::adopt::{Seen, Trigger};
use ployz_core::id::NetworkName;
use ployz_core::wire::v1::api::{ErrorCode, Phase};
use ployz_host::clock;
use std::sync::Arc;
use std::time::Duration;

/// The rooms of a running network.
#[derive(Clone)]
pub struct Rooms {
    /// The network itself.
    pub network: Arc<Network>,
    /// Its deploys.
    pub deploys: Arc<Deploys>,
    /// Its images.
    pub images: Arc<Images>,
}

/// Makes the rooms of a network, and what they add to it.
pub type Compose = fn(&Arc<Network>) -> (Rooms, Parts);

/// The daemon.
pub struct Daemon {
    /// What all networks share.
    pub shared: Arc<Shared>,
    /// Unix seconds.
    pub started_at: u64,
    compose: Compose,
    current: RwLock<Option<Rooms>>,
    held: RwLock<Option<(NetworkName, String)>>,
    exclusive: tokio::sync::Mutex<()>,
}

impl Daemon {
    /// A daemon without a running network.
    pub fn new(shared: Arc<Shared>, compose: Compose) -> Arc<Self> {
        Arc::new(Self {
            shared,
            started_at: clock::now(),
            compose,
            current: RwLock::new(None),
            held: RwLock::new(None),
            exclusive: tokio::sync::Mutex::new(()),
        })
    }

    /// The running network.
    pub fn current(&self) -> Option<Arc<Network>> {
        self.current.read().as_ref().map(|rooms| rooms.network.clone())
    }

    /// The rooms of the running network, or the failure that says there is none.
    pub fn rooms(&self) -> Result<Rooms> {
        self.current.read().clone().ok_or_else(|| self.not_running())
    }

    /// The running network, or the failure that says there is none.
    pub fn running(&self) -> Result<Arc<Network>> {
        self.current().ok_or_else(|| self.not_running())
    }

    fn not_running(&self) -> Failure {
        match self.held_reason() {
            Some((name, why)) => crate::node::identity::held_failure(&name, why),
            None => Failure::new(ErrorCode::NoRunningNetwork, "no network is running on this machine"),
        }
    }

    /// The network an operator means: the one named, else the running one, else the only one of this machine.
    pub fn meant(&self, named: Option<NetworkName>) -> Result<NetworkName> {
        if let Some(name) = named.or_else(|| self.current().map(|mesh| mesh.network().name)) {
            return Ok(name);
        }
        let networks = self.shared.disk.networks()?;
        match networks.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::new(ErrorCode::NoRunningNetwork, "there is no network on this machine")),
            several => {
                let names = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let message =
                    format!("no network is running on this machine, and there are several: {names}");
                let hint = "name one of them".to_owned();
                Err(Failure { hint: Some(hint), ..Failure::new(ErrorCode::NoRunningNetwork, message) })
            }
        }
    }

    /// Takes down what a network that is not running any more has left, from what is on disk; one that is left goes from
    /// there too.
    async fn finish_stop(&self, network: &NetworkFile, keys: &Keys, removal: Removal) -> Result<()> {
        let peers = self.shared.disk.peers(&network.name)?;
        let spec = spec::node(&self.shared.around, &self.shared.disk, network, keys, &peers, clock::now());
        let left = teardown::run(&self.shared.reconciler, &spec).await;
        if !left.is_empty() {
            let message = "some components could not be taken down";
            return Err(Failure::new(ErrorCode::NetworkStopFailed, message).with(left));
        }
        self.shared.disk.set_active(None)?;
        if network.lifecycle == Stored::Leaving {
            removal.apply(&self.shared.disk, &network.name)?;
        }
        Ok(())
    }

    fn is_current(&self, mesh: &Arc<Network>) -> bool {
        self.current().is_some_and(|current| Arc::ptr_eq(&current, mesh))
    }

    /// `mesh create`.
    pub async fn create(&self, name: &NetworkName) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        self.found(name, Stored::Stopped).await
    }

    /// `mesh init`: create, start, wait until it can be used. A failure leaves nothing behind.
    pub async fn init(self: &Arc<Self>, name: &NetworkName, say: Say<'_>) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        self.nothing_running()?;
        let network = self.found(name, Stored::Running).await?;
        match self.activate(network, Stored::Leaving, say).await {
            Ok(network) => Ok(network),
            // What could not be taken down needs its record: `mesh destroy` is the way then.
            Err(failure) if self.shared.disk.active()?.is_some() => Err(failure),
            Err(failure) => {
                self.shared.disk.remove_network(name)?;
                Err(failure)
            }
        }
    }

    /// `mesh start`.
    pub async fn start(
        self: &Arc<Self>,
        name: &NetworkName,
        restored: bool,
        say: Say<'_>,
    ) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        let (network, keys) = self.load(name)?;
        self.nothing_running()?;
        if restored {
            self.take_over(name)?;
        } else {
            // Refused before anything of it is written.
            self.admit(&network, &keys).await?;
        }
        let standing = match network.lifecycle {
            Stored::Joining { .. } => "is still joining",
            // The peers know that it is gone.
            Stored::Leaving => "is being destroyed: `mesh destroy` finishes that",
            Stored::Stopped | Stored::Running => return self.activate(network, Stored::Stopped, say).await,
        };
        Err(Failure::new(ErrorCode::InvalidTransition, format!("network {name} {standing}")))
    }

    /// `mesh stop`. A stop that failed can be repeated.
    pub async fn stop(&self, force: bool) -> Result<NetworkName> {
        let _alone = self.exclusive.lock().await;
        let Some(mesh) = self.current() else {
            let half = self.shared.disk.active()?;
            let name = half.ok_or_else(|| {
                Failure::new(ErrorCode::NoRunningNetwork, "no network is running on this machine")
            })?;
            let (network, keys) = self.load(&name)?;
            self.finish_stop(&network, &keys, Removal::SetAside).await?;
            self.no_longer_held();
            return Ok(name);
        };
        if !force {
            self.no_workloads(&mesh).await?;
        }
        if matches!(mesh.network().lifecycle, Stored::Joining { .. }) {
            self.undo_join(&mesh).await?;
            return Ok(mesh.network().name);
        }
        let network = mesh.change_network(|network| network.lifecycle = Stored::Stopped)?;
        let left = self.take_down(&mesh).await;
        if left.is_empty() {
            self.shared.disk.set_active(None)?;
            return Ok(network.name);
        }
        Err(Failure::new(ErrorCode::NetworkStopFailed, "some components could not be taken down").with(left))
    }

    async fn no_workloads(&self, mesh: &Network) -> Result<()> {
        let message = match workloads(mesh).await {
            Some(0) => return Ok(()),
            Some(count) => format!("{count} workloads of this machine depend on the overlay"),
            None => "cannot determine whether workloads of this machine depend on the overlay".to_owned(),
        };
        Err(Failure::new(ErrorCode::WorkloadsRunning, message))
    }

    /// Ends the tasks and leaves the data plane as it is.
    pub async fn detach(&self) {
        if let Some(mesh) = self.current() {
            mesh.detach().await;
        }
    }

    async fn take_down(&self, mesh: &Arc<Network>) -> Vec<String> {
        mesh.phase.send_replace(Phase::Stopping);
        let left = mesh.tear_down().await;
        mesh.phase.send_replace(Phase::Stopped);
        self.shared.identities.send_replace(Vec::new());
        *self.current.write() = None;
        self.shared.reconciler.forget();
        left
    }

    /// A start. `failed` is what the record says after one that failed: the next ployzd finishes that, wherever this one dies.
    async fn activate(
        self: &Arc<Self>,
        mut network: NetworkFile,
        failed: Stored,
        say: Say<'_>,
    ) -> Result<NetworkFile> {
        let (_, keys) = self.load(&network.name)?;
        network.lifecycle = Stored::Running;
        network.machine.endpoints = self.endpoints(&network.id, network.plan.cluster_cidr).await?;
        let begun = self.begin(&network, keys, say).await;
        let mesh =
            begun.map_err(|failure| self.not_started(network.clone(), failed.clone(), failure, true))?;
        let broken = until_sure(&mesh).await;
        let network = mesh.network();
        let failure = if let Some(broken) = broken {
            Some(Failure::new(broken.code(), "the data plane did not come up").with(broken.complaints()))
        } else {
            say("waiting for the store");
            match (network.is_founder(), self.until_usable(&mesh).await) {
                (_, Ok(())) => None,
                // A member starts although the founder is away: its tunnels are up, and it says what it lacks.
                (false, Err(_)) => None,
                (true, Err(failure)) => Some(failure),
            }
        };
        let Some(failure) = failure else { return Ok(network) };
        let left = self.take_down(&mesh).await;
        Err(self.not_started(network, failed, failure.with(left.clone()), left.is_empty()))
    }

    async fn begin(
        self: &Arc<Self>,
        network: &NetworkFile,
        keys: Keys,
        say: Say<'_>,
    ) -> Result<Arc<Network>> {
        self.shared.disk.put_network(network)?;
        self.shared.disk.set_active(Some(&network.name))?;
        say("bringing up the data plane");
        self.bring_up(network.clone(), keys, Trigger::NetworkStart).await
    }

    /// The record of a start that failed: the next ployzd must not go on with it, unless there is something left to take down.
    /// Why it failed is what the operator is told, even where the record cannot be written.
    fn not_started(&self, network: NetworkFile, failed: Stored, failure: Failure, clean: bool) -> Failure {
        let disk = &self.shared.disk;
        let stopped = disk.put_network(&NetworkFile { lifecycle: failed, ..network });
        let inactive = if clean { disk.set_active(None) } else { Ok(()) };
        let unwritten = [stopped, inactive].into_iter().filter_map(|written| written.err());
        failure.with(unwritten.map(|error| ployz_core::text::chain(&error)).collect())
    }

    async fn bring_up(
        self: &Arc<Self>,
        network: NetworkFile,
        keys: Keys,
        trigger: Trigger,
    ) -> Result<Arc<Network>> {
        self.admit(&network, &keys).await?;
        self.no_longer_held();
        let mut made = None;
        let compose = |network: &Arc<Network>| {
            let (rooms, parts) = (self.compose)(network);
            made = Some(rooms);
            parts
        };
        let (mesh, _) = start(self.shared.clone(), network, keys, trigger, compose).await?;
        *self.current.write() = made;
        let (daemon, watched) = (self.clone(), mesh.clone());
        tokio::spawn(async move {
            loop {
                // Cancel-safe: a notification that is not awaited any more is of no use.
                tokio::select! {
                    () = watched.leave.notified() => daemon.leave(watched.clone()).await,
                    () = watched.stand_back.notified() => daemon.stand_back(watched.clone()).await,
                    () = watched.cancel.cancelled() => return,
                }
            }
        });
        Ok(mesh)
    }

    async fn until_usable(&self, mesh: &Network) -> Result<()> {
        let mut phase = mesh.phase.subscribe();
        match tokio::time::timeout(STORE_TIMEOUT, phase.wait_for(|phase| *phase == Phase::Running)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let error = mesh.sync.borrow().error.clone();
                let message = format!("timed out after {}s waiting for the store", STORE_TIMEOUT.as_secs());
                Err(Failure::new(ErrorCode::StoreUnavailable, message).with(error.into_iter().collect()))
            }
        }
    }

    fn load(&self, name: &NetworkName) -> Result<(NetworkFile, Keys)> {
        let missing = || {
            Failure::new(ErrorCode::NetworkNotFound, format!("there is no network {name} on this machine"))
        };
        let network = self.shared.disk.network(name)?.ok_or_else(missing)?;
        let keys = self.shared.disk.keys(name)?.ok_or_else(missing)?;
        Ok((network, keys))
    }

    fn nothing_running(&self) -> Result<()> {
        match self.current() {
            None => Ok(()),
            Some(mesh) => {
                let message = format!("network {} is running on this machine", mesh.network().name);
                Err(Failure::new(ErrorCode::NetworkAlreadyRunning, message))
            }
        }
    }
}

/// How many workloads of this machine use the overlay: running containers of ours, or, when Docker does not answer, the
/// ports of the bridge. `None` when that cannot be told.
pub async fn workloads(mesh: &Network) -> Option<usize> {
    let spec = mesh.spec();
    if let Some(count) = ployz_engine::running(&spec.link.network).await {
        return Some(count);
    }
    match ployz_netns::link::inspect(&spec.link, &ployz_netns::namespace::path(&spec.netns.name)).await {
        Seen::Absent => Some(0),
        Seen::Present(link) => Some(link.bridge.map_or(0, |bridge| bridge.ports)),
        Seen::Foreign(_) | Seen::Unknown(_) => None,
    }
}

/// What is wrong, as soon as that is known: an inspection that timed out is made again before anything is given up.
async fn until_sure(mesh: &Network) -> Option<StartFailure> {
    let mut outcome = mesh.outcome.subscribe();
    let known = outcome.wait_for(|outcome| outcome.as_ref().is_some_and(|outcome| !outcome.is_unsure()));
    // Cancel-safe: the watch keeps its value.
    let _ = tokio::time::timeout(INSPECT_TIMEOUT, known).await;
    mesh.outcome.borrow().as_ref().and_then(|outcome| outcome.start_failure())
}

/// How long a start waits for parts that could not be inspected.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(20);
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
