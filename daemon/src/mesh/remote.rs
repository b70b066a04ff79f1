//! Commands between machines: request and reply over the store's connection. A machine that is not there is a named failure,
//! at once unless it was there a moment ago; answers go only to inboxes, never to a subject a caller could choose.

use crate::membership::store::Store;
use crate::mesh::Mesh;
use crate::mesh::presence::connected;
use async_nats::{Message, Request, RequestError, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::subject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A command to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Are you there?
    Ping,
    /// Could you leave this network now?
    PrepareDestroy {
        /// Which.
        network: NetworkId,
    },
    /// Leave it.
    ExecuteDestroy {
        /// Which.
        network: NetworkId,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done or would be.
    pub ok: bool,
    /// Why not.
    pub message: String,
    /// Who answers a ping: another one after a restart of its ployzd or of its session with the store. What an earlier one
    /// was asked may never be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

impl Answer {
    fn yes() -> Self {
        Self { ok: true, message: String::new(), run: None }
    }

    fn no(message: impl Into<String>) -> Self {
        Self { ok: false, message: message.into(), run: None }
    }
}

/// Subscribes to this machine's commands.
pub async fn subscribe(mesh: &Mesh, store: &Store) -> Result<Subscriber, async_nats::SubscribeError> {
    let network = mesh.network();
    store.client().subscribe(subject::rpc_all(&network.id, &network.machine.id)).await
}

/// Answers them, until the subscription ends.
pub async fn answer(mesh: &Arc<Mesh>, store: &Store, mut requests: Subscriber) {
    let run = format!("{:032x}", u128::from_ne_bytes(ployz_host::random::bytes()));
    while let Some(request) = requests.next().await {
        let Some(reply) = request.reply.filter(|reply| reply.starts_with("_INBOX.")) else { continue };
        // `ployz.v1.<network>.rpc.<machine>.deploy.<command>`, and so on
        match request.subject.split('.').nth(5) {
            Some("deploy") => {
                crate::deploy::participant::take(mesh, store, reply, request.payload);
                continue;
            }
            Some("image") => {
                crate::image::fetch::take(mesh, store, reply, request.payload);
                continue;
            }
            Some("pull") => {
                crate::pull::take(mesh, store, reply, request.payload);
                continue;
            }
            _ => {}
        }
        let answer = match serde_json::from_slice(&request.payload) {
            Ok(command) => handle(mesh, command, &run).await,
            Err(error) => Answer::no(format!("unknown command: {error}")),
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let _ = store.client().publish(reply, Bytes::from(text)).await;
        let _ = store.client().flush().await;
    }
}

/// Asks one machine.
pub async fn ask(store: &Store, machine: &MachineId, command: &Command) -> Result<Answer, String> {
    let name = match command {
        Command::Ping => PING,
        Command::PrepareDestroy { .. } => "mesh.prepare_destroy",
        Command::ExecuteDestroy { .. } => "mesh.execute_destroy",
    };
    let text = Bytes::from(serde_json::to_vec(command).map_err(|error| error.to_string())?);
    let asked = async {
        match command {
            // Asked again and again by those who wait: it says how it is now.
            Command::Ping => once(store, machine, name, text, PATIENCE).await,
            _ => request(store, machine, name, text, PATIENCE, Duration::ZERO).await,
        }
    };
    let reply = asked.await.map_err(|error| match error.kind() {
        RequestErrorKind::TimedOut => format!("no answer within {}s", PATIENCE.as_secs()),
        _ => error.to_string(),
    })?;
    serde_json::from_slice(&reply.payload).map_err(|error| error.to_string())
}

/// The answer of a machine's ployzd to one request. One that is not connected is waited for: `least` in any case, longer if
/// it was connected a moment ago. `limit` is for the answer of one that is.
pub async fn request(
    store: &Store,
    machine: &MachineId,
    name: &str,
    text: Bytes,
    limit: Duration,
    least: Duration,
) -> Result<Message, RequestError> {
    let send = || once(store, machine, name, text.clone(), limit);
    connected(least, send, |waited| store.presence().is_waited_for(machine, waited)).await
}

/// The same for a command of a room of its own, and its answer as that room has it; what keeps a machine from answering is a
/// failure that names it.
pub async fn answered<A: DeserializeOwned>(
    store: &Store,
    machine: &MachineId,
    name: &str,
    command: &impl Serialize,
    limit: Duration,
) -> Result<A, DeployFailure> {
    let failure =
        |code, why: String| DeployFailure::new(code, format!("no answer to {name}: {why}")).on(machine);
    let away = |why| failure(ErrorCode::MachineUnreachable, why);
    let text = serde_json::to_vec(command).map_err(|error| away(error.to_string()))?;
    let reply = request(store, machine, name, text.into(), limit, Duration::ZERO).await;
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => away("its ployzd is not connected".into()),
        RequestErrorKind::TimedOut => away(format!("no answer within {}s", limit.as_secs())),
        _ => away(error.to_string()),
    })?;
    let answer = serde_json::from_slice(&reply.payload);
    answer
        .map_err(|error| failure(ErrorCode::InvalidRequest, format!("its answer is not understood: {error}")))
}

/// The same, put once.
pub async fn once(
    store: &Store,
    machine: &MachineId,
    name: &str,
    text: Bytes,
    limit: Duration,
) -> Result<Message, RequestError> {
    let request = Request::new().payload(text).timeout(Some(limit));
    let reply = store.client().send_request(subject::rpc(store.network(), machine, name), request).await?;
    store.presence().heard(machine);
    Ok(reply)
}

/// Whether a machine's ployzd is connected now.
pub async fn ping(store: &Store, machine: &MachineId, limit: Duration) -> Result<(), RequestError> {
    let text = serde_json::to_vec(&Command::Ping).unwrap_or_default();
    once(store, machine, PING, text.into(), limit).await.map(drop)
}

async fn handle(mesh: &Arc<Mesh>, command: Command, run: &str) -> Answer {
    let own = mesh.network().id;
    match command {
        Command::Ping => Answer { run: Some(run.to_owned()), ..Answer::yes() },
        Command::PrepareDestroy { network } | Command::ExecuteDestroy { network } if network != own => {
            Answer::no("NETWORK_MISMATCH: this machine is in another network")
        }
        Command::PrepareDestroy { .. } => no_workloads(mesh).await.err().unwrap_or(Answer::yes()),
        Command::ExecuteDestroy { .. } => {
            if let Err(refusal) = no_workloads(mesh).await {
                return refusal;
            }
            // On disk before the answer: a daemon that dies now finishes it at its next start.
            match mesh.change_network(|network| network.lifecycle = crate::disk::Stored::Leaving) {
                Err(error) => Answer::no(ployz_core::text::chain(&error)),
                Ok(_) => {
                    tracing::warn!("the network is being destroyed on the word of a peer");
                    mesh.leave.notify_one();
                    Answer::yes()
                }
            }
        }
    }
}

async fn no_workloads(mesh: &Mesh) -> Result<(), Answer> {
    match crate::daemon::workloads(mesh).await {
        Some(0) => Ok(()),
        Some(n) => Err(Answer::no(format!("WORKLOADS_RUNNING: {n} workloads depend on the overlay"))),
        None => Err(Answer::no("WORKLOADS_RUNNING: its workloads cannot be counted")),
    }
}

const PING: &str = "ping";
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_not_say_who_answers_is_understood() {
        let older: Answer = serde_json::from_str(r#"{"ok":true,"message":""}"#).unwrap();
        assert_eq!(older, Answer::yes());
        assert_eq!(serde_json::to_string(&older).unwrap(), r#"{"ok":true,"message":""}"#);
        let told = Answer { run: Some("0f".into()), ..Answer::yes() };
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), told);
    }
}
