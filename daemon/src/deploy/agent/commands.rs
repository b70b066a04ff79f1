//! What this machine does when a coordinator asks. Every command can be sent again; nothing is changed after its
//! `not_after`, and what was to be removed never starts again.

use crate::deploy::agent::container::{self, failed, not_kept};
use crate::deploy::agent::logs;
use crate::deploy::agent::ops::{self, Refused, Result, in_time};
use crate::deploy::context::Deploys;
use crate::state::instances::InstanceRecord;
use ployz_core::adopt::container::{container as verdict, note};
use ployz_core::adopt::{Seen, Verdict};
use ployz_core::deploy::address;
use ployz_core::id::{MachineId, Namespace};
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::{ContainerOwner, PublishedPort, container_name};
use ployz_core::wire::v1::api::{ContainerStatus, ErrorCode, ExplainContainers};
use ployz_core::wire::v1::deploy::{
    DeployAnswer, DeployCommand, DeployFailure, ImageSeen, InstanceSeen, Instances, List, Probe, Probed,
    Readiness, ReadinessState, Start,
};
use ployz_core::wire::v1::manifest::{Protocol, Service};
use ployz_engine::docker::{Docker, SOCKET};
use ployz_engine::registry::Held;
use ployz_engine::watch::{Engine, Instance};
use ployz_host::clock;
use ployz_nats::bucket::StoreError;
use ployz_nats::rpc::{Request, Sender};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Carries a command out beside whatever else is asked, and answers.
pub fn take(deploys: &Arc<Deploys>, Request { payload, sender, reply }: Request) {
    let deploys = deploys.clone();
    let asked = serde_json::from_slice::<DeployCommand>(&payload);
    // Taken here, in the order in which they came.
    let room = asked.as_ref().ok().map(|command| deploys.local.room(command));
    tokio::spawn(async move {
        let own = deploys.network.network().machine.id;
        let answer = match (asked, &room) {
            (Ok(_), Some(None)) => DeployAnswer::Busy,
            (Ok(command), _) => outcome(answer(&deploys, &sender, command).await, &own),
            (Err(error), _) => {
                let what = format!("invalid command: {error}");
                DeployAnswer::Failed(DeployFailure::new(ErrorCode::InvalidRequest, what).on(&own))
            }
        };
        reply.send(&answer).await;
    });
}

fn outcome(done: Result<DeployAnswer>, own: &MachineId) -> DeployAnswer {
    match done {
        Ok(answer) => answer,
        Err(Refused::TooLate) => DeployAnswer::TooLate { clock: clock::now() },
        Err(Refused::Failed(failure)) => DeployAnswer::Failed(failure.on(own)),
    }
}

async fn answer(deploys: &Arc<Deploys>, sender: &Sender, command: DeployCommand) -> Result<DeployAnswer> {
    let network = deploys.network.network().id;
    if *command.network() != network {
        let what = "this machine is in another network";
        return Err(DeployFailure::new(ErrorCode::InvalidRequest, what).into());
    }
    if let Some(namespace) = command.locked() {
        match holder(deploys, namespace).await {
            Ok(Some(holder)) if holder == sender.machine => {}
            Ok(holder) => return Err(not_held(&command, sender, namespace, holder).into()),
            // Not known is neither yes nor no: to be asked again.
            Err(error) => {
                tracing::debug!(%namespace, %error, "cannot read the lock of a namespace");
                return Ok(DeployAnswer::Busy);
            }
        }
    }
    let docker = Docker::connect(Path::new(SOCKET), &network).await.map_err(failed)?;
    let local = &deploys.local;
    match command {
        DeployCommand::Probe(asked) => probe(&docker, deploys, &asked).await.map(DeployAnswer::Probed),
        DeployCommand::Start(asked) => start(deploys, &docker, &asked).await,
        DeployCommand::Readiness(asked) => readiness(deploys, &docker, &asked).await,
        DeployCommand::Stop(asked) => ops::stop(local, &docker, &asked).await,
        DeployCommand::Restore(asked) => {
            crate::deploy::agent::bridge::stand(&deploys.network, &docker).await.map_err(failed)?;
            ops::restore(local, &docker, &asked).await
        }
        DeployCommand::Drain(asked) => ops::drain(local, &docker, &asked).await,
        DeployCommand::Remove(asked) => ops::remove(local, &docker, &asked).await,
        DeployCommand::List(asked) => list(deploys, &docker, &asked).await,
        DeployCommand::Logs(asked) => Ok(logs::read(&docker, &asked).await?),
    }
}

