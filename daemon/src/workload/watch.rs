//! A standing view of this machine's containers: from inspection, told by events, looked over every half minute.
//!
//! When Docker is away the last view stays and says so: unknown is not absent. Nothing is changed from here.

use crate::clock;
use crate::workload::docker::Docker;
use crate::workload::error::{DockerError, Result};
use crate::workload::network::{self, Ensured, NetworkSpec};
use crate::workload::readiness::{self, Tally};
use futures_util::{FutureExt, StreamExt};
use ployz_core::id::{InstanceId, Namespace};
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::{BRIDGE, ContainerOwner};
use ployz_core::wire::v1::manifest::Readiness;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What an instance is found by on one machine.
pub type InstanceKey = (Namespace, InstanceId);

/// How containers are asked whether they are ready; one that is not named is ready when it runs.
pub type Checks = Arc<BTreeMap<InstanceKey, Readiness>>;

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Whether Docker answers.
    pub engine: Engine,
    /// The Docker network that containers are attached to.
    pub network: Ensured,
    /// The containers, as last seen.
    pub instances: BTreeMap<InstanceKey, Instance>,
}

/// Whether Docker answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Engine {
    /// Nobody asked yet.
    #[default]
    Unasked,
    /// It does; its version.
    Live(String),
    /// It does not.
    Away {
        /// Since then; Unix seconds.
        since: u64,
        /// The error.
        why: String,
    },
}

/// One container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Docker's id.
    pub id: String,
    /// Whose it is.
    pub owner: ContainerOwner,
    /// Its address in the node's subnet.
    pub address: Option<Ipv4Addr>,
    /// Whether it runs.
    pub state: ContainerState,
    /// Whether it does its work.
    pub ready: bool,
    /// The last answer that was no.
    pub why_not_ready: Option<String>,
}

/// Keeps the Docker network and the view until it is cancelled.
pub async fn run(
    socket: PathBuf,
    network: NetworkSpec,
    mut checks: watch::Receiver<Checks>,
    view: watch::Sender<View>,
    cancel: CancellationToken,
) {
    let mut pause = SOONEST;
    while !cancel.is_cancelled() {
        let started = tokio::time::Instant::now();
        // Cancel-safe: the view is sent whole, probes end with the set that holds them.
        let end = tokio::select! {
            () = cancel.cancelled() => return,
            end = follow(&socket, &network, &mut checks, &view) => end,
        };
        let why = end.err().map_or_else(|| "the connection ended".to_owned(), |e| ployz_netns::chain(&e));
        away(&view, why);
        pause = if started.elapsed() > LATEST { SOONEST } else { (pause * 2).min(LATEST) };
        tokio::select! { () = cancel.cancelled() => return, () = tokio::time::sleep(pause) => {} }
    }
}

/// From one connection to its end.
async fn follow(
    socket: &std::path::Path,
    network: &NetworkSpec,
    checks: &mut watch::Receiver<Checks>,
    view: &watch::Sender<View>,
) -> Result<()> {
    let docker = Docker::connect(socket, &network.network).await?;
    // From before the first look, so that nothing falls between the two.
    let mut events = std::pin::pin!(docker.events(clock::now()));
    let mut probes = Probes::default();
    let mut ensured = ensure(&docker, network, view).await?;
    loop {
        let found = docker.list().await?;
        let asked = checks.borrow_and_update().clone();
        probes.follow(&docker, &found, &asked);
        set(view, see(&docker, &ensured, &found, &asked, &probes));
        // Cancel-safe: whatever is dropped here is found by the look that follows.
        tokio::select! {
            event = events.next() => match event {
                None => return Ok(()),
                Some(event) => {
                    event?;
                    tokio::time::sleep(SETTLE).await;
                    while let Some(Some(event)) = events.next().now_or_never() {
                        event?;
                    }
                }
            },
            changed = probes.changed() => changed,
            Ok(()) = checks.changed() => {}
            () = tokio::time::sleep(RESYNC) => ensured = ensure(&docker, network, view).await?,
        }
    }
}

