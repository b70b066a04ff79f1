//! Deploys on the socket: the daemon carries each one out in a task of its own, and the caller only follows; so do
//! those who attach, while it is under way, for a while after its end, and by the store's record where another machine
//! carries it out.

use crate::api::handle::outcome;
use crate::api::needs;
use crate::deploy::context::Deploys;
use crate::deploy::coordinator::attended::{Attended, Wish};
use crate::deploy::coordinator::requests;
use crate::failure::{Failure, Result};
use crate::lifecycle::{Daemon, Rooms};
use crate::network::context::Network;
use ployz_core::id::DeployId;
use ployz_core::wire::v1::api::{Asked, Envelope, ErrorCode, Event, Payload, Request};
use ployz_core::wire::v1::api_deploy::{DeployAttachRequest, DeployMark, DeployState};
use ployz_core::wire::v1::deploy::{Decision, DeployPhase, DeployStatus};
use ployz_nats::deploys::Records;
use std::sync::Arc;
use std::time::Duration;

/// Takes lines of the answer.
type Send<'a> = &'a (dyn Fn(Event) + std::marker::Send + Sync);

/// The wish that a request is, if it is one.
pub(super) fn wish(request: &Request) -> Option<Wish> {
    match request {
        Request::Deploy(request) => Some(Wish::Deploy(request.clone())),
        Request::ServiceRemove(request) => Some(Wish::Remove(request.clone())),
        _ => None,
    }
}

/// `deploy`, `service-remove`: begun, or followed when the same is under way already.
pub(super) async fn carry_out(
    daemon: &Arc<Daemon>,
    wish: Wish,
    request: Request,
    send: Send<'_>,
) -> Envelope {
    let deploys = match daemon.rooms() {
        Ok(rooms) => rooms.deploys,
        Err(failure) => return failure.envelope(Asked::Other),
    };
    let (one, is_new) = deploys.attended.attend(&wish, DeployId::from_bytes(ployz_host::random::bytes()));
    if is_new {
        let work = tokio::spawn(work(daemon.clone(), deploys, wish, request, one.clone()));
        tokio::spawn(ends(work, one.clone()));
    } else {
        let message = format!("deploy {} of the same command is in progress; following it", one.id);
        send(Event::Progress { message, deploy: None });
    }
    one.follow(send).await
}

/// One that broke off has an end too: it is not followed for ever.
async fn ends(work: tokio::task::JoinHandle<()>, one: Arc<Attended>) {
    if let Err(error) = work.await {
        let message = format!("deploy {} was interrupted", one.id);
        one.end(Envelope::error(ErrorCode::IoError, message, vec![error.to_string()]));
    }
}

/// Ends by itself, followed or not.
async fn work(daemon: Arc<Daemon>, deploys: Arc<Deploys>, wish: Wish, request: Request, one: Arc<Attended>) {
    needs::wait(&daemon, &request, &|line| one.say(line)).await;
    let done = match &wish {
        Wish::Deploy(request) => requests::deploy(&deploys, request, &one).await,
        Wish::Remove(request) => requests::remove(&deploys, request, &one).await,
    };
    one.end(match done {
        Ok(report) => Envelope::ok(outcome(&report), Some(Payload::Deploy(Box::new(report)))),
        Err(failure) => {
            tracing::info!(code = %failure.code, error = %failure, "request refused");
            failure.envelope(Asked::Other)
        }
    });
}

/// `deploy-attach`.
pub(super) async fn attach(daemon: &Daemon, request: &DeployAttachRequest, send: Send<'_>) -> Envelope {
    let found = match daemon.rooms() {
        Ok(Rooms { network, deploys, .. }) => match deploys.attended.find(request.deploy.as_ref()) {
            Some(one) => return attend(&one, request.abort, send).await,
            None => by_record(&network, request, send).await,
        },
        Err(failure) => Err(failure),
    };
    found.unwrap_or_else(|failure| failure.envelope(Asked::Other))
}

async fn attend(one: &Attended, abort: bool, send: Send<'_>) -> Envelope {
    if !abort {
        return one.follow(send).await;
    }
    if one.is_committed() {
        return too_late(&one.id, None);
    }
    one.give_up();
    given_up(&one.id, one.follow(send).await)
}

