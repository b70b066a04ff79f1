//! What images share on this machine, and what an engine's error is called.

use crate::network::context::Network;
use crate::transfer::context::Transfers;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_engine::error::DockerError;
use std::sync::Arc;

/// Images of one running network on this machine.
pub struct Images {
    /// The network.
    pub network: Arc<Network>,
    /// Direct connections with other machines.
    pub transfers: Arc<Transfers>,
}

impl Images {
    /// Of a network.
    pub fn new(network: Arc<Network>) -> Arc<Self> {
        Arc::new(Self { network, transfers: Arc::default() })
    }
}

pub(crate) type Result<T> = std::result::Result<T, DeployFailure>;

/// What an engine's error is called.
pub(super) fn failed(error: DockerError) -> DeployFailure {
    let words = ployz_core::text::chain(&error);
    let code = match &error {
        DockerError::Unavailable { .. } | DockerError::Late { .. } => ErrorCode::DockerUnavailable,
        DockerError::Refused { .. } => ErrorCode::InvalidRequest,
        // Docker has no code of its own for it.
        _ if words.to_ascii_lowercase().contains("no space left") => ErrorCode::DiskFull,
        _ => ErrorCode::ImagePushFailed,
    };
    DeployFailure::new(code, words)
}