/// A refusal is a state to be shown; no answer is the end of the connection.
async fn ensure(docker: &Docker, wanted: &NetworkSpec, view: &watch::Sender<View>) -> Result<Ensured> {
    let now = match network::ensure(docker, wanted).await {
        Err(error @ DockerError::Failed { .. }) => Ensured::Held(ployz_netns::chain(&error)),
        other => other?,
    };
    if now != view.borrow().network {
        match &now {
            Ensured::Held(why) => tracing::warn!("the Docker network is held: {why}"),
            _ => tracing::info!(docker = docker.version(), "the Docker network stands"),
        }
    }
    Ok(now)
}

/// The questions under way, by Docker's id of the container.
#[derive(Default)]
struct Probes {
    asked: BTreeMap<String, (Readiness, watch::Receiver<Tally>, tokio::task::AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Probes {
    /// Starts and stops so that exactly the running containers with a check are asked.
    fn follow(&mut self, docker: &Docker, found: &[ContainerLive], checks: &Checks) {
        let wanted: BTreeMap<&str, (Ipv4Addr, &Readiness)> =
            found.iter().filter_map(|live| Some((live.id.as_str(), check(live, checks)?))).collect();
        self.asked.retain(|id, (known, _, task)| {
            let stays = wanted.get(id.as_str()).is_some_and(|(_, readiness)| *readiness == known);
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, (address, readiness)) in wanted {
            if !self.asked.contains_key(id) {
                let (sender, receiver) = watch::channel(Tally::new(readiness.threshold));
                let work =
                    readiness::watch(docker.clone(), id.to_owned(), address, readiness.clone(), sender);
                let task = self.tasks.spawn(work);
                self.asked.insert(id.to_owned(), (readiness.clone(), receiver, task));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// The next change of an answer; never, when nobody is asked.
    async fn changed(&mut self) {
        let waits = self.asked.values_mut().map(|(_, receiver, _)| Box::pin(receiver.changed()));
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        let (changed, _, _) = futures_util::future::select_all(waits).await;
        if changed.is_err() {
            // Its task is over: the next look starts another.
            tokio::time::sleep(SETTLE).await;
        }
    }

    fn tally(&self, id: &str) -> Option<(bool, Option<String>)> {
        let (_, receiver, _) = self.asked.get(id)?;
        let tally = receiver.borrow();
        Some((tally.is_ready(), tally.why_not.clone()))
    }
}

/// How a container is asked, if it runs and is to be asked.
fn check<'a>(live: &ContainerLive, checks: &'a Checks) -> Option<(Ipv4Addr, &'a Readiness)> {
    let owner = live.owner().filter(|_| live.state == ContainerState::Running)?;
    let readiness = checks.get(&(owner.namespace, owner.instance))?;
    Some((address(live)?, readiness))
}

fn address(live: &ContainerLive) -> Option<Ipv4Addr> {
    live.networks.get(BRIDGE).copied().flatten()
}

fn see(
    docker: &Docker,
    network: &Ensured,
    found: &[ContainerLive],
    checks: &Checks,
    probes: &Probes,
) -> View {
    let instances = found.iter().filter_map(|live| {
        let owner = live.owner()?;
        let running = live.state == ContainerState::Running;
        let key = (owner.namespace.clone(), owner.instance.clone());
        let (ready, why_not_ready) = match probes.tally(&live.id) {
            Some((ready, why)) => (running && ready, why),
            None => (running && !checks.contains_key(&key), None),
        };
        let address = address(live);
        Some((key, Instance { id: live.id.clone(), owner, address, state: live.state, ready, why_not_ready }))
    });
    let engine = Engine::Live(docker.version().to_owned());
    View { engine, network: network.clone(), instances: instances.collect() }
}

/// The last view stays, and says that it is old.
fn away(view: &watch::Sender<View>, why: String) {
    let mut now = view.borrow().clone();
    let since = match &now.engine {
        Engine::Away { since, .. } => *since,
        _ => clock::now(),
    };
    now.engine = Engine::Away { since, why };
    set(view, now);
}

fn set(view: &watch::Sender<View>, now: View) {
    view.send_if_modified(|known| {
        let differs = *known != now;
        if differs {
            *known = now;
        }
        differs
    });
}

/// Several events of one container (create, start, network connect) become one look.
const SETTLE: Duration = Duration::from_millis(50);
const RESYNC: Duration = Duration::from_secs(30);
const SOONEST: Duration = Duration::from_millis(250);
const LATEST: Duration = Duration::from_secs(10);