/// The end of a deploy as the answer to the one who gave it up.
fn given_up(id: &DeployId, end: Envelope) -> Envelope {
    let state = match &end.payload {
        Some(Payload::Deploy(report)) => Some(report.state),
        _ => None,
    };
    let aborted = end.code == ErrorCode::DeployAborted.as_str();
    match state {
        Some(DeployState::Committed | DeployState::CleanupPending) => too_late(id, end.payload),
        None | Some(DeployState::Failed) if aborted => {
            Envelope::ok(format!("deploy {id} was aborted and undone; nothing was changed"), end.payload)
        }
        _ => end,
    }
}

fn too_late(id: &DeployId, payload: Option<Payload>) -> Envelope {
    let message = format!("deploy {id} is committed and cannot be undone; it will be completed");
    Envelope { payload, ..Envelope::error(ErrorCode::DeployCommitted, message, Vec::new()) }
}

/// By what the store knows: phases instead of lines. One whose coordinator was restarted is finished or undone by it.
async fn by_record(mesh: &Network, request: &DeployAttachRequest, send: Send<'_>) -> Result<Envelope> {
    let (_, records) = crate::deploy::context::open(mesh).await?;
    let own = mesh.network().machine.id;
    let wanted = |status: &DeployStatus| match &request.deploy {
        Some(id) => status.deploy == *id,
        None => !status.phase.is_final(),
    };
    let status = records.statuses().await?.into_iter().find(wanted).ok_or_else(|| {
        let what = match &request.deploy {
            Some(id) => format!("deploy {id} is unknown here and not the latest of its namespace"),
            None => "no deploy is in progress".to_owned(),
        };
        Failure::new(ErrorCode::DeployNotFound, what)
    })?;
    if request.abort && !status.phase.is_final() && status.coordinator != own {
        let (id, other) = (&status.deploy, &status.coordinator);
        let message = format!("deploy {id} runs on {other} and must be aborted there");
        let hint = Some(format!("on {other}: ployzctl deploy attach {id} --abort"));
        return Err(Failure { hint, ..Failure::new(ErrorCode::DeployInProgress, message) });
    }
    let end = watch(&records, status, send).await?;
    Ok(end)
}

async fn watch(records: &Records, mut status: DeployStatus, send: Send<'_>) -> Result<Envelope> {
    let mut said = None;
    loop {
        let (id, namespace) = (status.deploy.clone(), status.namespace.clone());
        if said != Some(status.phase) {
            said = Some(status.phase);
            let message =
                format!("deploy {id} of namespace {namespace}: {} ({})", status.phase, status.coordinator);
            let committed = !matches!(
                status.phase,
                DeployPhase::Locked | DeployPhase::Probed | DeployPhase::Started | DeployPhase::Ready
            );
            send(Event::Progress { message, deploy: Some(DeployMark { id, namespace, committed }) });
        }
        if status.phase.is_final() {
            return Ok(ended(&status, status.phase == DeployPhase::Cleaned));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        match records.status(&status.namespace).await?.map(|found| found.value) {
            Some(found) if found.deploy == status.deploy => status = found,
            // The next one has begun, so this one is over.
            _ => {
                let decision = records.decision(&status.namespace, &status.deploy).await?;
                return Ok(ended(&status, matches!(decision, Some(Decision::Committed(_)))));
            }
        }
    }
}

fn ended(status: &DeployStatus, committed: bool) -> Envelope {
    let (id, namespace) = (&status.deploy, &status.namespace);
    if committed {
        return Envelope::ok(format!("namespace {namespace}: deploy {id} is committed"), None);
    }
    let code = status.failure.as_ref().and_then(|failure| failure.code.parse().ok());
    let code = code.unwrap_or(ErrorCode::DeployFailed);
    let why = status.failure.iter().map(ToString::to_string).collect();
    Envelope::error(code, format!("deploy {id} failed and was undone"), why)
}

const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_a_deploy_up_is_answered_whether_it_was_undone() {
        let id = DeployId::from_bytes([1; 8]);
        let aborted = Envelope::error(ErrorCode::DeployAborted, "deploy failed", Vec::new());
        let answer = given_up(&id, aborted);
        assert!(answer.ok && answer.message.ends_with("nothing was changed"), "{answer:?}");
        let otherwise = Envelope::error(ErrorCode::ImageMissing, "refused", Vec::new());
        assert_eq!(given_up(&id, otherwise.clone()), otherwise, "it came to nothing by itself");
        let late = too_late(&id, None);
        assert_eq!((late.ok, late.code.as_str()), (false, "DEPLOY_COMMITTED"));
    }
}
