//! Making and starting one candidate. Done again for the same instance it finds what it made the first time.

use crate::clock;
use crate::deploy::local::{Kept, LocalError};
use crate::mesh::Mesh;
use crate::workload::docker::Docker;
use crate::workload::error::DockerError;
use ployz_core::address::NodeSubnet;
use ployz_core::adopt::Seen;
use ployz_core::deploy::{address, image};
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::{BRIDGE, ContainerOwner, container_name};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{Candidate, DeployFailure, Start, Started};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

type Result<T> = std::result::Result<T, DeployFailure>;

/// Starts a candidate; whoever calls has its turn.
pub(super) async fn start(
    mesh: &Mesh,
    docker: &Docker,
    start: &Start,
    candidate: &Candidate,
) -> Result<Started> {
    let (namespace, instance) = (&start.namespace, &candidate.instance);
    if mesh.deploys.read().map_err(not_kept)?.is_removed(namespace, instance) {
        let what = format!("{instance} was removed and does not start again");
        return Err(DeployFailure::new(ErrorCode::DeployInterrupted, what));
    }
    let name = container_name(namespace, instance);
    let found = match docker.inspect(&name).await {
        Seen::Present(live) => Some(live),
        Seen::Absent => None,
        Seen::Foreign(why) => {
            let what = format!("the name {name} is taken by a container that is not ours: {why}");
            return Err(DeployFailure::new(ErrorCode::DeployFailed, what));
        }
        Seen::Unknown(why) => return Err(DeployFailure::new(ErrorCode::DockerUnavailable, why)),
    };
    let (id, at) = match found {
        Some(live) => made_before(live, &name)?,
        None => make(mesh, docker, start, candidate).await?,
    };
    docker.start(&id).await.map_err(failed)?;
    // Told to go while it was being made: it must not stay.
    if mesh.deploys.read().map_err(not_kept)?.is_removed(namespace, instance) {
        let _ = docker.remove(&id).await;
        return Err(DeployFailure::new(
            ErrorCode::DeployInterrupted,
            format!("{instance} was removed meanwhile"),
        ));
    }
    Ok(Started { instance: instance.clone(), address: at, container: id })
}

fn made_before(live: ContainerLive, name: &str) -> Result<(String, Ipv4Addr)> {
    match live.networks.get(BRIDGE).copied().flatten() {
        Some(address) => Ok((live.id, address)),
        None => {
            let what = format!("container {name} is there without an address of this machine's subnet");
            Err(DeployFailure::new(ErrorCode::DeployFailed, what))
        }
    }
}

async fn make(
    mesh: &Mesh,
    docker: &Docker,
    start: &Start,
    candidate: &Candidate,
) -> Result<(String, Ipv4Addr)> {
    let unknown =
        || DeployFailure::new(ErrorCode::InvalidRequest, "a candidate of a service that was not sent");
    let service = start.services.get(&candidate.service).ok_or_else(unknown)?;
    let missing = |what: String| DeployFailure::new(ErrorCode::ImageMissing, what).of(&candidate.service);
    let found = docker.image_parts(&service.image.to_string()).await.map_err(failed)?;
    let Some((image_id, parts)) = found else {
        return Err(missing(format!("the image {} is not there", service.image)));
    };
    if candidate.content.as_ref().is_some_and(|wanted| *wanted != image::content(&parts)) {
        return Err(missing(format!("the image {} is another one by now", service.image)));
    }
    let file = mesh.network();
    let _alone = mesh.deploys.making.lock().await;
    let address = free_address(docker, &file.subnet()).await?;
    let kept = Kept {
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
        image_id,
        started_at: clock::now(),
        stopped_for: None,
        draining: false,
        ready: false,
    };
    let spec = kept.spec(&file.subnet());
    // Known before it runs: otherwise it would be ready for a moment because nobody knew how to ask.
    mesh.deploys.change(|file| file.keep(kept)).map_err(not_kept)?;
    let id = docker.create(&spec).await.map_err(failed)?;
    Ok((id, address))
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

/// Whether a container uses its processor.
pub(super) fn runs(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Changing)
}

/// What deploys made here was not read or written.
pub(super) fn not_kept(error: LocalError) -> DeployFailure {
    DeployFailure::new(ErrorCode::IoError, ployz_netns::chain(&error))
}

/// What went wrong with Docker, by what an operator can do about it.
pub(super) fn failed(error: DockerError) -> DeployFailure {
    let words = ployz_netns::chain(&error);
    let code = match &error {
        DockerError::Unavailable { .. } | DockerError::Late { .. } => ErrorCode::DockerUnavailable,
        _ => code(&words),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_says_becomes_a_code() {
        let port = "driver failed programming external connectivity: Bind for 0.0.0.0:80 failed: port is already allocated";
        assert_eq!(code(port), ErrorCode::PortTaken);
        assert_eq!(code("write /var/lib/docker: No space left on device"), ErrorCode::DiskFull);
        assert_eq!(code("OCI runtime create failed"), ErrorCode::DeployFailed);
    }
}
