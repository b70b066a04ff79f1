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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::Machine;
    use ployz_core::adopt::{Seen, Trigger};

    #[tokio::test(start_paused = true)]
    async fn sockets_are_let_go_of_when_the_namespace_is_another_or_is_about_to_be() {
        let machine = Machine::founder("moved");
        let mesh = &machine.mesh;
        assert_eq!(mesh.usable_netns(), None);
        mesh.reconcile(Trigger::Startup).await;
        let id = mesh.usable_netns().unwrap();
        let stays = async |mesh: &Network| {
            tokio::time::timeout(Duration::from_secs(60), until_moved(mesh, id)).await.is_err()
        };
        assert!(stays(mesh).await);
        mesh.reconcile(Trigger::PeriodicResync).await;
        assert!(stays(mesh).await, "the same namespace");
        // A run that makes the namespace afresh announces it before it begins: the fake's is the same one afterwards.
        let waiting = until_moved(mesh, id);
        let removed = async {
            tokio::task::yield_now().await;
            machine.fake.state().live.netns = Seen::Absent;
            mesh.reconcile(Trigger::PeriodicResync).await;
        };
        let both = Box::pin(async { tokio::join!(waiting, removed) });
        tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        let mut other = (**mesh.outcome.borrow().as_ref().unwrap()).clone();
        if let Seen::Present(netns) = &mut other.live.netns {
            netns.id.inode += 1;
        }
        other.live.wireguard = Seen::Absent;
        mesh.outcome.send_replace(Some(Arc::new(other)));
        assert!(!stays(mesh).await, "another namespace");
        assert_eq!(mesh.usable_netns(), None, "no tunnel in it yet");
    }
}
