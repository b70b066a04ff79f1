//! Which ports of the gateway the routes of the cluster ask for: learned from the routing events, as gateway and DNS learn
//! theirs, kept on disk, and passed on in steps, because each step restarts the gateway.

use crate::network::asked::{Asked, Ports, snapshot};
use crate::network::context::Network;
use crate::node::supervisor::ports::{has_ipv6, taken};
use ployz_core::adopt::Trigger;
use ployz_core::wire::v1::subject::CLIENT_PORT;
use ployz_nats::events::{Feed, Seed, Settings, Snapshot};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Starts to follow the routes. What is on disk is known at once.
pub fn follow(mesh: &Network) -> Feed<Ports> {
    let network = mesh.network();
    let path = snapshot(&mesh.shared.disk, &network);
    Feed::start(Settings {
        server: SocketAddr::new(IpAddr::V6(network.machine.overlay_ip), CLIENT_PORT),
        seed: Seed::from(mesh.keys.nats_seed.expose().to_owned()),
        network: network.id.clone(),
        machine: network.machine.id.clone(),
        follower: "daemon",
        snapshot: Some(path),
    })
}

/// Passes on what the routes ask for, until the network is left.
pub async fn run(mesh: Arc<Network>, feed: Feed<Ports>) {
    // Cancel-safe: whatever was not passed on is asked for again by the next daemon.
    tokio::select! {
        () = mesh.cancel.cancelled() => {}
        () = pass_on(&mesh, feed.watch()) => tracing::error!("no longer following the ports of TCP routes"),
        () = look_again(&mesh) => {}
    }
    feed.stop().await;
}

async fn pass_on(mesh: &Network, mut snapshots: watch::Receiver<Arc<Snapshot<Ports>>>) {
    let mut pace = Pace::default();
    loop {
        let asked = Asked::of(&snapshots.borrow_and_update());
        let due = pace.due(asked != *mesh.asked.borrow(), Instant::now());
        // Cancel-safe: a change that is not heard now is seen by the next look at the snapshot.
        let changed = match due {
            None => snapshots.changed().await,
            Some(due) => match tokio::time::timeout_at(due, snapshots.changed()).await {
                Ok(changed) => changed,
                Err(_) => {
                    mesh.asked.send_replace(asked);
                    pace.passed_on(Instant::now());
                    mesh.request_reconcile(Trigger::TcpRoutesChanged);
                    continue;
                }
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A port that another program held may be free by now.
async fn look_again(mesh: &Network) {
    loop {
        tokio::time::sleep(PORT_CHECK_INTERVAL).await;
        let outcome = mesh.outcome.borrow().clone();
        let refused = outcome.as_ref().and_then(|outcome| Some(&outcome.live.gateway.present()?.refused));
        let around = &mesh.shared.around;
        let wanted = mesh.asked.borrow().sockets(&around.config, has_ipv6()).wanted;
        // Without systemd one of IPv6 waits for the next start of the gateway, and not for its port alone.
        let tried = wanted.iter().filter(|socket| around.is_system() || !socket.v6_only);
        let mut waiting = tried.filter(|socket| refused.is_some_and(|all| all.contains_key(&socket.purpose)));
        if waiting.any(|socket| taken(socket).is_none()) {
            mesh.request_reconcile(Trigger::PortFreed);
        }
    }
}

/// When a change is passed on: once nothing more has come for a while, and never soon after the one before.
#[derive(Debug, Default)]
struct Pace {
    first: Option<Instant>,
    passed_on: Option<Instant>,
}

impl Pace {
    /// `differs`: whether there is something to pass on, asked after each change.
    fn due(&mut self, differs: bool, now: Instant) -> Option<Instant> {
        if !differs {
            self.first = None;
            return None;
        }
        let first = *self.first.get_or_insert(now);
        let due = (now + DEBOUNCE).min(first + DEBOUNCE_MAX);
        Some(self.passed_on.map_or(due, |at| due.max(at + CHANGE_INTERVAL_MIN)))
    }

    fn passed_on(&mut self, now: Instant) {
        *self = Self { passed_on: Some(now), ..Self::default() };
    }
}

const DEBOUNCE: Duration = Duration::from_millis(500);
const DEBOUNCE_MAX: Duration = Duration::from_secs(3);
/// Ten deploys are not ten restarts.
const CHANGE_INTERVAL_MIN: Duration = Duration::from_secs(5);
const PORT_CHECK_INTERVAL: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_follow_one_another_are_passed_on_together() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.due(true, at(0)), Some(at(500)));
        assert_eq!(pace.due(true, at(400)), Some(at(900)));
        assert_eq!(pace.due(true, at(2_900)), Some(at(3_000)), "not for ever");
        pace.passed_on(at(3_000));
        assert_eq!(pace.due(false, at(3_000)), None);
        assert_eq!(pace.due(true, at(3_100)), Some(at(8_000)), "not soon after the one before");
        assert_eq!(pace.due(false, at(3_200)), None, "taken back in time");
        assert_eq!(pace.due(true, at(60_000)), Some(at(60_500)));
    }
}
