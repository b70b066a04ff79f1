//! Commands between machines: request and reply over the store's connection. Nobody there is an immediate, named
//! failure; answers go only to inboxes, never to a subject a caller could choose.

use crate::membership::store::Store;
use crate::mesh::Mesh;
use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::subject;
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
}

/// Subscribes to this machine's commands.
pub async fn subscribe(mesh: &Mesh, store: &Store) -> Result<Subscriber, async_nats::SubscribeError> {
    let network = mesh.network();
    store.client().subscribe(subject::rpc_all(&network.id, &network.machine.id)).await
}

/// Answers them, until the subscription ends.
pub async fn answer(mesh: &Arc<Mesh>, store: &Store, mut requests: Subscriber) {
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
            _ => {}
        }
        let answer = match serde_json::from_slice(&request.payload) {
            Ok(command) => handle(mesh, command).await,
            Err(error) => Answer { ok: false, message: format!("unknown command: {error}") },
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let _ = store.client().publish(reply, Bytes::from(text)).await;
        let _ = store.client().flush().await;
    }
}

/// Asks one machine.
pub async fn ask(store: &Store, machine: &MachineId, command: &Command) -> Result<Answer, String> {
    let name = match command {
        Command::Ping => "ping",
        Command::PrepareDestroy { .. } => "mesh.prepare_destroy",
        Command::ExecuteDestroy { .. } => "mesh.execute_destroy",
    };
    let text = serde_json::to_vec(command).map_err(|error| error.to_string())?;
    let to = subject::rpc(store.network(), machine, name);
    let asked = store.client().request(to, Bytes::from(text));
    let reply = match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => return Err(format!("no answer within {}s", PATIENCE.as_secs())),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(reply)) => reply,
    };
    serde_json::from_slice(&reply.payload).map_err(|error| error.to_string())
}

async fn handle(mesh: &Arc<Mesh>, command: Command) -> Answer {
    let own = mesh.network().id;
    let yes = Answer { ok: true, message: String::new() };
    match command {
        Command::Ping => yes,
        Command::PrepareDestroy { network } | Command::ExecuteDestroy { network } if network != own => {
            Answer { ok: false, message: "NETWORK_MISMATCH: this machine is in another network".into() }
        }
        Command::PrepareDestroy { .. } => no_workloads(mesh).await.err().unwrap_or(yes),
        Command::ExecuteDestroy { .. } => {
            if let Err(refusal) = no_workloads(mesh).await {
                return refusal;
            }
            // On disk before the answer: a daemon that dies now finishes it at its next start.
            match mesh.change_network(|network| network.lifecycle = crate::disk::Stored::Leaving) {
                Err(error) => Answer { ok: false, message: ployz_netns::chain(&error) },
                Ok(_) => {
                    tracing::warn!("the network is being destroyed on the word of a peer");
                    mesh.leave.notify_one();
                    yes
                }
            }
        }
    }
}

async fn no_workloads(mesh: &Mesh) -> Result<(), Answer> {
    match crate::daemon::workloads(mesh).await {
        Some(0) => Ok(()),
        Some(n) => Err(Answer {
            ok: false,
            message: format!("WORKLOADS_RUNNING: {n} workloads depend on the overlay"),
        }),
        None => {
            Err(Answer { ok: false, message: "WORKLOADS_RUNNING: its workloads cannot be counted".into() })
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
