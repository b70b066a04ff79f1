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
use prometheus_client::encoding::text::encode;
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
    let mut told = false;
    loop {
        let error = match tokio::net::TcpListener::bind(at).await {
            Ok(listener) => {
                tracing::info!("serving metrics on http://{at}/metrics");
                return bounded::serve(listener, router.clone(), LIMITS).await;
            }
            Err(error) => error,
        };
        if !told {
            tracing::error!("cannot serve metrics on {at}: {error}; retrying every {}s", AGAIN.as_secs());
            told = true;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn scrape(State(daemon): State<Arc<Daemon>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        text(&daemon).await,
    )
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
        page.peers(&mesh).await;
        let refused = images.transfers.refused() as f64;
        let help = "Connections to the transfer port that were closed without a transfer";
        page.value("transfer_connections_refused", help, refused);
    }
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = encode(&mut text, &page.registry);
    text
}

struct Page {
    registry: Registry,
}

impl Page {
    fn value(&mut self, name: &'static str, help: &'static str, value: f64) {
        let gauge = Value::default();
        gauge.set(value);
        self.registry.register(name, help, gauge);
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

    async fn peers(&mut self, mesh: &Network) {
        let peers = running_status(mesh).await.peers;
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
        of_each("peer_received_bytes", "Bytes received from a peer", &|peer| Some(peer.rx_bytes as f64));
        of_each("peer_sent_bytes", "Bytes sent to a peer", &|peer| Some(peer.tx_bytes as f64));
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
const AGAIN: Duration = Duration::from_secs(5);
