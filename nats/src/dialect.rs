//! By which names the store is asked: those of the accounts' borders, or JetStream's own.
//!
//! Where the store has an account of its own, others reach it only through what that account exports, and the server
//! answers across the border: no asker names a subject that is written to. An account's own `$JS.API.>` is taken
//! (nats-server 2.15.1), so what is imported has names below [`PREFIX`].

use async_nats::jetstream::{self, Context};
use async_nats::{Client, jetstream::ContextBuilder};
use ployz_core::wire::v1::subject::DOMAIN;
use std::time::Duration;

/// How a connection asks the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Through the domain, in one account with the store. Changes come from consumers.
    Domain,
    /// Across the border of the store's account. Changes come from what its streams republish.
    Border,
}

impl Dialect {
    /// What this connection is answered in: asks for the state of a stream that its user may read.
    pub async fn of(client: &Client, stream: &str) -> Self {
        let asked = client.request(format!("{PREFIX}.STREAM.INFO.{stream}"), "".into());
        match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
            Ok(Ok(_)) => Self::Border,
            // No service answers there, or it may not ask: a server of the build before.
            _ => Self::Domain,
        }
    }

    /// The library's entry to the store.
    pub(crate) fn context(self, client: &Client) -> Context {
        match self {
            Self::Domain => jetstream::with_domain(client.clone(), DOMAIN),
            Self::Border => ContextBuilder::new().api_prefix(PREFIX).build(client.clone()),
        }
    }

    /// The subject of a bucket's key, to write it.
    pub(crate) fn key(self, bucket: &str, key: &str) -> String {
        match self {
            Self::Domain => format!("$JS.{DOMAIN}.API.$KV.{bucket}.{key}"),
            Self::Border => format!("{PREFIX}.$KV.{bucket}.{key}"),
        }
    }
}

/// Where a stream says again what was written to it, followed by the subject of the message.
pub(crate) fn live(stream: &str) -> String {
    format!("{LIVE}.{stream}")
}

/// What comes before the name of a call of the JetStream API at a border.
pub const PREFIX: &str = "ployz.store";
/// What comes before the name of a stream in what it republishes.
const LIVE: &str = "ployz.live";
/// Longer than an answer across an ocean takes; a wrong guess is corrected by the next session.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
