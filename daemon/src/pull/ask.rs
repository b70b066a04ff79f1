//! Asking a machine about an image of a registry over the store.

use crate::pull::context::Result;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::pull::{PullAnswer, PullCommand};
use ployz_nats::rpc;
use ployz_nats::store::Store;
use std::time::Duration;

/// The answer of a machine; what it refuses and what keeps it from answering are failures that name it.
pub async fn ask(store: &Store, machine: &MachineId, command: &PullCommand) -> Result<PullAnswer> {
    match rpc::answered(store, machine, command.name(), command, RPC_TIMEOUT).await? {
        PullAnswer::Failed(failure) => Err(failure.on(machine)),
        answer => Ok(answer),
    }
}

/// Longer than a machine waits for a registry.
const RPC_TIMEOUT: Duration = Duration::from_secs(25);
