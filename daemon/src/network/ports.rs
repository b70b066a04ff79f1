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
        plan: Some(network.plan),
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
    use crate::network::tests::Machine;
    use ployz_core::adopt::Seen;
    use ployz_core::routing::Freshness;

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

    fn routes(ports: &[u16], freshness: Freshness) -> Arc<Snapshot<Ports>> {
        Arc::new(Snapshot { view: Arc::new(Ports(ports.iter().copied().collect())), freshness, sequence: 1 })
    }

    #[tokio::test(start_paused = true)]
    async fn routes_that_come_one_after_another_restart_the_gateway_once() {
        let mut machine = Machine::founder("pass-on");
        let (snapshots, seen) = watch::channel(routes(&[], Freshness::Empty));
        let mesh = machine.mesh.clone();
        let passing = tokio::spawn(async move { pass_on(&mesh, seen).await });
        for port in 5001..5005 {
            let ports: Vec<u16> = (5001..=port).collect();
            snapshots.send_replace(routes(&ports, Freshness::Live));
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        assert!(machine.mesh.asked.borrow().ports.is_empty());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(machine.mesh.asked.borrow().ports.len(), 4);
        assert_eq!(machine.asked(), [Trigger::TcpRoutesChanged]);
        // The link is lost and comes back: what is asked for is the same, and only whether it is all is not.
        snapshots.send_replace(routes(&[5001], Freshness::Live));
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(machine.asked().is_empty(), "not soon after the one before");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(machine.asked(), [Trigger::TcpRoutesChanged]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(machine.asked().is_empty() && !passing.is_finished());
        drop(snapshots);
        passing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_was_taken_is_asked_for_when_it_is_free() {
        let mut machine = Machine::founder("freed");
        let mesh = machine.mesh.clone();
        let holder = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        mesh.asked.send_replace(Asked { ports: [port].into(), live: true });
        mesh.reconcile(Trigger::Startup).await;
        let refused = |purpose: String| {
            let mut outcome = (**mesh.outcome.borrow().as_ref().unwrap()).clone();
            let Seen::Present(gateway) = &mut outcome.live.gateway else { panic!("no gateway") };
            gateway.refused.insert(purpose, "another program listens".into());
            mesh.outcome.send_replace(Some(Arc::new(outcome)));
        };
        let looking = {
            let mesh = mesh.clone();
            tokio::spawn(async move { look_again(&mesh).await })
        };
        refused(format!("tcp-{port}"));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(machine.asked().is_empty(), "it is still taken");
        drop(holder);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(machine.asked(), [Trigger::PortFreed]);
        mesh.reconcile(Trigger::PortFreed).await;
        let mut good = (**mesh.outcome.borrow().as_ref().unwrap()).clone();
        if let Seen::Present(gateway) = &mut good.live.gateway {
            gateway.refused.clear();
        }
        mesh.outcome.send_replace(Some(Arc::new(good)));
        machine.asked();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(machine.asked().is_empty(), "nothing waits for it");
        looking.abort();
    }
}
