//! Docker Engine as Ployz uses it: containers, images, one network. The only crate that knows bollard.
//!
//! Nothing here decides what should run; that is for deploys. Docker restarts containers, ployzd never does. A container without
//! our labels is not listed, counted or touched, and no engine at all is a value, not an error.
//!
//! # Errors
//!
//! Every call gives [`error::DockerError`], whose variants say what the caller can do: wait (`Unavailable`), look again because it may have been
//! done all the same (`Late`), make what is missing (`Missing`), leave it (`Foreign`), mend the request (`Refused`), or tell the operator the
//! engine's words (`Failed`, `Odd`). Every call has a deadline.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot set up its stage must stop"))]

mod body;
pub mod docker;
mod engine;
pub mod error;
mod http_check;
pub mod images;
pub mod login;
pub mod network;
mod read;
pub mod readiness;
pub mod registry;
mod slot;
pub mod watch;

#[cfg(any(test, feature = "fake"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot set up its stage must stop")]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot set up its stage must stop")]
mod fake_images;
#[cfg(any(test, feature = "fake"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot set up its stage must stop")]
pub mod hostile;
#[cfg(test)]
mod tests;

use docker::{Docker, SOCKET};
use ployz_core::id::NetworkId;
use std::path::Path;

/// How many containers of a network run on this machine; `None` when Docker does not say.
pub async fn running(network: &NetworkId) -> Option<usize> {
    let docker = Docker::connect(Path::new(SOCKET), network).await.ok()?;
    Some(docker.list().await.ok()?.iter().filter(|live| live.state.runs()).count())
}

/// Takes the Docker network away when nothing uses it, not even a stopped container; else it stays for the next start.
pub async fn leave(network: &NetworkId) -> Result<(), String> {
    let Ok(docker) = Docker::connect(Path::new(SOCKET), network).await else { return Ok(()) };
    match network::remove(&docker).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            tracing::info!("the Docker network stays: containers are attached to it, or it is foreign");
            Ok(())
        }
        Err(error) => Err(ployz_core::text::chain(&error)),
    }
}
