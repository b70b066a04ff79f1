//! Commands of coordinators about images of registries.

use crate::network::context::Network;
use crate::pull::context::{Pulls, Result, failed};
use crate::pull::fetch;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::pull::{PullAnswer, PullCommand, PullGive, PullWanted};
use ployz_engine::docker::{Docker, SOCKET};
use ployz_nats::rpc::Request;
use std::path::Path;
use std::sync::Arc;

/// Carries a command out beside whatever else is asked, and answers.
pub fn take(pulls: &Arc<Pulls>, Request { payload, reply, .. }: Request) {
    let room = pulls.asked.clone().try_acquire_owned();
    let pulls = pulls.clone();
    tokio::spawn(async move {
        let refuse = |code, what: String| PullAnswer::Failed(DeployFailure::new(code, what));
        let answer = match (serde_json::from_slice::<PullCommand>(&payload), &room) {
            (Ok(command), Ok(_)) => answer(&pulls, command).await.unwrap_or_else(PullAnswer::Failed),
            (Ok(_), Err(_)) => {
                refuse(ErrorCode::TransferBusy, "too many requests to this machine at once".into())
            }
            (Err(error), _) => refuse(ErrorCode::InvalidRequest, format!("invalid command: {error}")),
        };
        drop(room);
        reply.send(&answer).await;
    });
}

async fn answer(pulls: &Arc<Pulls>, command: PullCommand) -> Result<PullAnswer> {
    let network = pulls.images.network.network().id;
    if command.wanted().network != network {
        return Err(DeployFailure::new(ErrorCode::InvalidRequest, "this machine is in another network"));
    }
    let docker = Docker::connect(Path::new(SOCKET), &network).await.map_err(failed)?;
    match command {
        PullCommand::Ask(wanted) => fetch::ask(&docker, &wanted.image).await.map(PullAnswer::Found),
        PullCommand::Name(name) => {
            let (image, name) = (name.wanted.image, name.name);
            tracing::info!(target: "audit", %image, %name, "image named");
            fetch::name(&docker, &image, &name).await.map(|()| PullAnswer::Done)
        }
        PullCommand::Fetch(PullWanted { image, .. }) => {
            let (key, here) = (format!("fetch {image}"), pulls.clone());
            pulls.tasks.look(&key, |progress| async move {
                tracing::info!(target: "audit", %image, "image pull started");
                until_stopped(&here.images.network, fetch::fetch(&here, &docker, &image, &progress)).await
            })
        }
        PullCommand::Give(PullGive { wanted: PullWanted { image, .. }, to }) => {
            let (key, here) = (format!("give {image} to {to}"), pulls.clone());
            pulls.tasks.look(&key, |progress| async move {
                tracing::info!(target: "audit", %image, peer = %to, "image transfer started");
                Box::pin(until_stopped(
                    &here.images.network,
                    fetch::give(&here.images, &docker, &image, &to, &progress),
                ))
                .await
            })
        }
    }
}

/// Cancel-safe: as if the daemon had been killed there.
async fn until_stopped(mesh: &Network, work: impl Future<Output = Result<()>>) -> Result<()> {
    let stopped = || DeployFailure::new(ErrorCode::TransferInterrupted, "the network is being stopped here");
    mesh.cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped()))
}
