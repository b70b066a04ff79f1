//! Drift is noticed when it happens: link, address, route and nftables changes ask for a reconciliation.

use crate::mesh::Mesh;
use ployz_netns::watch::Events;
use std::sync::Arc;
use std::time::Duration;

/// Listens to both namespaces, for ever.
pub async fn run(mesh: Arc<Mesh>) {
    loop {
        match ployz_netns::watch::open(crate::mesh::desired::NETNS) {
            Ok(mut events) => {
                // What happened before the subscription is for one look.
                mesh.nudge("watching");
                listen(&mesh, &mut events).await;
            }
            Err(error) => tracing::debug!("cannot watch: {}", ployz_netns::chain(&error)),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Passes changes on until the namespace is another one.
async fn listen(mesh: &Mesh, events: &mut Events) {
    let id = mesh.netns_id();
    while let Some(what) = events.next().await {
        mesh.nudge(what);
        // What our own repair causes comes in now, and perhaps somebody else's next change with it: look once more,
        // and ever less often while it does not stop.
        let mut pause = BURST;
        loop {
            tokio::time::sleep(pause).await;
            if !events.drain() {
                break;
            }
            mesh.nudge(what);
            pause = (pause * 2).min(LONGEST);
        }
        if mesh.netns_id() != id {
            return;
        }
    }
}

const BURST: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
