//! Commands between machines: request and reply over the store's connection. Nobody there is an immediate, named
//! failure; answers go only to inboxes, never to a subject a caller could choose.

use crate::membership::store::Store;
use crate::mesh::Mesh;
use bytes::Bytes;
use futures_util::StreamExt;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::subject;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

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

/// Serves this machine's commands until aborted.
pub async fn serve(mesh: Arc<Mesh>, store: Store) -> Result<JoinHandle<()>, async_nats::SubscribeError> {
    let network = mesh.network();
    let mut requests = store.client().subscribe(subject::rpc_all(&network.id, &network.machine.id)).await?;
    Ok(tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply.filter(|reply| reply.starts_with("_INBOX.")) else { continue };
            let answer = match serde_json::from_slice(&request.payload) {
                Ok(command) => handle(&mesh, command),
                Err(error) => Answer { ok: false, message: format!("unknown command: {error}") },
            };
            let text = serde_json::to_vec(&answer).unwrap_or_default();
            let _ = store.client().publish(reply, Bytes::from(text)).await;
            let _ = store.client().flush().await;
        }
    }))
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

fn handle(mesh: &Arc<Mesh>, command: Command) -> Answer {
    let own = mesh.network().id;
    let yes = Answer { ok: true, message: String::new() };
    match command {
        Command::Ping => yes,
        Command::PrepareDestroy { network } | Command::ExecuteDestroy { network } if network != own => {
            Answer { ok: false, message: "NETWORK_MISMATCH: this machine is in another network".into() }
        }
        Command::PrepareDestroy { .. } => match crate::daemon::workloads(mesh) {
            0 => yes,
            n => Answer {
                ok: false,
                message: format!("WORKLOADS_RUNNING: {n} workloads depend on the overlay"),
            },
        },
        Command::ExecuteDestroy { .. } => {
            tracing::warn!("the network is being destroyed on the word of a peer");
            mesh.leave.notify_one();
            yes
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
