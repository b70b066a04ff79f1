//! The machine whose image it is: asks everybody what they have, and sends it to those who lack it. Each machine fails or
//! gets it on its own.

use crate::failure::{Failure, Result};
use crate::image::ask::ask;
use crate::image::context::Images;
use crate::image::context::{self, failed};
use crate::network::context::Network;
use crate::progress::Say;
use crate::transfer::stream::{self, Broken};
use futures_util::future::join_all;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::{ErrorCode, Payload};
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::image::{
    ImageAnswer, ImageCommand, ImageFetch, ImagePushReport, ImagePushRequest, ImagePushRow, ImageState,
    ImageWanted, tagged,
};
use ployz_core::wire::v1::manifest::ImageRef;
use ployz_engine::docker::{Docker, SOCKET};
use ployz_engine::error::DockerError;
use ployz_engine::images::Found;
use ployz_nats::store::Store;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Everything that a push is made of.
struct Push<'a> {
    images: &'a Images,
    store: Store,
    docker: Docker,
    wanted: ImageWanted,
    size: u64,
    to: Vec<MachineId>,
}

/// How far one machine is.
struct Leg<'a> {
    machine: &'a MachineId,
    sent: Arc<AtomicU64>,
}

/// `image-push-preview`.
pub async fn preview(images: &Images, request: &ImagePushRequest) -> Result<ImagePushReport> {
    let push = Push::begin(images, request).await?;
    let looks = push.to.iter().map(|machine| async {
        let state = push.look(machine).await;
        let mut row = row(machine);
        match state {
            Ok(state) => row.state = state,
            Err(failure) => row.failure = Some(failure),
        }
        row
    });
    let rows = join_all(looks).await;
    Ok(push.report(rows))
}

/// `image-push`. Fails when one machine did not get it; the others have it then all the same.
pub async fn push(images: &Images, request: &ImagePushRequest, say: Say<'_>) -> Result<ImagePushReport> {
    let push = Push::begin(images, request).await?;
    let legs: Vec<Leg<'_>> = push.to.iter().map(|machine| Leg { machine, sent: Arc::default() }).collect();
    let mut work = std::pin::pin!(join_all(legs.iter().map(|leg| push.give(leg))));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    let rows = loop {
        // Cancel-safe: the work is pinned and polled on; the daemon's end is the end of a transfer, as a kill would be.
        tokio::select! {
            rows = &mut work => break rows,
            _ = ticks.tick() => say(&progress(&push.wanted.image, push.size, &legs)),
            () = images.network.cancel.cancelled() => {
                return Err(Failure::new(ErrorCode::TransferInterrupted, "the network is being stopped here"));
            }
        }
    };
    judge(push.report(rows))
}

/// Gets an image to one machine, which a deploy does for those that cannot fetch it.
pub async fn give(
    images: &Images,
    image: &ImageRef,
    to: &MachineId,
    sent: Arc<AtomicU64>,
) -> context::Result<()> {
    let request = ImagePushRequest { image: image.clone(), to: [to.clone()].into() };
    let push = Push::begin(images, &request).await;
    let push = push.map_err(|failure| DeployFailure::new(failure.code, failure.to_string()))?;
    push.bring(&Leg { machine: to, sent }).await.map(drop)
}

fn progress(image: &ImageRef, size: u64, legs: &[Leg<'_>]) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let parts = legs.iter().filter_map(|leg| {
        let sent = leg.sent.load(Ordering::Relaxed);
        (sent > 0).then(|| format!("{} {} of about {} MiB", leg.machine, mib(sent), mib(size)))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        format!("sending {image}")
    } else {
        format!("sending {image}: {}", parts.join(", "))
    }
}

/// A push that reached everybody, or the failure that names who was not reached.
fn judge(report: ImagePushReport) -> Result<ImagePushReport> {
    let failures: Vec<&DeployFailure> =
        report.machines.iter().filter_map(|row| row.failure.as_ref()).collect();
    if failures.is_empty() {
        return Ok(report);
    }
    let codes: BTreeSet<&str> = failures.iter().map(|failure| failure.code.as_str()).collect();
    let only = codes.first().filter(|_| codes.len() == 1);
    let code = only.and_then(|code| code.parse().ok()).unwrap_or(ErrorCode::ImagePushFailed);
    let who: Vec<&str> =
        report.machines.iter().filter(|row| row.failure.is_some()).map(|row| row.machine.as_str()).collect();
    let causes = failures.iter().map(|failure| format!("{failure} [{}]", failure.code)).collect();
    let what = format!("image {} is not on {}", report.image, who.join(", "));
    let mut failure = Failure::new(code, what).with(causes);
    failure.payload = Some(Box::new(Payload::ImagePush(report)));
    Err(failure)
}

impl<'a> Push<'a> {
    async fn begin(images: &'a Images, request: &ImagePushRequest) -> Result<Self> {
        let mesh = &images.network;
        let image = tagged(&request.image).ok_or_else(|| {
            let what = "push an image by a name with a tag: other machines cannot use a digest";
            Failure::new(ErrorCode::InvalidArgument, what)
        })?;
        let to = receivers(mesh, &request.to)?;
        let network = mesh.network().id;
        let engine = |error: &DockerError| {
            let code = match error {
                DockerError::Unavailable { .. } | DockerError::Late { .. } => ErrorCode::DockerUnavailable,
                _ => ErrorCode::IoError,
            };
            Failure::because(code, format!("image {image} cannot be read here"), error)
        };
        let docker = Docker::connect(Path::new(SOCKET), &network).await.map_err(|error| engine(&error))?;
        let found = docker.find_image(image.as_str()).await.map_err(|error| engine(&error))?;
        let Found { facts, size } = found.ok_or_else(|| {
            Failure::new(ErrorCode::ImageNotFound, format!("this machine's engine has no image {image}"))
        })?;
        let store = mesh.store.borrow().clone();
        let away = || Failure::new(ErrorCode::StoreUnavailable, "the store is not connected");
        let store = store.ok_or_else(away)?;
        Ok(Self { images, store, docker, wanted: ImageWanted { network, image, facts }, size, to })
    }

