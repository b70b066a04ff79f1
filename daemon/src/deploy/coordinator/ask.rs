//! Asking participants. Nobody there is known at once; one that went away while it worked is noticed by pings, and one that
//! came back meanwhile is asked again.

use crate::deploy::coordinator::liveness::answer;
use bytes::Bytes;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployAnswer, DeployCommand, DeployFailure};
use ployz_core::wire::v1::peer::PeerCommand;
use ployz_nats::rpc;
use ployz_nats::store::Store;
use std::time::Duration;
use tokio::time::Instant;

/// The answer of a machine; what it refuses and what keeps it from answering are failures that name it. One that is busy
/// is asked again.
pub(super) async fn ask(
    store: &Store,
    machine: &MachineId,
    command: &DeployCommand,
) -> Result<DeployAnswer, DeployFailure> {
    let answer = patiently(|| once(store, machine, command)).await?;
    if answer == DeployAnswer::Busy {
        let what = format!("{machine} is too busy for {}", command.name());
        return Err(DeployFailure::new(ErrorCode::ParticipantUnreachable, what).on(machine));
    }
    Ok(answer)
}

async fn patiently<W: Future<Output = Result<DeployAnswer, DeployFailure>>>(
    ask: impl Fn() -> W,
) -> Result<DeployAnswer, DeployFailure> {
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match ask().await? {
            DeployAnswer::Busy if Instant::now() < until => tokio::time::sleep(RETRY_DELAY).await,
            answer => return Ok(answer),
        }
    }
}

async fn once(
    store: &Store,
    machine: &MachineId,
    command: &DeployCommand,
) -> Result<DeployAnswer, DeployFailure> {
    let away = |why: String| {
        let what = format!("{machine} does not answer {}: {why}", command.name());
        DeployFailure::new(ErrorCode::ParticipantUnreachable, what).on(machine)
    };
    let text = Bytes::from(serde_json::to_vec(command).map_err(|error| away(error.to_string()))?);
    let limit = limit(command);
    let send = |left: Duration| {
        let (text, least) = (text.clone(), left.min(patience(command)));
        async move { rpc::request(store, machine, command.name(), text, left, least).await }
    };
    let ping = || async {
        let asked = rpc::ask(store, machine, &PeerCommand::Ping).await;
        asked.map(|answer| answer.run).map_err(|error| error.to_string())
    };
    let Some(reply) = answer(limit, send, ping).await else {
        return Err(away("it disconnected during the request".into()));
    };
    let reply = reply.map_err(|error| away(error.to_string()))?;
    match serde_json::from_slice(&reply) {
        Ok(DeployAnswer::Failed(failure)) => Err(failure),
        Ok(answer) => Ok(answer),
        Err(error) => Err(away(format!("invalid response: {error}"))),
    }
}

/// How long a ployzd that is not connected is waited for in any case: it may be between its end and its next start.
/// Questions say at once who has been away for longer than a moment.
fn patience(command: &DeployCommand) -> Duration {
    match command {
        DeployCommand::Probe(_)
        | DeployCommand::Readiness(_)
        | DeployCommand::List(_)
        | DeployCommand::Logs(_) => Duration::ZERO,
        DeployCommand::Start(_)
        | DeployCommand::Restore(_)
        | DeployCommand::Stop(_)
        | DeployCommand::Drain(_)
        | DeployCommand::Remove(_) => RESTART_TIMEOUT,
    }
}

fn limit(command: &DeployCommand) -> Duration {
    match command {
        DeployCommand::Probe(_)
        | DeployCommand::Readiness(_)
        | DeployCommand::List(_)
        | DeployCommand::Logs(_) => Duration::from_secs(10),
        // Containers may take their time to stop, engines to start them.
        DeployCommand::Start(_) | DeployCommand::Restore(_) => Duration::from_secs(180),
        DeployCommand::Stop(_) | DeployCommand::Drain(_) | DeployCommand::Remove(_) => {
            Duration::from_secs(900)
        }
    }
}

/// Steps take their time, and so does a machine to be free for another.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// A ployzd that is upgraded is away for a few seconds.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn a_busy_machine_is_asked_again_but_not_for_ever() {
        let asked = Cell::new(0);
        let answer = patiently(|| async {
            asked.set(asked.get() + 1);
            Ok(if asked.get() < 5 { DeployAnswer::Busy } else { DeployAnswer::Done })
        });
        assert_eq!(answer.await, Ok(DeployAnswer::Done));
        let began = Instant::now();
        assert_eq!(patiently(|| async { Ok(DeployAnswer::Busy) }).await, Ok(DeployAnswer::Busy));
        assert!(began.elapsed() < BUSY_TIMEOUT + Duration::from_secs(1));
    }
}
