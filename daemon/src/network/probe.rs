//! One ICMPv6 echo a second to every peer over the overlay, and the move to another endpoint when it stays
//! unanswered. The peer's kernel answers, so a peer whose ployzd is down is still seen to be there. The peers' own echoes
//! are listened to: they tell who sends with which key.

use crate::network::context::Network;
use crate::network::identity_watch::{PAYLOAD, Payload};
use crate::network::listener;
use crate::network::twins;
use crate::node::environment::NETNS;
use crate::reach;
use parking_lot::Mutex;
use ployz_core::key::PublicKey;
use ployz_core::live::WireguardLive;
use ployz_core::mesh::path::{SESSION_AGE_MAX_SECS, Tunnel};
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::wire::v1::record::MachineMembership;
use ployz_host::clock;
use ployz_netns::wireguard::{self, DeviceChange};
use ployz_netns::{namespace, wireguard::PeerChange};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// Probes, for ever.
pub async fn run(mesh: Arc<Network>) {
    loop {
        if let Some(id) = mesh.usable_netns() {
            match reach::icmp(&namespace::path(NETNS)) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let sent = Arc::new(Mutex::new(BTreeMap::new()));
                    // Both halves only read and write datagrams: nothing is lost when they are dropped.
                    tokio::select! {
                        () = send(&mesh, &socket, &sent) => {}
                        () = receive(&mesh, &socket, &sent) => {}
                        () = listener::until_moved(&mesh, id) => {}
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot probe peers"),
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

type Sent = Arc<Mutex<BTreeMap<u16, (PublicKey, Ipv6Addr, Instant)>>>;

async fn send(mesh: &Arc<Network>, socket: &UdpSocket, sent: &Sent) {
    let own = mesh.network().machine.overlay_ip;
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sequence: u16 = 0;
    loop {
        ticks.tick().await;
        let peers: Vec<MachineMembership> =
            mesh.peers.borrow().machines.iter().filter(|m| m.overlay_ip != own).cloned().collect();
        let now = Instant::now();
        sent.lock().retain(|_, (.., at)| now.duration_since(*at) < SENT_MAX_AGE);
        for peer in &peers {
            sequence = sequence.wrapping_add(1);
            sent.lock().insert(sequence, (peer.public_key, peer.overlay_ip, Instant::now()));
            mesh.with_path(peer.public_key, |path| path.sent(mesh.millis()));
            let to = SocketAddrV6::new(peer.overlay_ip, 0, 0, 0);
            // ENOKEY and ENETUNREACH say only that there is no path yet.
            let payload = mesh.twins.payload(&peer.public_key, mesh.millis());
            let _ = socket.send_to(&echo_request(sequence, payload), SocketAddr::V6(to)).await;
        }
        twins::look(mesh, &peers).await;
        rotate(mesh, &peers).await;
    }
}

async fn receive(mesh: &Network, socket: &UdpSocket, sent: &Sent) {
    let mut buffer = [0u8; 256];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Some(payload) = echoed(&buffer[..length])
            && let Some(peer) = twins::sender(mesh, from.ip())
        {
            mesh.twins.heard(peer, payload, mesh.millis());
        }
        let Some(sequence) = echo_reply(&buffer[..length]) else { continue };
        let known = sent.lock().remove(&sequence);
        if let Some((key, address, at)) = known
            && from.ip() == IpAddr::V6(address)
        {
            let micros = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
            mesh.with_path(key, |path| path.answered(mesh.millis(), micros));
        }
    }
}

/// Moves the peers whose path is dead. The device is read only when one of them is.
async fn rotate(mesh: &Arc<Network>, peers: &[MachineMembership]) {
    let now = mesh.millis();
    let silent: Vec<_> = peers.iter().filter(|peer| !mesh.path(&peer.public_key).reachable(now)).collect();
    if silent.is_empty() {
        return;
    }
    let netns = namespace::path(NETNS);
    let Some(device) = wireguard::inspect(WG_DEVICE, &netns).await.present().cloned() else { return };
    for peer in silent {
        let Some(tunnel) = tunnel(&device, &peer.public_key) else { continue };
        let next = mesh.with_path(peer.public_key, |path| path.tick(now, tunnel, &peer.endpoints));
        if let Some(endpoint) = next {
            move_to(&device, &netns, peer, tunnel.endpoint, endpoint).await;
        }
    }
}

async fn move_to(
    device: &WireguardLive,
    netns: &Path,
    peer: &MachineMembership,
    from: Option<SocketAddr>,
    to: SocketAddr,
) {
    let from = from.map_or_else(|| "none".to_owned(), |endpoint| endpoint.to_string());
    tracing::info!(peer = %peer.id, from, %to, "the path is dead, moving the endpoint");
    let change = DeviceChange::endpoint(peer.public_key, to);
    debug_assert!(matches!(change.peers.as_slice(), [PeerChange::Set { update_only: true, .. }]));
    if let Err(error) = wireguard::configure(device.backend, WG_DEVICE, netns, &change).await {
        tracing::warn!(peer = %peer.id, error = %ployz_core::text::chain(&error), "cannot move the endpoint");
    }
}

fn tunnel(device: &WireguardLive, key: &PublicKey) -> Option<Tunnel> {
    let stats = &device.peers.get(key)?.stats;
    let age = stats.last_handshake.map(|at| clock::now().saturating_sub(at));
    Some(Tunnel { endpoint: stats.endpoint, session: age.is_some_and(|age| age < SESSION_AGE_MAX_SECS) })
}

/// RFC 4443 section 4.1; the kernel fills in the checksum.
fn echo_request(sequence: u16, payload: Payload) -> [u8; 8 + PAYLOAD] {
    let mut packet = [0u8; 8 + PAYLOAD];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&identifier());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..].copy_from_slice(&payload.to_bytes());
    packet
}

/// What a peer's own probe carries.
fn echoed(packet: &[u8]) -> Option<Payload> {
    match packet {
        [ECHO_REQUEST, 0, _, _, _, _, _, _, payload @ ..] => Payload::read(payload),
        _ => None,
    }
}

fn echo_reply(packet: &[u8]) -> Option<u16> {
    match packet {
        [ECHO_REPLY, 0, _, _, a, b, c, d, ..] if [*a, *b] == identifier() => {
            Some(u16::from_be_bytes([*c, *d]))
        }
        _ => None,
    }
}

fn identifier() -> [u8; 2] {
    let [.., a, b] = std::process::id().to_be_bytes();
    [a, b]
}

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const SENT_MAX_AGE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{Machine, member, until};
    use ployz_core::live::{PeerLive, PeerStats};
    use ployz_core::spec::TunnelBackend;

    fn reply(sequence: u16) -> Vec<u8> {
        let mut packet = echo_request(sequence, Payload { run: 1, says: None });
        packet[0] = ECHO_REPLY;
        packet.to_vec()
    }

    #[test]
    fn requests_of_peers_and_replies_to_this_process_are_told_apart() {
        let payload = Payload { run: 7, says: None };
        let request = echo_request(0x0102, payload);
        assert_eq!(request[..4], [128, 0, 0, 0], "the kernel fills in the checksum");
        assert_eq!((echoed(&request), echo_reply(&request)), (Some(payload), None));
        assert_eq!((echoed(&reply(0x0102)), echo_reply(&reply(0x0102))), (None, Some(0x0102)));
        let mut other = reply(1);
        other[5] ^= 1;
        assert_eq!(echo_reply(&other), None, "ping(8) on the same machine");
        for at in [1, 4] {
            let mut other = reply(1);
            other[at] ^= 1;
            assert_eq!(echo_reply(&other), None);
        }
        let mut error = request;
        error[1] = 1;
        assert_eq!(echoed(&error), None);
        assert_eq!((echoed(&request[..7]), echo_reply(&reply(1)[..7])), (None, None));
    }

    #[tokio::test]
    async fn a_path_is_alive_by_an_answer_from_its_own_peer_and_by_none_twice() {
        let mut machine = Machine::founder("probe");
        let local = |number| MachineMembership { overlay_ip: Ipv6Addr::LOCALHOST, ..member(number) };
        machine.knows(&[2, 3]);
        machine.mesh.learn(|peers| peers.machines = vec![local(2), member(3)]).unwrap();
        let socket = Arc::new(UdpSocket::bind("[::1]:0").await.unwrap());
        let peer = UdpSocket::bind("[::1]:0").await.unwrap();
        peer.connect(socket.local_addr().unwrap()).await.unwrap();
        let known = |number| (member(number).public_key, member(number).overlay_ip, Instant::now());
        let sent =
            BTreeMap::from([(1, (member(2).public_key, Ipv6Addr::LOCALHOST, Instant::now())), (2, known(3))]);
        let sent = Arc::new(Mutex::new(sent));
        let (mesh, from, asked) = (machine.mesh.clone(), socket.clone(), sent.clone());
        let receiver = tokio::spawn(async move { receive(&mesh, &from, &asked).await });
        let reachable = |number| {
            let mesh = &machine.mesh;
            mesh.path(&member(number).public_key).reachable(mesh.millis())
        };
        for packet in [reply(2), reply(9), reply(1), reply(1)] {
            peer.send(&packet).await.unwrap();
        }
        until("n2 answered", || reachable(2)).await;
        assert!(!reachable(3), "n2 answered for n3");
        // Two numbers under one key, by turns: the peer's probes are listened to as well.
        let contested = || machine.mesh.twins.twins().contested(machine.mesh.millis());
        for run in [1, 2, 1, 2, 1, 2, 1, 2] {
            let probe = echo_request(1, Payload { run, says: None });
            peer.send(&probe).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until("two use the key of n2", || contested() == [member(2).public_key]).await;
        receiver.abort();
    }

    #[test]
    fn a_session_stands_for_three_minutes_after_its_handshake() {
        let (key, endpoint) = (member(2).public_key, Some(([192, 0, 2, 2], 51820).into()));
        let found = |ago: Option<u64>| {
            let mut device = WireguardLive::blank(TunnelBackend::Kernel);
            let last_handshake = ago.map(|ago| clock::now() - ago);
            let stats = PeerStats { endpoint, last_handshake, ..PeerStats::default() };
            device.peers.insert(key, PeerLive { allowed_ips: Default::default(), keepalive: 15, stats });
            tunnel(&device, &key).unwrap()
        };
        assert!(found(Some(0)).session && found(Some(170)).session);
        assert!(!found(Some(180)).session && !found(None).session);
        assert_eq!(found(None).endpoint, endpoint);
        assert!(
            tunnel(&WireguardLive::blank(TunnelBackend::Kernel), &key).is_none(),
            "no peer of this device"
        );
    }
}