    fn report(&self, mut machines: Vec<ImagePushRow>) -> ImagePushReport {
        machines.sort_by(|a, b| a.machine.cmp(&b.machine));
        ImagePushReport {
            image: self.wanted.image.clone(),
            id: self.wanted.facts.id.clone(),
            size: self.size,
            machines,
        }
    }

    async fn look(&self, machine: &MachineId) -> context::Result<ImageState> {
        match ask(&self.store, machine, &ImageCommand::Look(self.wanted.clone())).await? {
            ImageAnswer::Looked(look) => Ok(look.state(&self.wanted.facts)),
            _ => Err(odd(machine)),
        }
    }

    async fn give(&self, leg: &Leg<'_>) -> ImagePushRow {
        let began = Instant::now();
        let mut row = row(leg.machine);
        match self.bring(leg).await {
            Ok(state) => row.state = state,
            Err(failure) => row.failure = Some(failure),
        }
        let bytes = leg.sent.load(Ordering::Relaxed);
        if bytes > 0 {
            row.bytes = Some(bytes);
            row.took_ms = u64::try_from(began.elapsed().as_millis()).ok();
        }
        tracing::info!(
            image = %self.wanted.image,
            machine = %leg.machine,
            state = %row.state,
            code = row.failure.as_ref().map(|failure| failure.code.clone()),
            bytes,
            "image pushed"
        );
        row
    }

    async fn bring(&self, leg: &Leg<'_>) -> context::Result<ImageState> {
        match self.look(leg.machine).await? {
            ImageState::Present => Ok(ImageState::Present),
            ImageState::Unnamed => {
                let command = ImageCommand::Name(self.wanted.clone());
                match ask(&self.store, leg.machine, &command).await? {
                    ImageAnswer::Done => Ok(ImageState::Named),
                    _ => Err(odd(leg.machine)),
                }
            }
            _ => self.send(leg).await.map(|()| ImageState::Sent),
        }
    }

    /// Asks the machine to come for the image, waits for its connection, sends, and waits for its word.
    async fn send(&self, leg: &Leg<'_>) -> context::Result<()> {
        let broken = |why: String| DeployFailure::new(ErrorCode::TransferInterrupted, why).on(leg.machine);
        let _turn =
            self.images.transfers.sending.acquire().await.map_err(|error| broken(error.to_string()))?;
        let mut ticket = self.images.transfers.tickets.issue(leg.machine);
        let fetch = ImageFetch {
            wanted: self.wanted.clone(),
            from: self.images.network.network().machine.id,
            port: self.images.network.shared.around.config.zfs_transfer_port,
            ticket: ticket.text.clone(),
        };
        match ask(&self.store, leg.machine, &ImageCommand::Fetch(fetch)).await? {
            ImageAnswer::Fetching => {}
            _ => return Err(odd(leg.machine)),
        }
        // The other end has connected and shown the ticket before it answered.
        let connection = match tokio::time::timeout(HAND_OVER_TIMEOUT, &mut ticket.shown).await {
            Ok(Ok(connection)) => connection,
            _ => return Err(broken("it did not connect to fetch the image".into())),
        };
        let (reader, writer) = connection.into_split();
        let body = self.docker.save(&self.wanted.image).map_err(failed)?;
        let word = stream::send(reader, writer, body, &leg.sent).await.map_err(|error| match error {
            Broken::Body(error) => failed(error),
            error => broken(ployz_core::text::chain(&error)),
        })?;
        match serde_json::from_slice(&word) {
            Ok(ImageAnswer::Done) => Ok(()),
            Ok(ImageAnswer::Failed(failure)) => Err(failure.on(leg.machine)),
            _ => Err(odd(leg.machine)),
        }
    }
}

/// The machines asked for, or all members, without this one: it has the image.
fn receivers(mesh: &Network, asked: &BTreeSet<MachineId>) -> Result<Vec<MachineId>> {
    let own = mesh.network().machine.id;
    let members: BTreeSet<MachineId> =
        mesh.peers.borrow().machines.iter().map(|machine| machine.id.clone()).collect();
    let unknown: Vec<&str> = asked.difference(&members).map(MachineId::as_str).collect();
    if !unknown.is_empty() {
        let what = format!("{} is not a machine of this network", unknown.join(", "));
        return Err(Failure::new(ErrorCode::MachineNotFound, what));
    }
    let all = if asked.is_empty() { members } else { asked.clone() };
    Ok(all.into_iter().filter(|machine| *machine != own).collect())
}

fn row(machine: &MachineId) -> ImagePushRow {
    ImagePushRow {
        machine: machine.clone(),
        state: ImageState::Failed,
        bytes: None,
        took_ms: None,
        failure: None,
    }
}

/// An answer to another question than was asked.
fn odd(machine: &MachineId) -> DeployFailure {
    DeployFailure::new(ErrorCode::InvalidRequest, "unexpected response type").on(machine)
}

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// From the answer that the connection stands until this end has it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);
