//! Asking a machine about an image over the store. Who has been away for longer than a moment is known at once.

use crate::image::context::Result;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::image::{ImageAnswer, ImageCommand};
use ployz_nats::rpc;
use ployz_nats::store::Store;
use std::time::Duration;

/// The answer of a machine; what it refuses and what keeps it from answering are failures that name it.
pub(super) async fn ask(store: &Store, machine: &MachineId, command: &ImageCommand) -> Result<ImageAnswer> {
    match rpc::answered(store, machine, command.name(), command, RPC_TIMEOUT).await? {
        ImageAnswer::Failed(failure) => Err(failure.on(machine)),
        answer => Ok(answer),
    }
}

/// Looking at an image takes an engine milliseconds, a connection over a path that is being changed up to ten seconds.
const RPC_TIMEOUT: Duration = Duration::from_secs(20);
