//! One image, one machine: asked for, fetched, sent on, named.

use crate::image::context::Images;
use crate::image::push;
use crate::pull::context::Pulls;
use crate::pull::context::{Result, failed};
use ployz_core::deploy::pull::fits;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::image::tagged;
use ployz_core::wire::v1::manifest::ImageRef;
use ployz_core::wire::v1::pull::PullFound;
use ployz_engine::docker::Docker;
use ployz_engine::login::{self, Login};
use ployz_engine::registry::{Held, Progress};
use std::sync::atomic::Ordering;

/// What the registry has under a name.
pub(super) async fn ask(docker: &Docker, image: &ImageRef) -> Result<PullFound> {
    let login = login_for(image).await?;
    docker.ask_registry(image, login.as_ref()).await.map_err(failed)
}

/// Fetches an image that is pinned, unless it is there.
pub(super) async fn fetch(
    pulls: &Pulls,
    docker: &Docker,
    image: &ImageRef,
    progress: &Progress,
) -> Result<()> {
    if image.digest().is_none() {
        return Err(DeployFailure::new(ErrorCode::InvalidRequest, format!("{image} is not pinned")));
    }
    let turn = pulls.engine.acquire().await;
    let _turn = turn.map_err(|error| DeployFailure::new(ErrorCode::TransferBusy, error.to_string()))?;
    if docker.held(image).await.map_err(failed)?.is_some() {
        return Ok(());
    }
    let login = login_for(image).await?;
    docker.fetch(image, login.as_ref(), progress).await.map_err(failed)?;
    let held = there(docker, image).await?;
    match docker.platform() {
        // A name may lead to the one image of another platform, which the engine takes without a word.
        Some(platform) if !fits(platform, std::slice::from_ref(&held.platform)) => {
            let what = format!("{image} is for {}, and this machine is {platform}", held.platform);
            Err(DeployFailure::new(ErrorCode::ImagePlatform, what))
        }
        _ => {
            tracing::info!(%image, id = %held.facts.id, "image pulled");
            Ok(())
        }
    }
}

/// Sends an image that is pinned to a machine, under the tag that stands for its digest.
pub(super) async fn give(
    images: &Images,
    docker: &Docker,
    image: &ImageRef,
    to: &MachineId,
    progress: &Progress,
) -> Result<()> {
    let odd = || DeployFailure::new(ErrorCode::InvalidRequest, format!("{image} is not pinned"));
    let tag = image.digest_tag().ok_or_else(odd)?;
    let held = there(docker, image).await?;
    if held.name != tag.as_str() {
        docker.name_image(&held.facts.id, &tag).await.map_err(failed)?;
    }
    if let Some(found) = docker.find_image(tag.as_str()).await.map_err(failed)? {
        progress.size.store(found.size, Ordering::Relaxed);
    }
    push::give(images, &tag, to, progress.sent.clone()).await
}

/// Lets a name lead to an image that is pinned and there.
pub(super) async fn name(docker: &Docker, image: &ImageRef, name: &ImageRef) -> Result<()> {
    let odd = || DeployFailure::new(ErrorCode::InvalidRequest, format!("{name} is not a name with a tag"));
    let name = tagged(name).ok_or_else(odd)?;
    let held = there(docker, image).await?;
    docker.name_image(&held.facts.id, &name).await.map_err(failed)
}

async fn there(docker: &Docker, image: &ImageRef) -> Result<Held> {
    let missing = || DeployFailure::new(ErrorCode::ImageMissing, format!("the image {image} is missing"));
    docker.held(image).await.map_err(failed)?.ok_or_else(missing)
}

async fn login_for(image: &ImageRef) -> Result<Option<Login>> {
    let unread = |error| DeployFailure::new(ErrorCode::RegistryLoginFailed, ployz_core::text::chain(&error));
    login::of(image.registry()).await.map_err(unread)
}