/// The machine that holds a namespace, as the store says: what a command says of itself counts for nothing.
async fn holder(
    deploys: &Deploys,
    namespace: &Namespace,
) -> std::result::Result<Option<MachineId>, StoreError> {
    let Some(store) = deploys.network.store.borrow().clone() else {
        return Err(StoreError::Away { operation: "read a lock", detail: "not connected".into() });
    };
    Ok(store.deploy_lock(namespace).await?.map(|stored| stored.value.owner))
}

fn not_held(
    command: &DeployCommand,
    sender: &Sender,
    namespace: &Namespace,
    holder: Option<MachineId>,
) -> DeployFailure {
    let (command, sender, signed) = (command.name(), sender.machine.as_str(), sender.signed);
    let holder = holder.map_or_else(|| "no machine".to_owned(), |machine| machine.to_string());
    tracing::warn!(target: "audit", command, sender, signed, %namespace, holder, "deploy command refused");
    let what = format!("{command} is refused: {sender} does not hold the lock of {namespace}, {holder} does");
    DeployFailure::new(ErrorCode::CommandRefused, what)
}

async fn probe(docker: &Docker, deploys: &Deploys, asked: &Probe) -> Result<Probed> {
    let mut images = BTreeMap::new();
    for reference in &asked.images {
        if let Some(Held { facts, digests, .. }) = docker.held(reference).await.map_err(failed)? {
            images.insert(reference.clone(), ImageSeen { id: facts.id, content: facts.content, digests });
        }
    }
    let found = docker.list().await.map_err(failed)?;
    let subnet = deploys.network.network().subnet();
    let free = address::capacity(&subnet).saturating_sub(container::taken(&found).len());
    Ok(Probed {
        images,
        taken: taken(asked, &found),
        free_addresses: u32::try_from(free).unwrap_or(u32::MAX),
        free_disk: free_disk(),
        instances: u32::try_from(found.iter().filter(|live| live.state.runs()).count()).unwrap_or(u32::MAX),
        platform: docker.platform().map(str::to_owned),
    })
}

/// Ports asked for that are held: by a container of ours that stays, or by anything that listens.
fn taken(asked: &Probe, found: &[ContainerLive]) -> BTreeSet<(Protocol, u16)> {
    let (mut held, mut released) = (BTreeSet::new(), BTreeSet::new());
    for live in found {
        let goes = live.owner().is_some_and(|owner| {
            owner.namespace == asked.namespace && asked.releases.contains(&owner.instance)
        });
        let ports = live.publish.iter().map(|port| (port.protocol, port.host));
        if goes { released.extend(ports) } else { held.extend(ports) }
    }
    let is_taken =
        |port: &(Protocol, u16)| held.contains(port) || (!released.contains(port) && !is_free(*port));
    asked.publish.iter().copied().filter(is_taken).collect()
}

fn is_free((protocol, port): (Protocol, u16)) -> bool {
    let at = (Ipv4Addr::UNSPECIFIED, port);
    match protocol {
        Protocol::Tcp => TcpListener::bind(at).is_ok(),
        Protocol::Udp => UdpSocket::bind(at).is_ok(),
    }
}

