//! Two tunnels joined in memory: what a change of configuration does to a session, and what is counted.

use super::*;
use ployz_core::key::PrivateKey;

struct Side {
    identity: Identity,
    tunnel: Tunnel,
    address: SocketAddr,
}

fn identity(seed: u8) -> Identity {
    Identity::new(PrivateKey::from_random([seed; 32]))
}

/// Two sides that know each other's key; `a` also knows where `b` is.
fn pair() -> (Side, Side) {
    let side = |own: u8, peer: u8| {
        let identity = identity(own);
        let tunnel = Tunnel::new(*self::identity(peer).public(), 7, Some(&identity));
        Side { identity, tunnel, address: SocketAddr::from(([192, 0, 2, own], 51820)) }
    };
    let (mut a, b) = (side(1, 2), side(2, 1));
    a.tunnel.set_endpoint(b.address);
    (a, b)
}

/// An IPv4 packet of 20 bytes whose source is 10.0.0.`source`.
fn packet(source: u8) -> Vec<u8> {
    let mut packet = vec![0; 20];
    (packet[0], packet[3], packet[12], packet[15]) = (0x45, 20, 10, source);
    packet
}

/// Hands `datagram` from one side to the other and back until both are silent; returns the inner packets
/// that came out.
fn exchange(from: &mut Side, to: &mut Side, datagram: Vec<u8>) -> Vec<Vec<u8>> {
    let mut scratch = [0; 2048];
    let received = to.tunnel.open(from.address, &datagram, &mut scratch);
    let mut inner: Vec<_> = received.packet.iter().map(|(_, packet)| packet.to_vec()).collect();
    let mut replies: Vec<_> = received.reply.iter().map(|reply| reply.to_vec()).collect();
    if received.established {
        while let Some((_, datagram)) = to.tunnel.flush(&mut scratch) {
            replies.push(datagram.to_vec());
        }
    }
    for reply in replies {
        inner.extend(exchange(to, from, reply));
    }
    inner
}

fn send(from: &mut Side, to: &mut Side, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut scratch = [0; 2048];
    let datagram = from.tunnel.seal(packet, &mut scratch).map(|(_, datagram)| datagram.to_vec());
    datagram.map(|datagram| exchange(from, to, datagram)).unwrap_or_default()
}

fn first_byte(from: &mut Side, packet: &[u8]) -> Option<u8> {
    let mut scratch = [0; 2048];
    from.tunnel.seal(packet, &mut scratch).map(|(_, datagram)| datagram[0])
}

#[test]
fn the_first_packet_makes_the_session_and_arrives() {
    let (mut a, mut b) = pair();
    assert!(!a.tunnel.has_session());
    assert_eq!(send(&mut a, &mut b, &packet(1)), [packet(1)]);
    assert!(a.tunnel.has_session() && b.tunnel.has_session());
    assert_eq!(send(&mut b, &mut a, &packet(2)), [packet(2)]);
    for (side, other) in [(&a, &b), (&b, &a)] {
        let view = side.tunnel.view();
        assert_eq!(view.endpoint, Some(other.address));
        assert!(view.last_handshake.is_some_and(|time| time.elapsed().unwrap() < Duration::from_secs(5)));
    }
    // Initiation 148, response 92, keepalive 32, two packets of 20 + 32.
    assert_eq!((a.tunnel.view().tx_bytes, a.tunnel.view().rx_bytes), (148 + 32 + 52, 92 + 52));
    assert_eq!((b.tunnel.view().tx_bytes, b.tunnel.view().rx_bytes), (92 + 52, 148 + 32 + 52));
}

#[test]
fn packets_queued_on_the_answering_side_leave_once_the_session_is_confirmed() {
    let (mut a, mut b) = pair();
    b.tunnel.set_endpoint(a.address);
    // b's own initiation is lost; its packet waits in the queue until a's handshake is done.
    assert_eq!(first_byte(&mut b, &packet(2)), Some(INITIATION));
    assert_eq!(send(&mut a, &mut b, &packet(1)), [packet(2), packet(1)]);
}

#[test]
fn settings_that_are_not_keys_keep_the_session() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(1));
    let before = a.tunnel.view();
    a.tunnel.set_endpoint("198.51.100.1:1".parse().unwrap());
    a.tunnel.set_keepalive(25);
    a.tunnel.set_keepalive(0);
    a.tunnel.set_preshared(None, Some(&a.identity));
    assert_eq!(first_byte(&mut a, &packet(1)), Some(DATA));
    assert_eq!(a.tunnel.view().last_handshake, before.last_handshake);
}

