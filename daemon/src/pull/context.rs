//! What pulls share on this machine, and what an engine's error is called.

use crate::image::context::Images;
use crate::pull::task::Tasks;
use ployz_core::deploy::registry;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_engine::error::DockerError;
use std::sync::Arc;
use tokio::sync::Semaphore;

pub(crate) type Result<T> = std::result::Result<T, DeployFailure>;

/// Pulls of one network on this machine.
pub struct Pulls {
    /// Images that are here already.
    pub(super) images: Arc<Images>,
    pub(super) tasks: Tasks,
    pub(super) asked: Arc<Semaphore>,
    pub(super) engine: Semaphore,
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

/// What an engine's error is called.
pub(super) fn failed(error: DockerError) -> DeployFailure {
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
