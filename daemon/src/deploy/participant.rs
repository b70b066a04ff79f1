//! What this machine does when a coordinator asks. Every command can be sent again; nothing is changed after its
//! `not_after`, and what was to be removed never starts again.

use crate::clock;
use crate::deploy::container::{self, failed, runs};
use crate::deploy::local::Kept;
use crate::deploy::logs;
use crate::membership::store::Store;
use crate::mesh::Mesh;
use crate::workload::docker::{Docker, SOCKET};
use crate::workload::watch::{Engine, Instance};
use async_nats::Subject;
use bytes::Bytes;
use futures_util::future::join_all;
use ployz_core::adopt::Seen;
use ployz_core::adopt::container::container as verdict;
use ployz_core::deploy::{address, image};
use ployz_core::id::{InstanceId, Namespace};
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::container_name;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{
    DeployAnswer, DeployCommand, DeployFailure, Drain, ImageSeen, InstanceSeen, Instances, List, Probe,
    Probed, Readiness, ReadinessState, Start,
};
use ployz_core::wire::v1::manifest::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

type Result<T> = std::result::Result<T, DeployFailure>;

/// Carries a command out beside whatever else is asked, and answers.
pub fn take(mesh: &Arc<Mesh>, store: &Store, reply: Subject, payload: Bytes) {
    let Ok(permit) = mesh.deploys.asked.clone().try_acquire_owned() else {
        // Not answered: whoever asks finds out by its own deadline and asks again.
        return tracing::warn!("too many commands at a time: one was not taken");
    };
    let (mesh, client) = (mesh.clone(), store.client().clone());
    tokio::spawn(async move {
        let _permit = permit;
        let answer = match serde_json::from_slice::<DeployCommand>(&payload) {
            Ok(command) => {
                let own = mesh.network().machine.id;
                answer(&mesh, command).await.unwrap_or_else(|failure| DeployAnswer::Failed(failure.on(&own)))
            }
            Err(error) => {
                let what = format!("the command is not understood: {error}");
                DeployAnswer::Failed(DeployFailure::new(ErrorCode::InvalidRequest, what))
            }
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let _ = client.publish(reply, Bytes::from(text)).await;
        let _ = client.flush().await;
    });
}

async fn answer(mesh: &Arc<Mesh>, command: DeployCommand) -> Result<DeployAnswer> {
    let network = mesh.network().id;
    if *command.network() != network {
        return Err(DeployFailure::new(ErrorCode::InvalidRequest, "this machine is in another network"));
    }
    let docker = Docker::connect(Path::new(SOCKET), &network).await.map_err(failed)?;
    match command {
        DeployCommand::Probe(asked) => probe(&docker, mesh, &asked).await.map(DeployAnswer::Probed),
        DeployCommand::Start(asked) => start(mesh, &docker, &asked).await,
        DeployCommand::Readiness(asked) => readiness(mesh, &docker, &asked).await,
        DeployCommand::Stop(asked) => stop(mesh, &docker, &asked).await,
        DeployCommand::Restore(asked) => restore(mesh, &docker, &asked).await,
        DeployCommand::Drain(asked) => drain(mesh, &docker, &asked).await,
        DeployCommand::Remove(asked) => remove(mesh, &docker, &asked).await,
        DeployCommand::List(asked) => list(mesh, &docker, &asked).await,
        DeployCommand::Logs(asked) => logs::read(&docker, &asked).await,
    }
}

/// A command of a coordinator whose lock is over may be one that another has undone since.
fn in_time(not_after: u64) -> Result<()> {
    if clock::now() <= not_after {
        return Ok(());
    }
    Err(DeployFailure::new(ErrorCode::DeployInterrupted, TOO_LATE))
}

async fn probe(docker: &Docker, mesh: &Mesh, asked: &Probe) -> Result<Probed> {
    let mut images = BTreeMap::new();
    for reference in &asked.images {
        let found = docker.image_parts(&reference.to_string()).await.map_err(failed)?;
        if let Some((id, parts)) = found {
            images.insert(reference.clone(), ImageSeen { id, content: image::content(&parts) });
        }
    }
    let found = docker.list().await.map_err(failed)?;
    let subnet = mesh.network().subnet();
    let free = address::capacity(&subnet).saturating_sub(container::taken(&found).len());
    Ok(Probed {
        images,
        taken: taken(asked, &found),
        free_addresses: u32::try_from(free).unwrap_or(u32::MAX),
        free_disk: free_disk(),
        instances: u32::try_from(found.iter().filter(|live| runs(live.state)).count()).unwrap_or(u32::MAX),
    })
}

/// Ports asked for that somebody else holds: a container of ours that stays, or anything that listens.
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

async fn start(mesh: &Mesh, docker: &Docker, asked: &Start) -> Result<DeployAnswer> {
    let mut instances = Vec::new();
    for candidate in &asked.candidates {
        in_time(asked.not_after)?;
        let started = container::start(mesh, docker, asked, candidate).await;
        instances.push(started.map_err(|failure| failure.of(&candidate.service))?);
    }
    Ok(DeployAnswer::Started { instances })
}

async fn readiness(mesh: &Mesh, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    let view = mesh.workloads.borrow().clone();
    if !matches!(view.engine, Engine::Live(_)) {
        return Err(DeployFailure::new(ErrorCode::DockerUnavailable, "its containers are not known yet"));
    }
    let known = mesh.deploys.read();
    let mut instances = Vec::new();
    for instance in &asked.instances {
        let key = (asked.namespace.clone(), instance.clone());
        let kept = known.get(&asked.namespace, instance);
        let mut state = state(kept, view.instances.get(&key), clock::now());
        if let ReadinessState::Failed { why } = &mut state {
            let name = container_name(&asked.namespace, instance);
            let said = logs::last(docker, &name).await;
            if !said.is_empty() {
                *why = format!("{why}; it printed: {}", said.join(" | "));
            }
        }
        instances.push(Readiness { instance: instance.clone(), state });
    }
    Ok(DeployAnswer::Readiness { instances })
}

/// How ready an instance is, from what is kept of it and what the engine last showed.
fn state(kept: Option<&Kept>, seen: Option<&Instance>, now: u64) -> ReadinessState {
    let limit =
        kept.and_then(|kept| kept.service.readiness.as_ref()).map_or(STARTS, |r| r.deadline.as_secs());
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
        ContainerState::Running if seen.ready => ReadinessState::Ready,
        ContainerState::Exited(code) => {
            ReadinessState::Failed { why: format!("it ended with exit code {code}") }
        }
        ContainerState::Dead => ReadinessState::Failed { why: "Docker calls it dead".into() },
        _ if late => {
            let last = seen.why_not_ready.as_deref().unwrap_or("it does not run");
            ReadinessState::Failed { why: format!("not ready after {limit}s: {last}") }
        }
        _ => ReadinessState::Starting { last: seen.why_not_ready.clone() },
    }
}

