//! The three loops that move packets: out of the interface, out of a UDP socket, and the clock.
//!
//! Order is kept per peer: one thread reads each queue of the interface (the kernel hashes flows over them)
//! and one reads each UDP socket. Encryption and decryption so run on different cores.

use super::error::Error;
use super::identity::Identity;
use super::state::{Peer, Shared, State};
use super::udp::{BATCH, Batch, MAX_DATAGRAM};
use super::worker::Latch;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use ployz_core::key::PublicKey;
use std::fs::File;
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Packets from queue `queue` of the interface to the peers.
pub(super) fn outbound(shared: &Shared, queue: usize, stop: &Latch) -> Result<(), Error> {
    let tun = &shared.tun.queues[queue];
    let mut packet = vec![0; MAX_DATAGRAM];
    let mut batch = Batch::new();
    while stop.wait_readable(tun.as_fd())? {
        while fill(shared, tun, &mut packet, &mut batch)? {}
    }
    Ok(())
}

/// Reads, encrypts and sends one batch. False: the interface has no more.
fn fill(shared: &Shared, mut tun: &File, packet: &mut [u8], batch: &mut Batch) -> Result<bool, Error> {
    let mtu = shared.mtu.load(Ordering::Relaxed).into();
    let state = shared.read();
    let mut more = true;
    while more && batch.has_room() {
        match tun.read(packet) {
            Ok(length) => {
                let packet = pad(packet, length, mtu);
                batch.push(|dst| seal(&state, packet, dst));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => more = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // EBADFD: the interface was deleted, or its namespace is gone.
            Err(source) => {
                return Err(Error::ReadTun { interface: shared.tun.interface.clone(), source });
            }
        }
    }
    batch.send(&state.sockets);
    Ok(more)
}

/// Inner packets are padded to 16 bytes, but not past the MTU (WireGuard paper, section 5.4.6).
fn pad(buffer: &mut [u8], length: usize, mtu: usize) -> &[u8] {
    let padded = length.next_multiple_of(16).min(mtu.max(length));
    buffer[length..padded].fill(0);
    &buffer[..padded]
}

fn seal(state: &State, packet: &[u8], dst: &mut [u8]) -> Option<(SocketAddr, usize)> {
    let peer = state.allowed.lookup(Tunn::dst_address(packet)?)?;
    let (endpoint, datagram) = peer.lock().seal(packet, dst)?;
    Some((endpoint, datagram.len()))
}

/// Datagrams from `socket` to the interface.
pub(super) fn inbound(shared: &Shared, socket: &UdpSocket, stop: &Latch) -> Result<(), Error> {
    // Strides that are no multiple of a page: every slot starts at a different cache set.
    let mut slots = vec![0; BATCH * SLOT];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut scratch = vec![0; MAX_DATAGRAM];
    let mut origins = Vec::with_capacity(BATCH);
    while stop.wait_readable(socket.as_fd())? {
        while receive(socket, &mut slots, &mut headers, &mut origins) {
            let state = shared.read();
            let Some(identity) = &state.identity else { continue };
            for (slot, (from, length)) in slots.chunks_exact(SLOT).zip(&origins) {
                handle(shared, &state, identity, *from, &slot[..*length], &mut scratch);
            }
        }
    }
    Ok(())
}

/// One recvmmsg(2): fills `origins` with sender and length of each datagram. False: nothing is left.
fn receive(
    socket: &UdpSocket,
    slots: &mut [u8],
    headers: &mut MultiHeaders<SockaddrStorage>,
    origins: &mut Vec<(SocketAddr, usize)>,
) -> bool {
    origins.clear();
    let mut slices: Vec<_> = slots.chunks_exact_mut(SLOT).map(|slot| [IoSliceMut::new(slot)]).collect();
    match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
        Ok(received) => {
            // A sender that is neither IPv4 nor IPv6 cannot be; its datagram would be dropped for length 0.
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            origins.extend(received.map(|message| {
                message.address.as_ref().and_then(sender).map_or((nowhere, 0), |from| (from, message.bytes))
            }));
            !origins.is_empty()
        }
        Err(Errno::EAGAIN) => false,
        // ECONNREFUSED, EHOSTUNREACH: a datagram we sent came back as ICMP; the socket is as good as before.
        Err(errno) => {
            tracing::debug!(%errno, "cannot receive");
            false
        }
    }
}