#[test]
fn a_new_preshared_key_asks_for_a_new_session() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(1));
    let secret = Some(Secret::from_bytes([9; 32]));
    for side in [&mut a, &mut b] {
        side.tunnel.set_preshared(secret.clone(), Some(&side.identity));
        assert!(!side.tunnel.has_session());
    }
    let mut scratch = [0; 2048];
    let (_, datagram) = a.tunnel.tick(Instant::now(), &mut scratch).unwrap();
    assert_eq!(datagram[0], INITIATION);
    let datagram = datagram.to_vec();
    exchange(&mut a, &mut b, datagram);
    assert!(a.tunnel.has_session() && b.tunnel.has_session());
    assert_eq!(send(&mut b, &mut a, &packet(2)), [packet(2)]);
}

#[test]
fn a_different_preshared_key_makes_no_session() {
    let (mut a, mut b) = pair();
    b.tunnel.set_preshared(Some(Secret::from_bytes([9; 32])), Some(&b.identity));
    assert!(send(&mut a, &mut b, &packet(1)).is_empty());
    assert!(!a.tunnel.has_session());
    assert_eq!(a.tunnel.view().last_handshake, None);
}

#[test]
fn an_authenticated_datagram_moves_the_endpoint_and_a_forged_one_does_not() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(1));
    let mut scratch = [0; 2048];
    let datagram = a.tunnel.seal(&packet(1), &mut scratch).unwrap().1.to_vec();
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 4));
    let mut forged = datagram.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(b.tunnel.open(elsewhere, &forged, &mut scratch).packet.is_none());
    assert_eq!(b.tunnel.view().endpoint, Some(a.address));
    assert!(b.tunnel.open(elsewhere, &datagram, &mut scratch).packet.is_some());
    assert_eq!(b.tunnel.view().endpoint, Some(elsewhere));
    // The same datagram again is a replay.
    assert!(b.tunnel.open(a.address, &datagram, &mut scratch).packet.is_none());
    assert_eq!(b.tunnel.view().endpoint, Some(elsewhere));
}

#[test]
fn a_waiting_handshake_is_repeated_at_once_to_a_new_endpoint() {
    let (mut a, _) = pair();
    assert_eq!(first_byte(&mut a, &packet(1)), Some(INITIATION));
    let (mut scratch, now) = ([0; 2048], Instant::now());
    assert!(a.tunnel.tick(now, &mut scratch).is_none());
    let endpoint = "198.51.100.1:1".parse().unwrap();
    a.tunnel.set_endpoint(endpoint);
    let (to, datagram) = a.tunnel.tick(now, &mut scratch).unwrap();
    assert_eq!((to, datagram[0]), (endpoint, INITIATION));
    a.tunnel.set_endpoint(endpoint);
    assert!(a.tunnel.tick(now, &mut scratch).is_none());
}

#[test]
fn keepalives_follow_the_last_traffic() {
    let (mut a, mut b) = pair();
    let (mut scratch, now) = ([0; 2048], Instant::now());
    a.tunnel.set_keepalive(25);
    let (_, datagram) = a.tunnel.tick(now, &mut scratch).expect("one is due at once");
    assert_eq!(datagram[0], INITIATION);
    let datagram = datagram.to_vec();
    exchange(&mut a, &mut b, datagram);
    assert!(a.tunnel.tick(now + Duration::from_secs(24), &mut scratch).is_none());
    let (_, datagram) = a.tunnel.tick(now + Duration::from_secs(27), &mut scratch).unwrap();
    assert_eq!((datagram[0], datagram.len()), (DATA, 32));
    a.tunnel.set_keepalive(0);
    assert!(a.tunnel.tick(now + Duration::from_secs(90), &mut scratch).is_none());
}

#[test]
fn nothing_is_sent_without_endpoint_or_key() {
    let (_, mut b) = pair();
    b.tunnel.set_keepalive(1);
    let mut scratch = [0; 2048];
    assert!(b.tunnel.seal(&packet(1), &mut scratch).is_none());
    assert!(b.tunnel.tick(Instant::now(), &mut scratch).is_none());
    b.tunnel.set_endpoint("192.0.2.1:1".parse().unwrap());
    b.tunnel.rebuild(None);
    assert!(b.tunnel.seal(&packet(1), &mut scratch).is_none());
    assert!(b.tunnel.tick(Instant::now(), &mut scratch).is_none());
}
