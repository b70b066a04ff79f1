//! The Docker network of this machine's containers, and the watch over them, for as long as a network runs here.

use crate::deploy::context::Deploys;
use crate::network::context::Network;
use ployz_core::spec::container::BRIDGE;
use ployz_engine::docker::{Docker, SOCKET};
use ployz_engine::error::DockerError;
use ployz_engine::network::{self, Ensured, NetworkSpec};
use ployz_engine::watch;
use std::sync::Arc;
use std::time::Duration;

/// Keeps the Docker network and the view of the containers for as long as a network runs here.
pub async fn run(deploys: Arc<Deploys>) {
    let mesh = &deploys.network;
    if !bridge_stands(mesh).await {
        return;
    }
    let checks = deploys.readiness.subscribe();
    watch::run(SOCKET.into(), wanted(mesh), checks, deploys.workloads.clone(), mesh.cancel.clone()).await;
}

/// Has the Docker network made if it is not there; before a container is attached this is asked for. What is in the way is
/// an error of its own.
pub async fn stand(mesh: &Network, docker: &Docker) -> Result<(), DockerError> {
    let held = |detail: String| DockerError::Odd { operation: "use network", subject: BRIDGE.into(), detail };
    if !matches!(tokio::time::timeout(BRIDGE_TIMEOUT, bridge_stands(mesh)).await, Ok(true)) {
        return Err(held("the bridge of that name is missing; `ployzctl explain link` shows why".into()));
    }
    match network::ensure(docker, &wanted(mesh)).await? {
        Ensured::Held(why) => Err(held(why)),
        Ensured::Unasked | Ensured::Ready(_) => Ok(()),
    }
}

/// Waits for the bridge: without it Docker would make one of its own. `false` = the network is being left.
async fn bridge_stands(mesh: &Network) -> bool {
    let mut outcomes = mesh.outcome.subscribe();
    let stands = outcomes.wait_for(|outcome| {
        let link = outcome.as_ref().and_then(|outcome| outcome.live.link.present());
        link.is_some_and(|link| link.bridge.as_ref().is_some_and(|bridge| bridge.alias.is_some()))
    });
    stands.await.is_ok()
}

fn wanted(mesh: &Network) -> NetworkSpec {
    let file = mesh.network();
    NetworkSpec { network: file.id.clone(), subnet: file.subnet(), mtu: mesh.spec().link.mtu }
}

/// How long a deploy waits for the bridge; a daemon that starts has it within a second.
const BRIDGE_TIMEOUT: Duration = Duration::from_secs(15);
