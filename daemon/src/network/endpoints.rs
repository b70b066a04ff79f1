//! Keeping this machine's own candidates true: its addresses, and how its peers see it.

use crate::network::context::Network;
use crate::network::sync;
use crate::node::environment::NETNS;
use crate::{http, reach};
use hyper::Method;
use ployz_core::address::{candidates, offered};
use ployz_core::config::Config;
use ployz_core::wire::v1::join::{ObservedResponse, PORT};
use ployz_netns::{namespace, underlay};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

/// Looks, asks and publishes, for ever.
pub async fn run(mesh: Arc<Network>) {
    let mut reconciled = mesh.outcome.subscribe();
    loop {
        ask_peers(&mesh).await;
        if let Err(error) = refresh(&mesh).await {
            tracing::warn!(%error, "cannot update this machine's endpoints");
        }
        // A change of links or addresses leads to a reconciliation, and so back here at once.
        let _ = tokio::time::timeout(RESYNC_INTERVAL, reconciled.changed()).await;
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Brings the record on disk and in the store to the addresses that there are now.
async fn refresh(mesh: &Arc<Network>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let reflected: Vec<SocketAddr> = mesh.reflected().values().copied().collect();
    let endpoints = current(mesh, &reflected).await?;
    let before = mesh.network().machine.endpoints;
    if endpoints.is_empty() {
        return Ok(());
    }
    if endpoints != before {
        let words = |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        tracing::info!(before = words(&before), now = words(&endpoints), "this machine's endpoints changed");
        mesh.change_network(|network| network.machine.endpoints = endpoints.clone())?;
    }
    // A publication that failed is repeated until the store says the same.
    let own = mesh.network().machine.id;
    let published = mesh.peers.borrow().machines.iter().any(|m| m.id == own && m.endpoints == endpoints);
    if published {
        return Ok(());
    }
    let store = mesh.store.borrow().clone();
    if let Some(store) = store {
        sync::publish(&store, mesh).await?;
    }
    Ok(())
}

async fn current(mesh: &Network, reflected: &[SocketAddr]) -> ployz_netns::Result<Vec<SocketAddr>> {
    let network = mesh.network();
    let (v6, v4) = (network.prefix().net(), network.plan.cluster_cidr);
    let overlay = move |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => v4.contains(ip),
        IpAddr::V6(ip) => v6.contains(ip),
    };
    let config = &mesh.shared.around.config;
    let seen = underlay::observe().await?;
    let found = candidates(&seen, reflected, config.wireguard_listen_port, overlay);
    Ok(named_first(config, &found))
}

async fn ask_peers(mesh: &Arc<Network>) {
    let network = mesh.network();
    let peers = mesh.peers.borrow().machines.clone();
    let now = mesh.millis();
    let asked = peers
        .iter()
        .filter(|peer| peer.id != network.machine.id && mesh.path(&peer.public_key).reachable(now))
        .take(ASKED);
    for peer in asked {
        let to = SocketAddrV6::new(peer.overlay_ip, PORT, 0, 0);
        if let Ok(Some(seen)) = tokio::time::timeout(OBSERVE_TIMEOUT, observed(to)).await {
            mesh.reflected().insert(peer.id.clone(), seen);
        }
    }
    let known = |id: &_| peers.iter().any(|peer| &peer.id == id);
    mesh.reflected().retain(|id, _| known(id));
}

async fn observed(to: SocketAddrV6) -> Option<SocketAddr> {
    let stream = reach::connect(&namespace::path(NETNS), SocketAddr::V6(to)).await.ok()?;
    let (status, body) = http::exchange(stream, Method::GET, "/v1/observed", None::<&()>).await.ok()?;
    let answer: ObservedResponse = serde_json::from_slice(&body).ok()?;
    answer.endpoint.filter(|_| status.is_success())
}

/// Enough to learn the address behind a NAT; asking two hundred machines would not tell more.
/// What this machine offers: the endpoints of its configuration, then those that were found.
pub fn named_first(config: &Config, found: &[std::net::SocketAddr]) -> Vec<std::net::SocketAddr> {
    let named = config.advertise_endpoints.iter().map(|named| named.at(config.wireguard_listen_port));
    offered(named, found)
}

const ASKED: usize = 5;
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
const DEBOUNCE: Duration = Duration::from_secs(2);
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(2);