async fn stop(mesh: &Mesh, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    in_time(asked.not_after)?;
    each(asked, |instance| async move {
        let name = container_name(&asked.namespace, &instance);
        match docker.inspect(&name).await {
            Seen::Present(live) => {
                docker.stop(&live.id, grace(mesh, &asked.namespace, &instance)).await.map_err(failed)
            }
            Seen::Absent => Ok(()),
            Seen::Foreign(why) | Seen::Unknown(why) => Err(unknown(&name, why)),
        }
    })
    .await
}

async fn restore(mesh: &Mesh, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    in_time(asked.not_after)?;
    each(asked, |instance| async move {
        if mesh.deploys.read().is_removed(&asked.namespace, &instance) {
            let what = format!("{instance} was removed and does not start again");
            return Err(DeployFailure::new(ErrorCode::DeployInterrupted, what));
        }
        let name = container_name(&asked.namespace, &instance);
        match docker.inspect(&name).await {
            Seen::Present(live) => docker.start(&live.id).await.map_err(failed),
            // Nothing that this deploy did: it was gone before.
            Seen::Absent => Ok(()),
            Seen::Foreign(why) | Seen::Unknown(why) => Err(unknown(&name, why)),
        }
    })
    .await
}

async fn drain(mesh: &Mesh, docker: &Docker, asked: &Drain) -> Result<DeployAnswer> {
    in_time(asked.which.not_after)?;
    let which = &asked.which;
    let here = |kept: &Kept| {
        kept.owner.namespace == which.namespace && which.instances.contains(&kept.owner.instance)
    };
    let marked = mesh.deploys.change(|file| {
        file.instances.iter_mut().filter(|kept| here(kept)).for_each(|kept| kept.draining = true);
    });
    marked.map_err(|error| DeployFailure::new(ErrorCode::IoError, ployz_netns::chain(&error)))?;
    let found = docker.list().await.map_err(failed)?;
    let busy = found.iter().filter(|live| runs(live.state)).filter_map(ContainerLive::owner).any(|owner| {
        // One that nobody can reach has no connections to end.
        let known = mesh.deploys.read();
        let reached =
            known.get(&owner.namespace, &owner.instance).is_none_or(|kept| !kept.service.ports.is_empty());
        owner.namespace == which.namespace && which.instances.contains(&owner.instance) && reached
    });
    if busy {
        tokio::time::sleep(asked.at_most.duration().min(LONGEST_DRAIN)).await;
    }
    Ok(DeployAnswer::Done)
}

