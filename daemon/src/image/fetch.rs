//! The machine that is to have an image: looks, names, fetches. It opens the connection, so a machine decides itself whom
//! it takes images from: members, by the address in their record.

use crate::image::context::Images;
use crate::image::context::{Result, failed};
use crate::network::context::Network;
use crate::node::environment::NETNS;
use crate::reach;
use crate::transfer::frame::{self, Frame};
use crate::transfer::stream::{self, Broken};
use bytes::Bytes;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::image::{
    ImageAnswer, ImageCommand, ImageFetch, ImageLook, ImageWanted, Opening, TRANSFER_VERSION,
};
use ployz_engine::docker::{Docker, SOCKET};
use ployz_nats::rpc::{Request, Sender};
use ployz_netns::namespace;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// Carries a command out beside whatever else is asked, and answers.
pub fn take(images: &Arc<Images>, Request { payload, sender, reply }: Request) {
    let room = images.transfers.asked.clone().try_acquire_owned();
    let images = images.clone();
    tokio::spawn(async move {
        let asked = serde_json::from_slice::<ImageCommand>(&payload);
        audit(&sender, &asked);
        let answer = match (asked, &room) {
            (Ok(command), Ok(_)) => answer(&images, command).await.unwrap_or_else(ImageAnswer::Failed),
            (Ok(_), Err(_)) => {
                let what = "too many requests to this machine at once";
                ImageAnswer::Failed(DeployFailure::new(ErrorCode::TransferBusy, what))
            }
            (Err(error), _) => {
                let what = format!("invalid command: {error}");
                ImageAnswer::Failed(DeployFailure::new(ErrorCode::InvalidRequest, what))
            }
        };
        drop(room);
        reply.send(&answer).await;
    });
}

/// What another machine asked for.
fn audit(sender: &Sender, asked: &serde_json::Result<ImageCommand>) {
    let (sender, signed) = (sender.machine.as_str(), sender.signed);
    match asked {
        Ok(command) => {
            let ImageWanted { image, facts, .. } = command.wanted();
            let (command, image_id) = (command.name(), facts.id.as_str());
            tracing::info!(target: "audit", command, sender, signed, %image, image_id, "image command");
        }
        Err(error) => tracing::warn!(target: "audit", sender, signed, %error, "image command refused"),
    }
}

async fn answer(images: &Images, command: ImageCommand) -> Result<ImageAnswer> {
    let mesh = &images.network;
    let network = mesh.network().id;
    if command.wanted().network != network {
        return Err(DeployFailure::new(ErrorCode::InvalidRequest, "this machine is in another network"));
    }
    let docker = Docker::connect(Path::new(SOCKET), &network).await.map_err(failed)?;
    match command {
        ImageCommand::Look(wanted) => look(&docker, &wanted).await.map(ImageAnswer::Looked),
        ImageCommand::Name(wanted) => name(&docker, &wanted).await.map(|()| ImageAnswer::Done),
        ImageCommand::Fetch(asked) => {
            let permit = images.transfers.fetching.clone().try_acquire_owned().map_err(|_| busy())?;
            let stream = connect(mesh, &asked).await?;
            tokio::spawn(fetch(mesh.clone(), docker, asked, stream, permit));
            Ok(ImageAnswer::Fetching)
        }
    }
}

fn busy() -> DeployFailure {
    DeployFailure::new(ErrorCode::TransferBusy, "it is already fetching the maximum number of images")
}

pub(super) async fn look(docker: &Docker, wanted: &ImageWanted) -> Result<ImageLook> {
    let named = docker.find_image(wanted.image.as_str()).await.map_err(failed)?;
    Ok(ImageLook { named: named.map(|found| found.facts), there: has(docker, wanted).await? })
}

/// Whether the image itself is there: what has its id is what it is said to be.
async fn has(docker: &Docker, wanted: &ImageWanted) -> Result<bool> {
    let found = docker.find_image(wanted.facts.id.as_str()).await.map_err(failed)?;
    Ok(found.is_some_and(|found| found.facts.is(&wanted.facts)))
}

/// A name that leads elsewhere is only moved when the image is there and the one that is meant.
pub(super) async fn name(docker: &Docker, wanted: &ImageWanted) -> Result<()> {
    if !has(docker, wanted).await? {
        let what = format!("this machine's engine has no image {} with that content", wanted.facts.id);
        return Err(DeployFailure::new(ErrorCode::ImageNotFound, what));
    }
    docker.name_image(&wanted.facts.id, &wanted.image).await.map_err(failed)?;
    verify(docker, wanted).await
}

