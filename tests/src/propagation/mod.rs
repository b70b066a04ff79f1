//! How long it takes from the commit of a deploy until every gateway and every DNS server answers as it says.
//!
//! Runs on the founder, as its daemon's user of the store. One process and one clock (`CLOCK_MONOTONIC`): it sees the
//! coordinator's commit and the store's acknowledgement of it pass by as messages, and asks every gateway and DNS server once
//! a millisecond from the one until the answer is the new one. Between commits it asks nobody.

mod answers;
mod figures;
mod fill;
mod follow;

pub use fill::fill;
pub use follow::{Plan, follow};

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use async_nats::{Client, ConnectOptions};
use ployz_core::id::NetworkId;
use serde_json::Value;

/// The store, and whose it is.
pub struct Store {
    client: Client,
    network: NetworkId,
}

impl Store {
    /// Connects with what ployzd keeps of a network in this directory.
    pub async fn connect(server: &str, network: &Path) -> Result<Self> {
        let read = |file: &str| -> Result<Value> {
            let path = network.join(file);
            let text = fs::read(&path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&text).with_context(|| path.display().to_string())
        };
        let id = read("network.json")?["id"].as_str().context("the network's id")?.parse()?;
        let seed = read("keys.json")?["nats_seed"].as_str().context("the seed")?.to_owned();
        let client = ConnectOptions::with_nkey(seed).connect(format!("nats://{server}")).await;
        Ok(Self { client: client.context("connect to the store")?, network: id })
    }
}
