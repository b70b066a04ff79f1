//! Drift is noticed when it happens: link, address, route and nftables changes ask for a reconciliation.

use crate::network::context::Network;
use crate::network::listener::until_moved;
use ployz_core::adopt::Trigger;
use ployz_host::backoff::Backoff;
use ployz_netns::watch::Events;
use std::sync::Arc;
use std::time::Duration;

/// Listens to both namespaces, for ever.
pub async fn run(mesh: Arc<Network>) {
    loop {
        let id = mesh.netns_id();
        match (id, ployz_netns::watch::open(crate::node::environment::NETNS)) {
            (Some(id), Ok(mut events)) => {
                // What happened before the subscription is for one look.
                mesh.request_reconcile(Trigger::Subscribed);
                // Cancel-safe: a change that is not passed on is found by the look that follows the next subscription.
                tokio::select! {
                    () = listen(&mesh, &mut events) => {}
                    () = until_moved(&mesh, id) => {}
                }
            }
            (_, Err(error)) => {
                tracing::debug!(error = %ployz_core::text::chain(&error), "cannot watch the kernel")
            }
            (None, _) => {}
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Passes changes on until a socket breaks.
async fn listen(mesh: &Network, events: &mut Events) {
    while let Some(event) = events.next().await {
        mesh.request_reconcile(Trigger::KernelEvent(event));
        // What our own repair causes comes in now, and perhaps somebody else's next change with it: look once more,
        // and ever less often while it does not stop.
        let mut backoff = Backoff::new(BURST_DELAY, BURST_DELAY_MAX);
        loop {
            tokio::time::sleep(backoff.delay()).await;
            if !events.drain() {
                break;
            }
            mesh.request_reconcile(Trigger::KernelEvent(event));
        }
    }
}

const BURST_DELAY: Duration = Duration::from_millis(300);
const BURST_DELAY_MAX: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(500);
