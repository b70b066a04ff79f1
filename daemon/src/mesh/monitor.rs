//! Drift is noticed when it happens: link, address, route and nftables changes ask for a reconciliation.

use crate::mesh::Mesh;
use std::sync::Arc;
use std::time::Duration;

/// Listens to both namespaces, for ever.
pub async fn run(mesh: Arc<Mesh>) {
    loop {
        match ployz_netns::watch::open(crate::mesh::desired::NETNS) {
            Ok(mut events) => {
                let id = mesh.usable_netns();
                while let Some(what) = events.next().await {
                    mesh.nudge(what);
                    // The burst of one change, and what our own run causes, is one event.
                    tokio::time::sleep(BURST).await;
                    events.drain();
                    if mesh.usable_netns() != id {
                        break;
                    }
                }
            }
            Err(error) => tracing::debug!("cannot watch: {}", ployz_netns::chain(&error)),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

const BURST: Duration = Duration::from_millis(300);
const AGAIN: Duration = Duration::from_secs(1);
