//! A standing view of this machine's containers: from inspection, prompted by events, looked over every half minute. The Docker
//! network is kept in the same way: one that is pruned is made again when Docker says so.
//!
//! When Docker is away the last view stays and says so: unknown is not absent. No container is changed from here.

use crate::docker::{Docker, Event, Subject, Survey};
use crate::error::{DockerError, Result};
use crate::network::{self, Ensured, NetworkSpec};
use crate::readiness::{self, Tally, UnderWay};
use futures_util::{FutureExt, StreamExt};
use ployz_core::id::{InstanceId, Namespace};
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::{BRIDGE, ContainerOwner};
use ployz_core::wire::v1::manifest::Readiness;
use ployz_host::backoff::Backoff;
use ployz_host::clock;
use std::collections::{BTreeMap, BTreeSet};
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
    /// When it was started last, Unix seconds.
    pub started_at: Option<u64>,
    /// How often Docker has started it again by itself.
    pub restarts: u64,
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
    let mut backoff = Backoff::new(RETRY_DELAY, RETRY_DELAY_MAX);
    // From one connection to the next: containers go on without the engine's events, and so do the answers they gave.
    let mut probes = Probes::default();
    while !cancel.is_cancelled() {
        let started = tokio::time::Instant::now();
        // Cancel-safe: the view is sent whole, probes end with the set that holds them.
        let end = tokio::select! {
            () = cancel.cancelled() => return,
            end = follow(&socket, &network, &mut checks, &view, &mut probes) => end,
        };
        let why =
            end.err().map_or_else(|| "the connection ended".to_owned(), |e| ployz_core::text::chain(&e));
        away(&view, why);
        if started.elapsed() > RETRY_DELAY_MAX {
            backoff.reset();
        }
        let pause = tokio::time::sleep(backoff.delay());
        tokio::select! { () = cancel.cancelled() => return, () = pause => {} }
    }
}

/// From one connection to its end.
async fn follow(
    socket: &std::path::Path,
    network_spec: &NetworkSpec,
    checks: &mut watch::Receiver<Checks>,
    view: &watch::Sender<View>,
    probes: &mut Probes,
) -> Result<()> {
    let docker = Docker::connect(socket, &network_spec.network).await?;
    // From before the first look, so that nothing falls between the two.
    let mut events = std::pin::pin!(docker.events(clock::now()));
    let mut ensured = ensure(&docker, network_spec, view).await?;
    loop {
        let found = docker.survey().await?;
        let asked = checks.borrow_and_update().clone();
        let before = view.borrow().instances.clone();
        probes.follow(&docker, &found, &asked, &before);
        let instances = see(&found, &asked, &before, probes);
        let engine = Engine::Live(docker.version().to_owned());
        set(view, View { engine, network: ensured.clone(), instances });
        let settled = found.silent.is_empty() && matches!(ensured, Ensured::Ready(_));
        let next = if settled { RESYNC_INTERVAL } else { UNSETTLED_INTERVAL };
        // Cancel-safe: whatever is dropped here is found by the look that follows.
        tokio::select! {
            event = events.next() => match event {
                None => return Ok(()),
                Some(event) => {
                    let mut network = is_of_network(event?);
                    tokio::time::sleep(DEBOUNCE).await;
                    while let Some(Some(event)) = events.next().now_or_never() {
                        network |= is_of_network(event?);
                    }
                    if network {
                        ensured = ensure(&docker, network_spec, view).await?;
                    }
                }
            },
            changed = probes.changed() => changed,
            Ok(()) = checks.changed() => {}
            () = tokio::time::sleep(next) => ensured = ensure(&docker, network_spec, view).await?,
        }
    }
}

fn is_of_network(event: Event) -> bool {
    event.subject == Subject::Network
}

/// A refusal is a state to be shown; no answer is the end of the connection.
async fn ensure(docker: &Docker, wanted: &NetworkSpec, view: &watch::Sender<View>) -> Result<Ensured> {
    let now = match network::ensure(docker, wanted).await {
        Err(error @ DockerError::Failed { .. }) => Ensured::Held(ployz_core::text::chain(&error)),
        other => other?,
    };
    if now != view.borrow().network {
        match &now {
            Ensured::Held(why) => tracing::warn!(error = why, "the Docker network is held"),
            _ => tracing::info!(docker = docker.version(), "the Docker network is up"),
        }
    }
    Ok(now)
}

type Instances = BTreeMap<InstanceKey, Instance>;

/// The questions under way, by Docker's id of the container.
#[derive(Default)]
struct Probes {
    asked: BTreeMap<String, Probe>,
    tasks: JoinSet<()>,
}

/// How one container is asked, and what it answered.
struct Probe {
    readiness: Readiness,
    address: Ipv4Addr,
    tally: watch::Receiver<Tally>,
    under_way: UnderWay,
    task: tokio::task::AbortHandle,
}

