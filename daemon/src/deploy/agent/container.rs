//! Making and starting one candidate. Done again for the same instance it finds what it made the first time.

use crate::deploy::agent::instances::LocalError;
use crate::deploy::context::Deploys;
use crate::failure::io_code;
use crate::state::instances::InstanceRecord;
use ployz_core::address::NodeSubnet;
use ployz_core::adopt::Seen;
use ployz_core::deploy::address;
use ployz_core::live::ContainerLive;
use ployz_core::spec::container::{BRIDGE, ContainerOwner, ContainerSpec, container_name};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{Candidate, DeployFailure, Start, Started};
use ployz_engine::docker::Docker;
use ployz_engine::error::DockerError;
use ployz_host::clock;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

type Result<T> = std::result::Result<T, DeployFailure>;

/// Starts a candidate; the caller holds its turn.
pub(super) async fn start(
    deploys: &Deploys,
    docker: &Docker,
    start: &Start,
    candidate: &Candidate,
) -> Result<Started> {
    let (namespace, instance) = (&start.namespace, &candidate.instance);
    if deploys.local.read().map_err(not_kept)?.is_removed(namespace, instance) {
        let what = format!("{instance} was removed and does not start again");
        return Err(DeployFailure::new(ErrorCode::DeployInterrupted, what));
    }
    let name = container_name(namespace, instance);
    let (id, at) = pruned_again(|| {
        Box::pin(async {
            crate::deploy::agent::bridge::stand(&deploys.network, docker).await.map_err(Unstarted::of)?;
            let (id, at) = match look(docker, &name).await? {
                Some(live) => made_before(live, &name)?,
                None => make(deploys, docker, start, candidate).await?,
            };
            docker.start(&id).await.map_err(Unstarted::of)?;
            Ok((id, at))
        })
    })
    .await?;
    // Told to go while it was being made: it must not stay.
    if deploys.local.read().map_err(not_kept)?.is_removed(namespace, instance) {
        let _ = docker.remove(&id).await;
        return Err(DeployFailure::new(
            ErrorCode::DeployInterrupted,
            format!("{instance} was removed meanwhile"),
        ));
    }
    Ok(Started { instance: instance.clone(), address: at, container: id })
}

/// Why a container does not run.
enum Unstarted {
    /// What was there a moment ago is gone or going: the network, or the container before its start. `docker system prune`
    /// takes both.
    Gone(DockerError),
    /// This.
    Failed(DeployFailure),
}

impl Unstarted {
    fn of(error: DockerError) -> Self {
        match error.status() {
            // 409 to a start: the container is marked for removal.
            Some(MISSING | CONFLICT) => Self::Gone(error),
            _ => Self::Failed(failed(error)),
        }
    }
}