fn free_disk() -> Option<u64> {
    let found = nix::sys::statvfs::statvfs("/var/lib/docker").ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

async fn start(deploys: &Deploys, docker: &Docker, asked: &Start) -> Result<DeployAnswer> {
    let mut instances = Vec::new();
    for candidate in &asked.candidates {
        let _turn = deploys.local.alone(&asked.namespace, &candidate.instance).await;
        in_time(asked.not_after)?;
        let started = container::start(deploys, docker, asked, candidate).await;
        instances.push(started.map_err(|failure| failure.of(&candidate.service))?);
    }
    Ok(DeployAnswer::Started { instances })
}

async fn readiness(deploys: &Deploys, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    let view = deploys.workloads.borrow().clone();
    if !matches!(view.engine, Engine::Live(_)) {
        let what = "its containers have not been listed yet";
        return Err(DeployFailure::new(ErrorCode::DockerUnavailable, what).into());
    }
    let known = deploys.local.read().map_err(not_kept)?;
    let mut instances = Vec::new();
    for instance in &asked.instances {
        let key = (asked.namespace.clone(), instance.clone());
        let kept = known.get(&asked.namespace, instance);
        let (seen, routable) = (view.instances.get(&key), deploys.local.is_routable(&key));
        let name = container_name(&asked.namespace, instance);
        let mut state = match state(kept, seen, routable, clock::now()) {
            // The view may be behind a start, but nobody asks before that was answered.
            ReadinessState::Starting { .. } if seen.is_none() && is_gone(docker, &name).await => {
                ReadinessState::Failed { why: "its container was removed".into() }
            }
            state => state,
        };
        if let ReadinessState::Failed { why } = &mut state {
            let said = logs::last(docker, &name).await;
            if !said.is_empty() {
                *why = format!("{why}; it printed: {}", said.join(" | "));
            }
        }
        instances.push(Readiness { instance: instance.clone(), state });
    }
    Ok(DeployAnswer::Readiness { instances })
}

async fn is_gone(docker: &Docker, name: &str) -> bool {
    matches!(docker.inspect(name).await, Seen::Absent | Seen::Foreign(_))
}

/// How ready an instance is, from what is kept of it and what the engine last showed. Ready is one whose
/// readiness was published: a deploy that goes on earlier takes the old one away from gateways that do not know the new one.
fn state(kept: Option<&InstanceRecord>, seen: Option<&Instance>, routable: bool, now: u64) -> ReadinessState {
    let limit = kept
        .and_then(|kept| kept.service.readiness.as_ref())
        .map_or(START_DEADLINE_SECS, |r| r.deadline.as_secs());
    let late = kept.is_none_or(|kept| now > kept.started_at.saturating_add(limit));
    let Some(seen) = seen else {
        return match kept {
            Some(_) if late => ReadinessState::Failed { why: "its container is gone".into() },
            Some(_) => ReadinessState::Starting { last: None },
            None => ReadinessState::Gone,
        };
    };
    match seen.state {
        ContainerState::Running if kept.is_some_and(|kept| kept.draining) => ReadinessState::Draining,
        ContainerState::Running if seen.ready && !lasts(kept, seen, now) => {
            ReadinessState::Starting { last: Some(format!("it has run for less than {STEADY_AFTER_SECS}s")) }
        }
        ContainerState::Running if seen.ready && routable => ReadinessState::Ready,
        ContainerState::Running if seen.ready => {
            ReadinessState::Starting { last: Some("it is ready; gateways are not updated yet".into()) }
        }
        ContainerState::Exited(code) => ReadinessState::Failed { why: format!("it exited with code {code}") },
        ContainerState::Dead => ReadinessState::Failed { why: "Docker reports it dead".into() },
        _ if late => {
            let last = seen.why_not_ready.as_deref().unwrap_or("it does not run");
            let again = match seen.restarts {
                0 => String::new(),
                times => format!("; Docker restarted it {times} times"),
            };
            ReadinessState::Failed { why: format!("not ready after {limit}s: {last}{again}") }
        }
        _ => ReadinessState::Starting { last: seen.why_not_ready.clone() },
    }
}

/// Whether an instance that nobody asks runs for long enough to be believed: one that ends at once, again and again, runs
/// for a moment each time.
fn lasts(kept: Option<&InstanceRecord>, seen: &Instance, now: u64) -> bool {
    let asked = kept.is_none_or(|kept| kept.service.readiness.is_some());
    // A start in the future: the clock was set back since.
    asked || seen.started_at.is_none_or(|at| at > now || now - at >= STEADY_AFTER_SECS)
}

async fn list(deploys: &Deploys, docker: &Docker, asked: &List) -> Result<DeployAnswer> {
    Ok(DeployAnswer::Listed { instances: instances(deploys, docker, asked.namespace.as_ref()).await? })
}

/// The containers of this machine for `explain`: those that are there, and those that should be.
pub async fn explain(deploys: &Deploys) -> ExplainContainers {
    let unknown = |why| ExplainContainers { rows: Vec::new(), unknown: Some(why) };
    match tokio::time::timeout(EXPLAIN_TIMEOUT, containers(deploys)).await {
        Ok(Ok(rows)) => ExplainContainers { rows, unknown: None },
        Ok(Err(Refused::Failed(failure))) => unknown(failure.message),
        Ok(Err(Refused::TooLate)) | Err(_) => {
            unknown(format!("Docker did not answer within {}s", EXPLAIN_TIMEOUT.as_secs()))
        }
    }
}

async fn containers(deploys: &Deploys) -> Result<Vec<ContainerStatus>> {
    let kept = deploys.local.read().map_err(not_kept)?;
    let docker = Docker::connect(Path::new(SOCKET), &deploys.network.network().id).await.map_err(failed)?;
    let found = instances(deploys, &docker, None).await?;
    let gone = kept.instances.iter().filter(|kept| {
        !found
            .iter()
            .any(|seen| (&seen.namespace, &seen.instance) == (&kept.owner.namespace, &kept.owner.instance))
    });
    let gone = gone.map(|kept| ContainerStatus {
        container: container_name(&kept.owner.namespace, &kept.owner.instance),
        verdict: Verdict::Create.word().to_owned(),
        reasons: vec![GONE.to_owned()],
    });
    let mut rows: Vec<ContainerStatus> = gone.collect();
    rows.extend(found.into_iter().map(|seen| ContainerStatus {
        container: container_name(&seen.namespace, &seen.instance),
        verdict: seen.verdict,
        reasons: seen.reasons,
    }));
    rows.sort_by(|a, b| a.container.cmp(&b.container));
    Ok(rows)
}

async fn instances(
    deploys: &Deploys,
    docker: &Docker,
    namespace: Option<&Namespace>,
) -> Result<Vec<InstanceSeen>> {
    let known = deploys.local.read().map_err(not_kept)?;
    let found = docker.survey().await.map_err(failed)?;
    let (view, subnet) = (deploys.workloads.borrow().clone(), deploys.network.network().subnet());
    let wanted = |owner: &ContainerOwner| namespace.is_none_or(|n| *n == owner.namespace);
    let state = |owner: &ContainerOwner| {
        let key = (owner.namespace.clone(), owner.instance.clone());
        let kept = known.get(&owner.namespace, &owner.instance);
        state(kept, view.instances.get(&key), deploys.local.is_routable(&key), clock::now())
    };
    let mut instances: Vec<InstanceSeen> = Vec::new();
    for live in &found.live {
        let Some(owner) = live.owner().filter(wanted) else { continue };
        let kept = known.get(&owner.namespace, &owner.instance);
        let judged = kept.map(|kept| verdict(&kept.spec(&subnet), live));
        instances.push(InstanceSeen {
            address: live.networks.values().next().copied().flatten(),
            publish: live.publish.clone(),
            runs: Some(live.state.runs()),
            verdict: judged.as_ref().map_or("hold", |judged| judged.word()).to_owned(),
            reasons: judged.map_or_else(
                || vec!["this machine does not remember it".to_owned()],
                |judged| {
                    Some(judged.why())
                        .filter(|why| !why.is_empty())
                        .or_else(|| note(live))
                        .into_iter()
                        .collect()
                },
            ),
            ..row(state(&owner), kept, owner)
        });
    }
    // There, and more is not known: not less than that.
    for silent in found.silent {
        let Some(owner) = silent.owner.filter(wanted) else { continue };
        let kept = known.get(&owner.namespace, &owner.instance);
        instances.push(InstanceSeen { reasons: vec![silent.why], ..row(state(&owner), kept, owner) });
    }
    instances.sort_by(|a, b| {
        (&a.namespace, &a.service, a.slot, &a.instance).cmp(&(&b.namespace, &b.service, b.slot, &b.instance))
    });
    Ok(instances)
}

/// An instance as what is kept of it says.
fn row(state: ReadinessState, kept: Option<&InstanceRecord>, owner: ContainerOwner) -> InstanceSeen {
    InstanceSeen {
        state,
        runs: None,
        address: kept.map(|kept| kept.address),
        publish: kept.map(|kept| published(&kept.service)).unwrap_or_default(),
        verdict: "hold".to_owned(),
        reasons: Vec::new(),
        started_at: kept.map(|kept| kept.started_at),
        instance: owner.instance,
        namespace: owner.namespace,
        service: owner.service,
        slot: owner.slot,
        revision: owner.revision,
        deploy: owner.deploy,
    }
}

fn published(service: &Service) -> BTreeSet<PublishedPort> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(PublishedPort { protocol: port.protocol, host: port.publish?, container: port.port })
    });
    ports.collect()
}