impl Probes {
    /// Starts and stops so that exactly the running containers with a check are asked. One that is asked in another way
    /// than before, or for the first time, is what it was before until it has answered.
    fn follow(&mut self, docker: &Docker, found: &Survey, checks: &Checks, before: &Instances) {
        let silent: BTreeSet<&str> = found.silent.iter().map(|silent| silent.id.as_str()).collect();
        let wanted: BTreeMap<&str, (&ContainerLive, Ipv4Addr, &Readiness)> =
            found.live.iter().filter_map(|live| Some((live.id.as_str(), check(live, checks)?))).collect();
        self.asked.retain(|id, probe| {
            let stays = silent.contains(id.as_str()) || wanted.contains_key(id.as_str());
            if !stays {
                probe.task.abort();
            }
            stays
        });
        for (id, (live, address, readiness)) in wanted {
            let same = |probe: &Probe| {
                probe.readiness == *readiness && probe.address == address && !probe.task.is_finished()
            };
            if !self.asked.get(id).is_some_and(same) {
                self.ask(docker, id, address, readiness, was_ready(live, address, before));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn ask(&mut self, docker: &Docker, id: &str, address: Ipv4Addr, readiness: &Readiness, ready: bool) {
        let before = self.asked.remove(id);
        let under_way = before.map_or_else(UnderWay::default, |probe| {
            probe.task.abort();
            probe.under_way
        });
        let (sender, tally) = watch::channel(Tally::new(readiness.threshold, ready));
        let (readiness, way) = (readiness.clone(), under_way.clone());
        let work = readiness::watch(docker.clone(), id.to_owned(), address, readiness.clone(), sender, way);
        let task = self.tasks.spawn(work);
        self.asked.insert(id.to_owned(), Probe { readiness, address, tally, under_way, task });
    }

    /// The next change of an answer; never, when nobody is asked.
    async fn changed(&mut self) {
        let waits = self.asked.values_mut().map(|probe| Box::pin(probe.tally.changed()));
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        let (changed, _, _) = futures_util::future::select_all(waits).await;
        if changed.is_err() {
            // Its task is over: the next look starts another.
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    fn tally(&self, id: &str) -> Option<(bool, Option<String>)> {
        let tally = self.asked.get(id)?.tally.borrow();
        Some((tally.is_ready(), tally.why_not.clone()))
    }
}

/// How a container is asked, if it runs and is to be asked.
fn check<'a>(
    live: &'a ContainerLive,
    checks: &'a Checks,
) -> Option<(&'a ContainerLive, Ipv4Addr, &'a Readiness)> {
    let owner = live.owner().filter(|_| live.state == ContainerState::Running)?;
    let readiness = checks.get(&(owner.namespace, owner.instance))?;
    Some((live, address(live)?, readiness))
}

/// Whether this very container ran and was ready when it was looked at last.
fn was_ready(live: &ContainerLive, address: Ipv4Addr, before: &Instances) -> bool {
    let Some(owner) = live.owner() else { return false };
    let same = |seen: &&Instance| seen.id == live.id && seen.address == Some(address);
    let seen = before.get(&(owner.namespace, owner.instance)).filter(same);
    seen.is_some_and(|seen| seen.state == ContainerState::Running && seen.ready)
}

fn address(live: &ContainerLive) -> Option<Ipv4Addr> {
    live.networks.get(BRIDGE).copied().flatten()
}

/// What is shown: as inspected, and as it was where the engine does not say what it is now.
fn see(found: &Survey, checks: &Checks, before: &Instances, probes: &Probes) -> Instances {
    let silent = found.silent.iter().filter_map(|silent| {
        let owner = silent.owner.clone()?;
        let key = (owner.namespace, owner.instance);
        let last = before.get(&key).filter(|last| last.id == silent.id)?;
        Some((key, last.clone()))
    });
    let live = found.live.iter().filter_map(|live| {
        let owner = live.owner()?;
        let running = live.state == ContainerState::Running;
        let key = (owner.namespace.clone(), owner.instance.clone());
        let (ready, why_not_ready) = match probes.tally(&live.id) {
            Some((ready, why)) => (running && ready, why),
            None => (running && !checks.contains_key(&key), None),
        };
        let instance = Instance {
            id: live.id.clone(),
            owner,
            address: address(live),
            state: live.state,
            started_at: live.started_at,
            restarts: live.restarts,
            ready,
            why_not_ready,
        };
        Some((key, instance))
    });
    silent.chain(live).collect()
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
const DEBOUNCE: Duration = Duration::from_millis(50);
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// As long as something was not answered, or the network does not stand.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(2);
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// A deploy right after Docker's start waits for this.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