fn sender(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    let v6 = SocketAddrV6::from(*address.as_sockaddr_in6()?);
    Some(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

/// One datagram: to its peer, and what comes of it to the interface or back.
fn handle(
    shared: &Shared,
    state: &State,
    identity: &Identity,
    from: SocketAddr,
    datagram: &[u8],
    scratch: &mut [u8],
) {
    let mut cookie = [0; COOKIE_LENGTH];
    let parsed = match identity.limiter().verify_packet(Some(from.ip()), datagram, &mut cookie) {
        Ok(parsed) => parsed,
        Err(TunnResult::WriteToNetwork(cookie)) => return state.sockets.send(from, cookie),
        Err(_) => return,
    };
    let Some(peer) = find(state, identity, &parsed) else { return };
    let mut tunnel = peer.lock();
    let received = tunnel.open(from, datagram, scratch);
    if let Some(reply) = received.reply {
        state.sockets.send(from, reply);
    }
    if let Some((source, packet)) = received.packet {
        deliver(shared, state, peer, source, packet);
    }
    if received.established {
        while let Some((to, datagram)) = tunnel.flush(scratch) {
            state.sockets.send(to, datagram);
        }
    }
}

fn find<'a>(state: &'a State, identity: &Identity, packet: &Packet<'_>) -> Option<&'a Arc<Peer>> {
    let receiver = match packet {
        Packet::HandshakeInit(initiation) => {
            let own = x25519::PublicKey::from(*identity.public().as_bytes());
            let half = parse_handshake_anon(identity.secret(), &own, initiation).ok()?;
            return state.peers.get(&PublicKey::from_bytes(half.peer_static_public));
        }
        Packet::HandshakeResponse(packet) => packet.receiver_idx,
        Packet::PacketCookieReply(packet) => packet.receiver_idx,
        Packet::PacketData(packet) => packet.receiver_idx,
    };
    // The low eight bits number the sessions of one peer.
    state.by_index.get(&(receiver >> 8))
}

/// Writes an inner packet to the interface if its source is an address of that peer.
fn deliver(shared: &Shared, state: &State, peer: &Arc<Peer>, source: IpAddr, packet: &[u8]) {
    if !state.allowed.lookup(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
        return tracing::debug!(peer = %peer.key.short(), %source, "source is not an allowed address");
    }
    // EIO while the interface is down, ENOBUFS under memory pressure: the packet is lost, as on any link.
    if let Err(error) = (&shared.tun.queues[0]).write(packet) {
        tracing::debug!(%error, "packet dropped at the interface");
    }
}

/// Drives the timers of every peer, the handshake limiter, and the look at the MTU.
pub(super) fn clock(shared: &Shared, stop: &Latch) -> Result<(), Error> {
    let mut scratch = vec![0; MAX_DATAGRAM];
    let mut ticks = 0u32;
    while stop.wait_for(TICK_MS)? {
        ticks = ticks.wrapping_add(1);
        let now = Instant::now();
        let state = shared.read();
        for peer in state.peers.values() {
            if let Some((to, datagram)) = peer.lock().tick(now, &mut scratch) {
                state.sockets.send(to, datagram);
            }
        }
        if ticks.is_multiple_of(TICKS_PER_SECOND) {
            state.identity.iter().for_each(|identity| identity.limiter().reset_count());
            if let Ok(mtu) = shared.tun.mtu() {
                shared.mtu.store(mtu, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

const TICK_MS: u8 = 100;
const TICKS_PER_SECOND: u32 = 10;

/// A cookie reply is always this long (WireGuard paper, section 5.4.7).
const COOKIE_LENGTH: usize = 64;

/// Bytes from one receive buffer to the next.
const SLOT: usize = MAX_DATAGRAM + 33 * 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_stops_at_the_mtu() {
        for (length, mtu, wanted) in [(1, 1420, 16), (32, 1420, 32), (1419, 1420, 1420), (1500, 1420, 1500)] {
            let mut buffer = vec![0xff; 2048];
            let padded = pad(&mut buffer, length, mtu);
            assert_eq!(padded.len(), wanted, "{length} of {mtu}");
            assert!(padded[..length].iter().all(|b| *b == 0xff) && padded[length..].iter().all(|b| *b == 0));
        }
    }
}
