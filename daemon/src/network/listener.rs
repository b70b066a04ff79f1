//! The membership listener on this machine's overlay address: made inside the namespace, made again when the
//! namespace is.

use crate::bounded::{self, Limits};
use crate::network::context::Network;
use crate::node::environment::NETNS;
use crate::reach;
use ployz_core::live::NsId;
use ployz_core::wire::v1::join::PORT;
use ployz_netns::namespace;
use std::net::SocketAddrV6;
use std::sync::Arc;
use std::time::Duration;

/// Listens, for ever.
pub async fn run(mesh: Arc<Network>, routes: axum::Router) {
    loop {
        let Some(id) = mesh.usable_netns() else {
            tokio::time::sleep(BIND_RETRY_DELAY).await;
            continue;
        };
        let at = SocketAddrV6::new(mesh.network().machine.overlay_ip, PORT, 0, 0);
        match reach::listen(&namespace::path(NETNS), at) {
            Ok(listener) => {
                // Dropping the server on a change of namespace cuts only requests that nobody could answer anyway.
                tokio::select! {
                    () = bounded::serve(listener, routes.clone(), LIMITS) => {}
                    () = until_moved(&mesh, id) => {}
                }
            }
            Err(error) => tracing::debug!(address = %at, %error, "cannot listen"),
        }
        tokio::time::sleep(BIND_RETRY_DELAY).await;
    }
}

/// Returns when the namespace is no longer the one of this identity, or is about to be given up: time to let go of
/// every socket in it.
pub async fn until_moved(mesh: &Network, id: NsId) {
    let mut outcomes = mesh.outcome.subscribe();
    let mut given_up = mesh.shared.reconciler.given_up();
    while mesh.netns_id() == Some(id) {
        // Cancel-safe: both only tell that something changed.
        tokio::select! {
            _ = given_up.changed() => return,
            changed = outcomes.changed() => if changed.is_err() { return },
        }
    }
}

/// Every local user of a member reaches this port, and every holder of a token. A redemption waits for the store and for the
/// tunnel, ten seconds at most each.
const LIMITS: Limits = Limits {
    connections: 32,
    per_source: 4,
    reading: Duration::from_secs(5),
    whole: Duration::from_secs(60),
    body: 64 * 1024,
};
const BIND_RETRY_DELAY: Duration = Duration::from_millis(200);
