//! Workloads of this machine: the hands on Docker Engine. Nothing here decides what should run; that is `deploy`'s.
//!
//! Docker restarts containers, ployzd never does. A container without our labels is not listed, counted or touched, and
//! no engine at all is a value, not an error.

// Deploys are the callers of half of this and are being written.
#![allow(dead_code)]

mod body;
pub mod docker;
mod engine;
pub mod error;
mod http_check;
pub mod images;
pub mod network;
mod read;
pub mod readiness;
pub mod registry;
mod slot;
pub mod watch;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod fake_images;
#[cfg(test)]
pub(crate) mod hostile;
#[cfg(test)]
mod tests;

use crate::mesh::Mesh;
use docker::{Docker, SOCKET};
use error::DockerError;
use network::{Ensured, NetworkSpec};
use ployz_core::id::NetworkId;
use ployz_core::live::ContainerState;
use ployz_core::spec::container::BRIDGE;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Keeps the Docker network and the view of the containers for as long as a network runs here.
pub async fn run(mesh: Arc<Mesh>) {
    if !bridge_stands(&mesh).await {
        return;
    }
    let checks = mesh.readiness.subscribe();
    watch::run(SOCKET.into(), wanted(&mesh), checks, mesh.workloads.clone(), mesh.cancel.clone()).await;
}

/// Has the Docker network made if it is not there; before a container is attached this is asked for. What is in the way is
/// an error of its own.
pub async fn stand(mesh: &Mesh, docker: &Docker) -> Result<(), DockerError> {
    let held = |detail: String| DockerError::Odd { operation: "use network", subject: BRIDGE.into(), detail };
    if !matches!(tokio::time::timeout(BRIDGE_STANDS, bridge_stands(mesh)).await, Ok(true)) {
        return Err(held("the bridge of that name does not stand; `ployzctl explain link` says why".into()));
    }
    match network::ensure(docker, &wanted(mesh)).await? {
        Ensured::Held(why) => Err(held(why)),
        Ensured::Unasked | Ensured::Ready(_) => Ok(()),
    }
}

/// Waits for the bridge: without it Docker would make one of its own. `false` = the network is being left.
async fn bridge_stands(mesh: &Mesh) -> bool {
    let mut outcomes = mesh.outcome.subscribe();
    let stands = outcomes.wait_for(|outcome| {
        let link = outcome.as_ref().and_then(|outcome| outcome.live.link.present());
        link.is_some_and(|link| link.bridge.as_ref().is_some_and(|bridge| bridge.alias.is_some()))
    });
    stands.await.is_ok()
}

fn wanted(mesh: &Mesh) -> NetworkSpec {
    let file = mesh.network();
    NetworkSpec { network: file.id.clone(), subnet: file.subnet(), mtu: mesh.spec().link.mtu }
}

/// How many containers of a network run on this machine; `None` when Docker does not say.
pub async fn running(network: &NetworkId) -> Option<usize> {
    let docker = Docker::connect(Path::new(SOCKET), network).await.ok()?;
    let runs =
        |state| !matches!(state, ContainerState::Created | ContainerState::Exited(_) | ContainerState::Dead);
    Some(docker.list().await.ok()?.iter().filter(|live| runs(live.state)).count())
}

/// Takes the Docker network away when nothing uses it, not even a stopped container; else it stays for the next start.
pub async fn leave(network: &NetworkId) -> Result<(), String> {
    let Ok(docker) = Docker::connect(Path::new(SOCKET), network).await else { return Ok(()) };
    match network::remove(&docker).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            tracing::info!("the Docker network stays: containers are attached to it, or it is not ours");
            Ok(())
        }
        Err(error) => Err(ployz_core::text::chain(&error)),
    }
}

/// How long a deploy waits for the bridge; a daemon that starts has it within a second.
const BRIDGE_STANDS: Duration = Duration::from_secs(15);