/// Whether the name leads to the image.
async fn verify(docker: &Docker, wanted: &ImageWanted) -> Result<()> {
    let found = docker.find_image(wanted.image.as_str()).await.map_err(failed)?;
    let what = match found {
        Some(found) if found.facts.is(&wanted.facts) => return Ok(()),
        Some(found) => format!(
            "{} is {} afterwards, not {}: was it rebuilt meanwhile?",
            wanted.image, found.facts.id, wanted.facts.id
        ),
        None => format!("the engine loaded it but has no {}", wanted.image),
    };
    Err(DeployFailure::new(ErrorCode::ImagePushFailed, what))
}

async fn connect(mesh: &Network, asked: &ImageFetch) -> Result<TcpStream> {
    let unreachable = |why: String| {
        let what = format!("cannot connect to {}: {why}", asked.from);
        DeployFailure::new(ErrorCode::MachineUnreachable, what)
    };
    let at = address(mesh, &asked.from).ok_or_else(|| unreachable("it is not a known member".into()))?;
    let at = SocketAddrV6::new(at, asked.port, 0, 0);
    let opening = Opening { version: TRANSFER_VERSION, ticket: asked.ticket.clone() };
    let opening = serde_json::to_vec(&opening).map_err(|error| unreachable(error.to_string()))?;
    let open = async {
        let mut stream = reach::connect(&namespace::path(NETNS), SocketAddr::V6(at)).await?;
        frame::write(&mut stream, &Frame::Word(opening.into())).await?;
        Ok::<_, io::Error>(stream)
    };
    match timeout(CONNECT_TIMEOUT, open).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(format!("{at}: {error}"))),
        Err(_) => Err(unreachable(format!("{at}: no answer within {}s", CONNECT_TIMEOUT.as_secs()))),
    }
}

fn address(mesh: &Network, machine: &MachineId) -> Option<std::net::Ipv6Addr> {
    let peers = mesh.peers.borrow();
    peers.machines.iter().find(|member| member.id == *machine).map(|member| member.overlay_ip)
}

async fn fetch(
    mesh: Arc<Network>,
    docker: Docker,
    asked: ImageFetch,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) {
    let _permit = permit;
    // Cancel-safe: as if the daemon had been killed there; the engine drops what it has not got whole.
    let done = tokio::select! {
        () = mesh.cancel.cancelled() => return,
        done = exchange(&docker, &asked.wanted, stream) => done,
    };
    let (image, from) = (&asked.wanted.image, &asked.from);
    match done {
        Ok(()) => tracing::info!(%image, peer = %from, "image fetched"),
        Err(failure) => tracing::warn!(%image, peer = %from, error = %failure, "cannot fetch the image"),
    }
}

/// Takes an image in from a connection and says there how it went.
pub(super) async fn exchange(docker: &Docker, wanted: &ImageWanted, stream: TcpStream) -> Result<()> {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let (say, last) = oneshot::channel();
    let work = async {
        let done = take_in(docker, wanted, &mut reader).await;
        let answer = done.clone().err().map_or(ImageAnswer::Done, ImageAnswer::Failed);
        let _ = say.send(Bytes::from(serde_json::to_vec(&answer).unwrap_or_default()));
        // Closed with something unread, the connection would be reset and the word lost.
        let rest = async { while matches!(reader.read(&mut [0; 4096]).await, Ok(1..)) {} };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
        done
    };
    let (done, _) = tokio::join!(work, stream::beat(writer, last));
    done
}

async fn take_in(
    docker: &Docker,
    wanted: &ImageWanted,
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<()> {
    let (into, pieces) = mpsc::channel(AHEAD);
    let mut load = std::pin::pin!(docker.load(ReceiverStream::new(pieces)));
    let received = {
        let mut receive = std::pin::pin!(stream::receive(reader, into));
        // Both stay pinned: what is not ready is polled on, or not needed any more.
        tokio::select! {
            received = &mut receive => Some(received),
            loaded = &mut load => {
                loaded.map_err(failed)?;
                None
            }
        }
    };
    match received {
        // The engine had enough before the end.
        None => {}
        Some(Ok(_)) => load.await.map_err(failed)?,
        Some(Err(broken)) => {
            // It ends by the error that was handed on.
            let _ = load.await;
            return Err(interrupted(&broken));
        }
    }
    verify(docker, wanted).await
}

fn interrupted(broken: &Broken<io::Error>) -> DeployFailure {
    DeployFailure::new(ErrorCode::TransferInterrupted, ployz_core::text::chain(broken))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pieces between the connection and the engine.
const AHEAD: usize = 8;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
