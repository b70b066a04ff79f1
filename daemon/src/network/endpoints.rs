//! Keeping this machine's own candidates true: its addresses, and how its peers see it.

use crate::network::context::Network;
use crate::network::sync;
use crate::node::environment::NETNS;
use crate::state::NetworkFile;
use crate::{http, reach};
use hyper::Method;
use ployz_core::address::{Observed, candidates, offered};
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
    let seen = underlay::observe().await?;
    Ok(offer(&mesh.network(), &mesh.shared.around.config, &seen, reflected))
}

/// What this machine offers of the addresses that it has and that peers see it at: none of the overlay's own.
fn offer(
    network: &NetworkFile,
    config: &Config,
    seen: &[Observed],
    reflected: &[SocketAddr],
) -> Vec<SocketAddr> {
    let (v6, v4) = (network.prefix().net(), network.plan.cluster_cidr);
    let overlay = move |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => v4.contains(ip),
        IpAddr::V6(ip) => v6.contains(ip),
    };
    let found = candidates(seen, reflected, config.wireguard_listen_port, overlay);
    named_first(config, &found)
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

/// What this machine offers: the endpoints of its configuration, then those that were found.
pub fn named_first(config: &Config, found: &[SocketAddr]) -> Vec<SocketAddr> {
    let named = config.advertise_endpoints.iter().map(|named| named.at(config.wireguard_listen_port));
    offered(named, found)
}

/// Enough to learn the address behind a NAT; asking two hundred machines would not tell more.
const ASKED: usize = 5;
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
const DEBOUNCE: Duration = Duration::from_secs(2);
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{Machine, Server, member};

    #[test]
    fn addresses_of_the_overlay_are_not_offered_and_configured_ones_come_first() {
        let machine = Machine::founder("offer");
        let network = machine.mesh.network();
        let seen =
            |address: IpAddr| Observed { interface: "eth0".into(), kind: None, mtu: 1500, up: true, address };
        let own = network.machine.overlay_ip.into();
        let (bridge, real) = (network.subnet().bridge().into(), [198, 51, 100, 1].into());
        let config = &machine.mesh.shared.around.config;
        let port = config.wireguard_listen_port;
        let at = |ip: [u8; 4]| SocketAddr::from((ip, port));
        let offered = offer(&network, config, &[seen(own), seen(bridge), seen(real)], &[]);
        assert_eq!(offered, [at([192, 0, 2, 7]), at([198, 51, 100, 1])]);
    }

    #[tokio::test]
    async fn new_addresses_are_on_disk_at_once_and_in_the_store_as_soon_as_it_is_there() {
        let (server, machine) = (Server::start("endpoints"), Machine::founder("endpoints-n1"));
        let mesh = &machine.mesh;
        refresh(mesh).await.unwrap();
        let now = mesh.network().machine;
        assert_eq!(now.endpoints[0], SocketAddr::from(([192, 0, 2, 7], 51820)));
        let on_disk = mesh.shared.disk.network(&mesh.network().name).unwrap().unwrap();
        assert_eq!(on_disk.machine, now);
        let store = server.store(&mesh.network().id).await;
        let old =
            ployz_core::wire::v1::record::MachineMembership { endpoints: member(1).endpoints, ..now.clone() };
        let first = store.create_machine(&old).await.unwrap();
        mesh.store.send_replace(Some(store.clone()));
        // The publication that failed before is made up for, although nothing changes now.
        refresh(mesh).await.unwrap();
        let stored = store.machine(&now.id).await.unwrap().unwrap();
        assert_eq!(stored.value.endpoints, now.endpoints);
        assert!(stored.revision > first);
    }

    #[tokio::test]
    async fn what_a_machine_saw_goes_with_its_membership() {
        let mut machine = Machine::founder("reflected");
        machine.knows(&[2]);
        let at: SocketAddr = ([203, 0, 113, 1], 51820).into();
        for number in [2, 3] {
            machine.mesh.reflected().insert(member(number).id, at);
        }
        ask_peers(&machine.mesh).await;
        assert_eq!(machine.mesh.reflected().keys().cloned().collect::<Vec<_>>(), [member(2).id]);
    }
}