async fn remove(mesh: &Mesh, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    in_time(asked.not_after)?;
    // First of all, so that a start which is on its way does not bring it back.
    let buried = mesh.deploys.change(|file| {
        asked.instances.iter().for_each(|instance| file.bury(&asked.namespace, instance));
    });
    buried.map_err(|error| DeployFailure::new(ErrorCode::IoError, ployz_netns::chain(&error)))?;
    each(asked, |instance| async move {
        let name = container_name(&asked.namespace, &instance);
        match docker.inspect(&name).await {
            Seen::Present(live) => {
                // One that does not stop is killed by the removal.
                let _ = docker.stop(&live.id, grace(mesh, &asked.namespace, &instance)).await;
                docker.remove(&live.id).await.map_err(failed)?;
            }
            Seen::Absent => {}
            // A container of somebody else under that name is not the instance.
            Seen::Foreign(_) => {}
            Seen::Unknown(why) => return Err(unknown(&name, why)),
        }
        let forgotten = mesh.deploys.change(|file| file.forget(&asked.namespace, &instance));
        forgotten.map_err(|error| DeployFailure::new(ErrorCode::IoError, ployz_netns::chain(&error)))
    })
    .await
}

async fn list(mesh: &Mesh, docker: &Docker, asked: &List) -> Result<DeployAnswer> {
    let found = docker.list().await.map_err(failed)?;
    let (view, known) = (mesh.workloads.borrow().clone(), mesh.deploys.read());
    let subnet = mesh.network().subnet();
    let mut instances: Vec<InstanceSeen> = found
        .iter()
        .filter_map(|live| Some((live, live.owner()?)))
        .filter(|(_, owner)| asked.namespace.as_ref().is_none_or(|wanted| *wanted == owner.namespace))
        .map(|(live, owner)| {
            let kept = known.get(&owner.namespace, &owner.instance);
            let seen = view.instances.get(&(owner.namespace.clone(), owner.instance.clone()));
            let judged = kept.map(|kept| verdict(&kept.spec(&subnet), live));
            InstanceSeen {
                state: state(kept, seen, clock::now()),
                address: live.networks.values().next().copied().flatten(),
                publish: live.publish.clone(),
                verdict: judged.as_ref().map_or("hold", |judged| judged.word()).to_owned(),
                reasons: judged.map_or_else(
                    || vec!["this machine does not remember it".to_owned()],
                    |judged| Some(judged.why()).filter(|why| !why.is_empty()).into_iter().collect(),
                ),
                started_at: kept.map(|kept| kept.started_at),
                instance: owner.instance,
                namespace: owner.namespace,
                service: owner.service,
                slot: owner.slot,
                revision: owner.revision,
                deploy: owner.deploy,
            }
        })
        .collect();
    instances.sort_by(|a, b| {
        (&a.namespace, &a.service, a.slot, &a.instance).cmp(&(&b.namespace, &b.service, b.slot, &b.instance))
    });
    Ok(DeployAnswer::Listed { instances })
}

