//! Asking a machine about an image over the store. Who has been away for longer than a moment is known at once.

use crate::image::Result;
use crate::membership::store::Store;
use crate::mesh::remote;
use async_nats::RequestErrorKind;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::image::{ImageAnswer, ImageCommand};
use std::time::Duration;

/// The answer of a machine; what it refuses and what keeps it from answering are failures that name it.
pub(super) async fn ask(store: &Store, machine: &MachineId, command: &ImageCommand) -> Result<ImageAnswer> {
    let failure = |code, why: String| {
        let what = format!("no answer to {}: {why}", command.name());
        DeployFailure::new(code, what).on(machine)
    };
    let away = |why| failure(ErrorCode::MachineUnreachable, why);
    let text = serde_json::to_vec(command).map_err(|error| away(error.to_string()))?;
    let asked = remote::request(store, machine, command.name(), text.into(), PATIENCE, Duration::ZERO);
    let reply = asked.await;
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => away("its ployzd is not connected".into()),
        RequestErrorKind::TimedOut => away(format!("no answer within {}s", PATIENCE.as_secs())),
        _ => away(error.to_string()),
    })?;
    match serde_json::from_slice(&reply.payload) {
        Ok(ImageAnswer::Failed(failure)) => Err(failure.on(machine)),
        Ok(answer) => Ok(answer),
        Err(error) => {
            Err(failure(ErrorCode::InvalidRequest, format!("its answer is not understood: {error}")))
        }
    }
}

/// Looking at an image takes an engine milliseconds, a connection over a path that is being changed up to ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);
