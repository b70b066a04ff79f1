//! Images from registries, on the machine that asks one or fetches from one: what a deploy's coordinator asks for, and
//! nothing else.
//!
//! A pull is the engine's own transaction: an image is there whole or not at all, without a tag until the coordinator
//! says that every machine has it. So what was cut off anywhere is simply done again.

pub mod ask;
mod fetch;
mod task;

use crate::image::Images;
use crate::network::Network;
use ployz_core::deploy::registry;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::pull::{PullAnswer, PullCommand, PullGive, PullWanted};
use ployz_engine::docker::{Docker, SOCKET};
use ployz_engine::error::DockerError;
use ployz_nats::rpc::Request;
use std::path::Path;
use std::sync::Arc;
use task::Tasks;
use tokio::sync::Semaphore;

type Result<T> = std::result::Result<T, DeployFailure>;

/// Pulls of one network on this machine.
pub struct Pulls {
    images: Arc<Images>,
    tasks: Tasks,
    asked: Arc<Semaphore>,
    engine: Semaphore,
}

impl Pulls {
    /// Of a network.
    pub fn new(images: Arc<Images>) -> Arc<Self> {
        Arc::new(Self {
            images,
            tasks: Tasks::default(),
            asked: Arc::new(Semaphore::new(ASKED)),
            engine: Semaphore::new(AT_ONCE),
        })
    }
}

/// Carries a command out beside whatever else is asked, and answers.
pub fn take(pulls: &Arc<Pulls>, Request { payload, reply }: Request) {
    let room = pulls.asked.clone().try_acquire_owned();
    let pulls = pulls.clone();
    tokio::spawn(async move {
        let refuse = |code, what: String| PullAnswer::Failed(DeployFailure::new(code, what));
        let answer = match (serde_json::from_slice::<PullCommand>(&payload), &room) {
            (Ok(command), Ok(_)) => answer(&pulls, command).await.unwrap_or_else(PullAnswer::Failed),
            (Ok(_), Err(_)) => {
                refuse(ErrorCode::TransferBusy, "too much is asked of this machine at a time".into())
            }
            (Err(error), _) => {
                refuse(ErrorCode::InvalidRequest, format!("the command is not understood: {error}"))
            }
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
            tracing::info!(target: "audit", %image, %name, "an image gets a name");
            fetch::name(&docker, &image, &name).await.map(|()| PullAnswer::Done)
        }
        PullCommand::Fetch(PullWanted { image, .. }) => {
            let (key, here) = (format!("fetch {image}"), pulls.clone());
            pulls.tasks.look(&key, |progress| async move {
                tracing::info!(target: "audit", %image, "an image is pulled");
                until_stopped(&here.images.network, fetch::fetch(&here, &docker, &image, &progress)).await
            })
        }
        PullCommand::Give(PullGive { wanted: PullWanted { image, .. }, to }) => {
            let (key, here) = (format!("give {image} to {to}"), pulls.clone());
            pulls.tasks.look(&key, |progress| async move {
                tracing::info!(target: "audit", %image, %to, "an image is sent on");
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

/// What an engine's error is called.
fn failed(error: DockerError) -> DeployFailure {
    let words = ployz_core::text::chain(&error);
    let code = match &error {
        DockerError::Unavailable { .. } => ErrorCode::DockerUnavailable,
        // The engine answers pings: what it waits for is the registry.
        DockerError::Late { .. } => ErrorCode::RegistryUnreachable,
        error if error.is_away() => ErrorCode::DockerUnavailable,
        error => registry::code(error.status(), &words),
    };
    DeployFailure::new(code, words)
}

const ASKED: usize = 64;
/// Pulls at a time: an engine fetches the layers of each side by side.
const AT_ONCE: usize = 2;