impl From<DeployFailure> for Unstarted {
    fn from(failure: DeployFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Does it again when something is pruned from under it, a few times.
async fn pruned_again<T, W: Future<Output = std::result::Result<T, Unstarted>>>(
    work: impl Fn() -> W,
) -> Result<T> {
    let mut left = PRUNE_RETRIES;
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            Err(Unstarted::Failed(failure)) => return Err(failure),
            Err(Unstarted::Gone(error)) if left == 0 => return Err(failed(error)),
            Err(Unstarted::Gone(error)) => {
                tracing::info!(
                    error = %ployz_core::text::chain(&error),
                    "an image or network is gone, retrying"
                )
            }
        }
        left -= 1;
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn look(docker: &Docker, name: &str) -> Result<Option<ContainerLive>> {
    match docker.inspect(name).await {
        Seen::Present(live) => Ok(Some(live)),
        Seen::Absent => Ok(None),
        Seen::Foreign(why) => {
            let what = format!("the name {name} is taken by a container that is not ours: {why}");
            Err(DeployFailure::new(ErrorCode::DeployFailed, what))
        }
        Seen::Unknown(why) => Err(DeployFailure::new(ErrorCode::DockerUnavailable, why)),
    }
}

fn made_before(live: ContainerLive, name: &str) -> Result<(String, Ipv4Addr)> {
    match live.networks.get(BRIDGE).copied().flatten() {
        Some(address) => Ok((live.id, address)),
        None => {
            let what = format!("container {name} has no address in this machine's subnet");
            Err(DeployFailure::new(ErrorCode::DeployFailed, what))
        }
    }
}

async fn make(
    deploys: &Deploys,
    docker: &Docker,
    start: &Start,
    candidate: &Candidate,
) -> Result<(String, Ipv4Addr)> {
    let unknown = || {
        DeployFailure::new(
            ErrorCode::InvalidRequest,
            "a candidate names a service that is not in the command",
        )
    };
    let service = start.services.get(&candidate.service).ok_or_else(unknown)?;
    let missing = |what: String| DeployFailure::new(ErrorCode::ImageMissing, what).of(&candidate.service);
    let Some(held) = docker.held(&service.image).await.map_err(failed)? else {
        return Err(missing(format!("the image {} is missing", service.image)));
    };
    if candidate.content.as_ref().is_some_and(|wanted| *wanted != held.facts.content) {
        return Err(missing(format!("the image {} has changed meanwhile", service.image)));
    }
    let file = deploys.network.network();
    let _alone = deploys.local.making.lock().await;
    let address = free_address(docker, &file.subnet()).await?;
    let kept = InstanceRecord {
        owner: ContainerOwner {
            network: file.id.clone(),
            namespace: start.namespace.clone(),
            service: candidate.service.clone(),
            instance: candidate.instance.clone(),
            slot: candidate.slot,
            machine: file.machine.id.clone(),
            deploy: start.deploy.clone(),
            revision: candidate.revision.clone(),
        },
        service: service.clone(),
        address,
        image_id: held.facts.id.to_string(),
        started_at: clock::now(),
        stopped_for: None,
        draining: false,
        ready: false,
    };
    let spec = kept.spec(&file.subnet());
    // Known before it runs: otherwise it would be ready for a moment because nobody knew how to ask.
    deploys.local.change(|file| file.keep(kept.clone())).map_err(not_kept)?;
    let made = create(docker, &spec).await?;
    if made.1 != address {
        deploys
            .local
            .change(|file| file.keep(InstanceRecord { address: made.1, ..kept }))
            .map_err(not_kept)?;
    }
    Ok(made)
}

/// Makes the container. An earlier daemon may have asked for it and died: Docker takes the name before there is anything to
/// look at, so a taken name is looked up, or tried again, until one of the two works.
async fn create(docker: &Docker, spec: &ContainerSpec) -> Result<(String, Ipv4Addr)> {
    let until = Instant::now() + CREATE_TIMEOUT;
    loop {
        let error = match docker.create(spec).await {
            Ok(id) => return Ok((id, spec.address)),
            Err(error) => error,
        };
        if error.status() != Some(CONFLICT) || Instant::now() > until {
            return Err(failed(error));
        }
        if let Some(live) = look(docker, &spec.name()).await? {
            return made_before(live, &spec.name());
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn free_address(docker: &Docker, subnet: &NodeSubnet) -> Result<Ipv4Addr> {
    let taken = taken(&docker.list().await.map_err(failed)?);
    address::first_free(subnet, &taken)
        .map_err(|error| DeployFailure::new(ErrorCode::NoEligibleMachine, error.to_string()))
}

/// Addresses that containers have, stopped ones too.
pub(super) fn taken(found: &[ContainerLive]) -> BTreeSet<Ipv4Addr> {
    found.iter().filter_map(|live| live.networks.get(BRIDGE).copied().flatten()).collect()
}

/// What deploys made here was not read or written.
pub(super) fn not_kept(error: LocalError) -> DeployFailure {
    DeployFailure::new(io_code(&error), ployz_core::text::chain(&error))
}

/// What went wrong with Docker, by what an operator can do about it.
pub(super) fn failed(error: DockerError) -> DeployFailure {
    let words = ployz_core::text::chain(&error);
    let code = if error.is_away() { ErrorCode::DockerUnavailable } else { code(&words) };
    DeployFailure::new(code, words)
}

/// Docker has no codes of its own for these.
fn code(words: &str) -> ErrorCode {
    let says = |part: &str| words.to_ascii_lowercase().contains(part);
    if says("no space left") {
        ErrorCode::DiskFull
    } else if says("port is already allocated") || says("failed to bind") || says("address already in use") {
        ErrorCode::PortTaken
    } else {
        ErrorCode::DeployFailed
    }
}

/// How long Docker may need for a container that another request asked for.
const CREATE_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often a prune may come in between.
const PRUNE_RETRIES: u32 = 5;
/// What Docker answers to a name that is taken, and to what is being removed.
const CONFLICT: u16 = 409;
/// And to what is not there.
const MISSING: u16 = 404;

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_engine::fake::{self, Fake};

    #[test]
    fn what_docker_says_becomes_a_code() {
        let port = "driver failed programming external connectivity: Bind for 0.0.0.0:80 failed: port is already allocated";
        assert_eq!(code(port), ErrorCode::PortTaken);
        assert_eq!(code("write /var/lib/docker: No space left on device"), ErrorCode::DiskFull);
        assert_eq!(code("OCI runtime create failed"), ErrorCode::DeployFailed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pruned_before_its_start_is_made_once_more_but_not_for_ever() {
        let tries = std::cell::Cell::new(0);
        let pruned_until = |good: u32| {
            tries.set(0);
            let tries = &tries;
            pruned_again(move || async move {
                tries.set(tries.get() + 1);
                if tries.get() >= good {
                    return Ok("runs");
                }
                let (subject, detail) = ("c1".to_owned(), "network ployz0 not found".to_owned());
                Err(Unstarted::of(DockerError::Missing { operation: "start container", subject, detail }))
            })
        };
        assert_eq!(pruned_until(3).await, Ok("runs"));
        let failure = pruned_until(u32::MAX).await.unwrap_err();
        assert_eq!((failure.code.as_str(), tries.get()), ("DEPLOY_FAILED", PRUNE_RETRIES + 1));
        let refused = pruned_again(|| async {
            tries.set(0);
            Err::<(), _>(DeployFailure::new(ErrorCode::ImageMissing, "no image").into())
        });
        assert_eq!((refused.await.unwrap_err().code.as_str(), tries.get()), ("IMAGE_MISSING", 0));
    }

    #[tokio::test]
    async fn an_engine_that_goes_away_is_named_whatever_was_being_done() {
        let fake = Fake::start("1.45");
        let (docker, spec) = (fake.connect().await, fake::spec());
        let id = docker.create(&spec).await.unwrap();
        drop(fake);
        for error in [docker.start(&id).await.unwrap_err(), docker.create(&spec).await.unwrap_err()] {
            assert_eq!(failed(error).code, ErrorCode::DockerUnavailable.as_str());
        }
    }

    #[tokio::test]
    async fn a_container_that_docker_is_still_making_is_waited_for() {
        let fake = Fake::start("1.45");
        let (docker, spec) = (fake.connect().await, fake::spec());
        fake.state.lock().being_made.insert(spec.name());
        let finishes = async {
            while fake.asked("/containers/create").len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // As an earlier daemon asked for it: with another address.
            let mut earlier = fake::container("earlier", &spec.name());
            let networks = &mut earlier["NetworkSettings"]["Networks"];
            *networks = serde_json::json!({BRIDGE: {"IPAMConfig": {"IPv4Address": "10.101.0.77"}}});
            fake.put(earlier);
        };
        let (made, ()) = tokio::join!(create(&docker, &spec), finishes);
        assert_eq!(made.unwrap(), ("earlier".into(), "10.101.0.77".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_becomes_free_is_taken() {
        let fake = Fake::start("1.45");
        let (docker, spec) = (fake.connect().await, fake::spec());
        fake.state.lock().being_made.insert(spec.name());
        let fails = async {
            while fake.asked("/containers/create").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            fake.state.lock().being_made.clear();
        };
        let (made, ()) = tokio::join!(create(&docker, &spec), fails);
        assert_eq!(made.unwrap().1, spec.address);
        assert_eq!(fake.state.lock().containers.len(), 1);
    }
}
