//! Asking a machine about an image of a registry over the store.

use crate::membership::store::Store;
use crate::pull::Result;
use async_nats::{Request, RequestErrorKind};
use bytes::Bytes;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::pull::{PullAnswer, PullCommand};
use ployz_core::wire::v1::subject;
use std::time::Duration;

/// The answer of a machine; what it refuses and what keeps it from answering are failures that name it.
pub async fn ask(store: &Store, machine: &MachineId, command: &PullCommand) -> Result<PullAnswer> {
    let failure = |code, why: String| {
        let what = format!("no answer to {}: {why}", command.name());
        DeployFailure::new(code, what).on(machine)
    };
    let away = |why| failure(ErrorCode::MachineUnreachable, why);
    let text = serde_json::to_vec(command).map_err(|error| away(error.to_string()))?;
    let request = Request::new().payload(Bytes::from(text)).timeout(Some(PATIENCE));
    let to = subject::rpc(store.network(), machine, command.name());
    let reply = store.client().send_request(to, request).await;
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => away("its ployzd is not connected".into()),
        RequestErrorKind::TimedOut => away(format!("no answer within {}s", PATIENCE.as_secs())),
        _ => away(error.to_string()),
    })?;
    match serde_json::from_slice(&reply.payload) {
        Ok(PullAnswer::Failed(failure)) => Err(failure.on(machine)),
        Ok(answer) => Ok(answer),
        Err(error) => {
            Err(failure(ErrorCode::InvalidRequest, format!("its answer is not understood: {error}")))
        }
    }
}

/// Longer than a machine waits for a registry.
const PATIENCE: Duration = Duration::from_secs(25);
