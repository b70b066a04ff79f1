//! What ployzd says to Prometheus: `GET /metrics` on `daemon_metrics_listen_addr`, in the host's namespace.
//!
//! Every value is read when it is asked for; nothing is counted here, so a scrape can neither slow nor grow the daemon.
//! An address that cannot be had is tried again and again: it must not keep the daemon from its work.

use crate::api::handle::running_status;
use crate::bounded::{self, Limits};
use crate::lifecycle::{Daemon, Rooms};
use crate::network::context::Network;
use crate::network::ready;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use ployz_core::wire::v1::api::PeerStatus;
use ployz_host::clock;
use ployz_host::page;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Serves for ever.
pub async fn serve(at: SocketAddr, daemon: Arc<Daemon>) {
    let router = Router::new().route("/metrics", get(scrape)).with_state(daemon);
    let mut reported = false;
    loop {
        let error = match tokio::net::TcpListener::bind(at).await {
            Ok(listener) => {
                tracing::info!(address = %at, "serving metrics");
                return bounded::serve(listener, router.clone(), LIMITS).await;
            }
            Err(error) => error,
        };
        if !reported {
            tracing::error!(
                address = %at,
                retry_secs = RETRY_DELAY.as_secs(),
                %error,
                "cannot serve metrics, retrying"
            );
            reported = true;
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn scrape(State(daemon): State<Arc<Daemon>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], text(&daemon).await)
}

type Labels = Vec<(&'static str, String)>;
type Value = Gauge<f64, AtomicU64>;

async fn text(daemon: &Daemon) -> String {
    let mut page = Page { registry: Registry::with_prefix("ployz") };
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.labelled("build_info", "The running version", [(version, 1.0)]);
    page.value("start_time_seconds", "Start time of ployzd (Unix time)", daemon.started_at as f64);
    let rooms = daemon.rooms().ok();
    page.value("network_running", "Whether a network is running here", flag(rooms.is_some()));
    if let Some(Rooms { network: mesh, images, .. }) = rooms {
        page.health(&mesh);
        page.components(daemon);
        page.peers(&running_status(&mesh).await.peers);
        let help = "Connections to the transfer port that were closed without a transfer";
        page.count("transfer_connections_refused", help, images.transfers.refused());
    }
    page.text()
}

struct Page {
    registry: Registry,
}

impl Page {
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn value(&mut self, name: &'static str, help: &'static str, value: f64) {
        let gauge = Value::default();
        gauge.set(value);
        self.registry.register(name, help, gauge);
    }

    /// `_total` is added to the name.
    fn count(&mut self, name: &'static str, help: &'static str, count: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(count);
        self.registry.register(name, help, counter);
    }

    fn labelled(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let family = Family::<Labels, Value>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    fn health(&mut self, mesh: &Network) {
        let ready = ready::check(mesh);
        let network = mesh.network();
        let named = vec![("network", network.name.to_string()), ("machine", network.machine.id.to_string())];
        self.labelled("network_info", "The running network and this machine's name in it", [(named, 1.0)]);
        self.value("ready", "Whether the mesh is ready, as in `ployzctl mesh ready`", flag(ready.ready));
        let phase = vec![("phase", ready.phase.to_string())];
        self.labelled("phase", "Phase of the network's start", [(phase, 1.0)]);
        self.value("store_connected", "Whether the store is connected", flag(ready.sync_connected));
        let since = mesh.sync.borrow().since.map_or(0, |since| clock::now().saturating_sub(since));
        self.value("store_away_seconds", "How long the store has been away", since as f64);
    }

    fn components(&mut self, daemon: &Daemon) {
        let Some(run) = daemon.shared.reconciler.history().pop() else { return };
        let parts = run.components.iter().map(|part| {
            let labels = vec![("component", part.component.to_string()), ("verdict", part.verdict.clone())];
            (labels, flag(part.outcome == "ok"))
        });
        self.labelled("component_ok", "Whether a component is as it should be", parts);
        let (took, at) = (run.took_ms as f64 / 1000.0, run.at as f64);
        self.value("reconcile_last_duration_seconds", "Duration of the last reconciliation", took);
        self.value("reconcile_last_time_seconds", "When the last reconciliation was", at);
    }

    fn peers(&mut self, peers: &[PeerStatus]) {
        let mut of_each = |name, help, value: &dyn Fn(&PeerStatus) -> Option<f64>| {
            let known =
                peers.iter().filter_map(|peer| Some((vec![("peer", peer.id.to_string())], value(peer)?)));
            self.labelled(name, help, known);
        };
        of_each("peer_reachable", "Whether a peer is reachable over the overlay", &|peer| {
            Some(flag(peer.reachable))
        });
        of_each("peer_handshake_age_seconds", "Time since the last WireGuard handshake", &|peer| {
            peer.handshake_age_secs.map(|age| age as f64)
        });
        of_each("peer_rtt_seconds", "Round trip over the overlay", &|peer| peer.rtt_ms.map(|ms| ms / 1000.0));
        let mut bytes = |name, help, value: &dyn Fn(&PeerStatus) -> u64| {
            let family = Family::<Labels, Counter<u64>>::default();
            for peer in peers {
                family.get_or_create(&vec![("peer", peer.id.to_string())]).inc_by(value(peer));
            }
            self.registry.register(name, help, family);
        };
        bytes("peer_received_bytes", "Bytes received from a peer", &|peer| peer.rx_bytes);
        bytes("peer_sent_bytes", "Bytes sent to a peer", &|peer| peer.tx_bytes);
    }
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// All scrapers of a machine may come from one address, a proxy's.
const LIMITS: Limits = Limits {
    connections: 32,
    per_source: 16,
    reading: Duration::from_secs(5),
    whole: Duration::from_secs(30),
    body: 1024,
};
const RETRY_DELAY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_end_in_total_and_gauges_do_not() {
        let peer = PeerStatus {
            id: "n2".parse().unwrap(),
            public_key: ployz_core::key::PublicKey::from_bytes([7; 32]),
            overlay_ip: "fd00::2".parse().unwrap(),
            subnet: "10.101.1.0/24".to_owned(),
            endpoint: None,
            candidates: Vec::new(),
            handshake_age_secs: None,
            rx_bytes: 12,
            tx_bytes: 34,
            rtt_ms: Some(1.5),
            reachable: true,
        };
        let mut page = Page { registry: Registry::with_prefix("ployz") };
        page.peers(&[peer]);
        page.count("transfer_connections_refused", "Help", 3);
        let text = page.text();
        for line in [
            "# TYPE ployz_peer_received_bytes counter\nployz_peer_received_bytes_total{peer=\"n2\"} 12\n",
            "ployz_peer_sent_bytes_total{peer=\"n2\"} 34\n",
            "# TYPE ployz_peer_reachable gauge\nployz_peer_reachable{peer=\"n2\"} 1.0\n",
            "ployz_peer_rtt_seconds{peer=\"n2\"} 0.0015\n",
            "ployz_transfer_connections_refused_total 3\n",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        assert!(!text.contains("handshake_age_seconds{"), "a handshake that never was:\n{text}");
    }
}
