//! What one ployzd asks another about the network itself, request and reply over the store's connection
//! ([`crate::wire::v1::subject::rpc`]).

use crate::id::{NetworkId, OperationId};
use serde::{Deserialize, Serialize};

/// A command to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum PeerCommand {
    /// Whether its ployzd answers, and which run of it.
    Ping,
    /// Whether it could leave this network now.
    PrepareDestroy {
        /// Which.
        network: NetworkId,
        /// The operation, drawn at random by the machine that asks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<OperationId>,
    },
    /// To leave it.
    ExecuteDestroy {
        /// Which.
        network: NetworkId,
        /// The operation that this machine was asked to prepare for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<OperationId>,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAnswer {
    /// Whether it was done or would be.
    pub ok: bool,
    /// Why not.
    pub message: String,
    /// The run that answers a ping: it changes with a restart of its ployzd and with a new session with the store. What an
    /// earlier run was asked may never be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

impl PeerCommand {
    /// The command's name in its subject.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::PrepareDestroy { .. } => "mesh.prepare_destroy",
            Self::ExecuteDestroy { .. } => "mesh.execute_destroy",
        }
    }
}

impl PeerAnswer {
    /// It was done, or would be.
    pub fn yes() -> Self {
        Self { ok: true, message: String::new(), run: None }
    }

    /// It was not, or would not be.
    pub fn no(message: impl Into<String>) -> Self {
        Self { ok: false, message: message.into(), run: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_names_no_run_is_understood() {
        let older: PeerAnswer = serde_json::from_str(r#"{"ok":true,"message":""}"#).unwrap();
        assert_eq!(older, PeerAnswer::yes());
        assert_eq!(serde_json::to_string(&older).unwrap(), r#"{"ok":true,"message":""}"#);
        let named = PeerAnswer { run: Some("0f".into()), ..PeerAnswer::yes() };
        let text = serde_json::to_string(&named).unwrap();
        assert_eq!(serde_json::from_str::<PeerAnswer>(&text).unwrap(), named);
    }
}
