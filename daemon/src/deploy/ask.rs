//! Asking participants. Nobody there is known at once; one that went away while it worked is noticed by pings, and one that
//! came back meanwhile is asked again.

use crate::deploy::answering::answer;
use crate::membership::store::Store;
use crate::mesh::remote::{self, Command};
use async_nats::{Request, RequestError, RequestErrorKind};
use bytes::Bytes;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployAnswer, DeployCommand, DeployFailure};
use ployz_core::wire::v1::subject;
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
    let until = Instant::now() + BUSY;
    loop {
        match ask().await? {
            DeployAnswer::Busy if Instant::now() < until => tokio::time::sleep(AGAIN).await,
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
        let request = move |text| Request::new().payload(text).timeout(Some(left));
        let (to, text) = (subject::rpc(store.network(), machine, command.name()), text.clone());
        let send = move || store.client().send_request(to.clone(), request(text.clone()));
        connected(left.min(patience(command)), send)
    };
    let ping = || async { Ok(remote::ask(store, machine, &Command::Ping).await?.run) };
    let Some(reply) = answer(limit, send, ping).await else {
        return Err(away("it went away while it was asked".into()));
    };
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => away("its ployzd is not connected".into()),
        RequestErrorKind::TimedOut => away(format!("no answer within {}s", limit.as_secs())),
        _ => away(error.to_string()),
    })?;
    match serde_json::from_slice(&reply.payload) {
        Ok(DeployAnswer::Failed(failure)) => Err(failure),
        Ok(answer) => Ok(answer),
        Err(error) => Err(away(format!("its answer is not understood: {error}"))),
    }
}

/// The answer of a ployzd that may be between its end and its next start.
async fn connected<T, W: Future<Output = Result<T, RequestError>>>(
    patience: Duration,
    send: impl Fn() -> W,
) -> Result<T, RequestError> {
    let until = Instant::now() + patience;
    loop {
        match send().await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders && Instant::now() < until => {
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// How long a ployzd that is not connected is waited for. Questions say at once who is away.
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
        | DeployCommand::Remove(_) => RESTART,
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
const BUSY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(300);
/// A ployzd that is upgraded is away for a few seconds.
const RESTART: Duration = Duration::from_secs(10);

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
        assert!(began.elapsed() < BUSY + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_connected_is_waited_for_only_so_long() {
        let (asked, nobody) = (Cell::new(0), || Err(RequestError::new(RequestErrorKind::NoResponders)));
        let send = |from| {
            asked.set(asked.get() + 1);
            let there = asked.get() >= from;
            async move { if there { Ok("answer") } else { nobody() } }
        };
        assert_eq!(connected(RESTART, || send(8)).await.ok(), Some("answer"));
        asked.set(0);
        let began = Instant::now();
        let kind = connected(RESTART, || send(u32::MAX)).await.unwrap_err().kind();
        assert_eq!(kind, RequestErrorKind::NoResponders);
        assert!(began.elapsed() >= RESTART && began.elapsed() < RESTART + 2 * AGAIN);
        asked.set(0);
        assert!(connected(Duration::ZERO, || send(2)).await.is_err(), "a question is not put again");
        assert_eq!(asked.get(), 1);
    }
}