/// What is said of an instance that should be there.
pub const GONE: &str = "its container is gone; the next deploy creates a new one";
/// Who asks why things are as they are does not wait for one that hangs.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds for which a container without a readiness check must run to count as ready in a deploy.
const STEADY_AFTER_SECS: u64 = 3;
/// How long a container without a readiness check may take to run.
const START_DEADLINE_SECS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::agent::instances::tests::kept;
    use ployz_engine::fake::{Fake, instance};

    fn seen(state: ContainerState, ready: bool) -> Instance {
        let kept = kept(r#"{"kind": "tcp", "port": 80, "deadline": "30s"}"#);
        let why_not_ready = (!ready).then(|| "port 80: refused".to_owned());
        let owner = kept.owner;
        Instance {
            id: "c".into(),
            owner,
            address: None,
            state,
            started_at: Some(1_000),
            restarts: 0,
            ready,
            why_not_ready,
        }
    }

    #[test]
    fn readiness_follows_the_container_until_its_deadline() {
        let kept = kept(r#"{"kind": "tcp", "port": 80, "deadline": "30s"}"#);
        let now = |seconds| kept.started_at + seconds;
        let of = |seen: &Instance, at| state(Some(&kept), Some(seen), true, at);
        assert_eq!(of(&seen(ContainerState::Running, true), now(99)), ReadinessState::Ready);
        let refused = Some("port 80: refused".to_owned());
        assert_eq!(
            of(&seen(ContainerState::Running, false), now(30)),
            ReadinessState::Starting { last: refused }
        );
        let late = of(&seen(ContainerState::Running, false), now(31));
        assert_eq!(late, ReadinessState::Failed { why: "not ready after 30s: port 80: refused".into() });
        let ended = of(&seen(ContainerState::Exited(3), false), now(1));
        assert_eq!(ended, ReadinessState::Failed { why: "it exited with code 3".into() });
        // Docker is about to start it again.
        assert!(matches!(
            of(&seen(ContainerState::Changing, false), now(1)),
            ReadinessState::Starting { .. }
        ));
    }

    #[test]
    fn without_a_check_it_must_last_a_while() {
        let kept = kept("null");
        let now = |seconds| kept.started_at + seconds;
        let mut seen = seen(ContainerState::Running, true);
        let of = |seen: &Instance, at| state(Some(&kept), Some(seen), true, at);
        assert!(matches!(of(&seen, now(2)), ReadinessState::Starting { .. }), "it may end at once");
        assert_eq!(of(&seen, now(3)), ReadinessState::Ready);
        assert_eq!(of(&seen, 0), ReadinessState::Ready, "the clock was set back");
        // Docker starts it again and again.
        seen.started_at = Some(now(60));
        seen.restarts = 7;
        assert!(matches!(of(&seen, now(60)), ReadinessState::Starting { .. }));
        seen.state = ContainerState::Changing;
        let why = "not ready after 60s: it does not run; Docker restarted it 7 times";
        assert_eq!(of(&seen, now(61)), ReadinessState::Failed { why: why.into() });
    }

    #[tokio::test]
    async fn removed_is_only_what_the_engine_does_not_have() {
        let fake = Fake::start("1.45");
        let owner = kept("null").owner;
        fake.put(instance("c1", &owner));
        let (docker, name) = (fake.connect().await, container_name(&owner.namespace, &owner.instance));
        assert!(!is_gone(&docker, &name).await, "the view is behind");
        fake.state.lock().containers.clear();
        assert!(is_gone(&docker, &name).await);
        fake.state.lock().hangs = true;
        tokio::time::pause();
        assert!(!is_gone(&docker, &name).await, "unknown is not absent");
    }

    #[test]
    fn what_nobody_knows_is_gone_and_what_drains_is_not_ready() {
        let mut kept = kept(r#"{"kind": "tcp", "port": 80}"#);
        assert_eq!(state(None, None, false, 0), ReadinessState::Gone);
        assert_eq!(state(Some(&kept), None, false, kept.started_at), ReadinessState::Starting { last: None });
        kept.draining = true;
        let seen = seen(ContainerState::Running, true);
        assert_eq!(state(Some(&kept), Some(&seen), true, kept.started_at), ReadinessState::Draining);
    }

    #[test]
    fn ready_is_what_was_published() {
        let kept = kept(r#"{"kind": "tcp", "port": 80, "deadline": "30s"}"#);
        let seen = seen(ContainerState::Running, true);
        let judged = |routable| state(Some(&kept), Some(&seen), routable, kept.started_at);
        assert!(matches!(judged(false), ReadinessState::Starting { .. }), "{:?}", judged(false));
        assert_eq!(judged(true), ReadinessState::Ready);
    }
}