/// The same for each of them at once; the first failure is the answer, when all have been tried.
async fn each<W: Future<Output = Result<()>>>(
    asked: &Instances,
    work: impl Fn(InstanceId) -> W,
) -> Result<DeployAnswer> {
    let done = join_all(asked.instances.iter().cloned().map(work)).await;
    done.into_iter().collect::<Result<Vec<()>>>().map(|_| DeployAnswer::Done)
}

fn grace(mesh: &Mesh, namespace: &Namespace, instance: &InstanceId) -> Duration {
    let known = mesh.deploys.read();
    known.get(namespace, instance).map_or(GRACE, |kept| kept.service.stop_grace_period.duration())
}

fn unknown(name: &str, why: String) -> DeployFailure {
    DeployFailure::new(ErrorCode::DockerUnavailable, format!("container {name} cannot be judged: {why}"))
}

/// What a refusal by `not_after` says.
pub const TOO_LATE: &str = "the command came after the end of its sender's lock";
/// How long a container without a readiness check may take to run.
const STARTS: u64 = 60;
const GRACE: Duration = Duration::from_secs(10);
const LONGEST_DRAIN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::local::tests::kept;

    fn seen(state: ContainerState, ready: bool) -> Instance {
        let kept = kept(r#"{"kind": "tcp", "port": 80, "deadline": "30s"}"#);
        let why_not_ready = (!ready).then(|| "port 80: refused".to_owned());
        Instance { id: "c".into(), owner: kept.owner, address: None, state, ready, why_not_ready }
    }

    #[test]
    fn readiness_follows_the_container_until_its_deadline() {
        let kept = kept(r#"{"kind": "tcp", "port": 80, "deadline": "30s"}"#);
        let now = |seconds| kept.started_at + seconds;
        let of = |seen: &Instance, at| state(Some(&kept), Some(seen), at);
        assert_eq!(of(&seen(ContainerState::Running, true), now(99)), ReadinessState::Ready);
        let refused = Some("port 80: refused".to_owned());
        assert_eq!(
            of(&seen(ContainerState::Running, false), now(30)),
            ReadinessState::Starting { last: refused }
        );
        let late = of(&seen(ContainerState::Running, false), now(31));
        assert_eq!(late, ReadinessState::Failed { why: "not ready after 30s: port 80: refused".into() });
        let ended = of(&seen(ContainerState::Exited(3), false), now(1));
        assert_eq!(ended, ReadinessState::Failed { why: "it ended with exit code 3".into() });
        // Docker is about to start it again.
        assert!(matches!(
            of(&seen(ContainerState::Changing, false), now(1)),
            ReadinessState::Starting { .. }
        ));
    }

    #[test]
    fn what_nobody_knows_is_gone_and_what_drains_is_not_ready() {
        let mut kept = kept(r#"{"kind": "tcp", "port": 80}"#);
        assert_eq!(state(None, None, 0), ReadinessState::Gone);
        assert_eq!(state(Some(&kept), None, kept.started_at), ReadinessState::Starting { last: None });
        kept.draining = true;
        let seen = seen(ContainerState::Running, true);
        assert_eq!(state(Some(&kept), Some(&seen), kept.started_at), ReadinessState::Draining);
    }

    #[test]
    fn nothing_is_changed_after_the_end_of_the_senders_lock() {
        assert!(in_time(clock::now() + 5).is_ok());
        assert_eq!(in_time(clock::now() - 5).unwrap_err().message, TOO_LATE);
    }
}
