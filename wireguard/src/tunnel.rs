//! One peer's tunnel: boringtun's noise state machine and what it does not keep.
//!
//! [`Tunn`] has no endpoint, no wall-clock handshake time, cannot change its persistent keepalive or its
//! preshared key, and does not send its queue when a handshake that the other side began is confirmed. All of
//! that is here. Nothing here does I/O; callers send what they are handed.

use super::identity::{Identity, Secret};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use ployz_core::key::PublicKey;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

/// The state of one peer, behind the peer's lock.
pub(super) struct Tunnel {
    key: PublicKey,
    index: u32,
    /// None while the device has no private key.
    noise: Option<Box<Tunn>>,
    preshared: Option<Secret>,
    endpoint: Option<SocketAddr>,
    /// Seconds; 0 is off.
    keepalive: u16,
    /// The last authenticated datagram in either direction; None makes a keepalive due at once.
    last_traffic: Option<Instant>,
    /// Our session index in an answer to a handshake that no packet has confirmed yet.
    unconfirmed: Option<u32>,
    /// A handshake of ours is under way.
    initiating: bool,
    /// The session is the fruit of a handshake of ours.
    initiator: bool,
    /// A rebuilt tunnel had a session: begin a handshake without waiting for traffic.
    wants_handshake: bool,
    last_handshake: Option<SystemTime>,
    rx_bytes: u64,
    tx_bytes: u64,
}

/// What a datagram from the network turned into.
#[derive(Default)]
pub(super) struct Received<'a> {
    /// To send back to where the datagram came from.
    pub(super) reply: Option<&'a [u8]>,
    /// An inner packet and its source address, not yet checked against the allowed IPs.
    pub(super) packet: Option<(IpAddr, &'a [u8])>,
    /// A session has begun: call [`Tunnel::flush`].
    pub(super) established: bool,
}

/// What `get=1` tells about a peer, except its allowed IPs.
pub(super) struct TunnelView {
    pub(super) preshared: Option<Secret>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive: u16,
    pub(super) last_handshake: Option<SystemTime>,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Tunnel {
    /// A tunnel to `key` whose session indices start with the 24 bits of `index`.
    pub(super) fn new(key: PublicKey, index: u32, identity: Option<&Identity>) -> Self {
        let mut tunnel = Self {
            key,
            index,
            noise: None,
            preshared: None,
            endpoint: None,
            keepalive: 0,
            last_traffic: None,
            unconfirmed: None,
            initiating: false,
            initiator: false,
            wants_handshake: false,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        tunnel.rebuild(identity);
        tunnel
    }

    /// Starts over under another identity; sessions end, counters and endpoint stay.
    pub(super) fn rebuild(&mut self, identity: Option<&Identity>) {
        self.wants_handshake = self.has_session();
        self.unconfirmed = None;
        self.initiating = false;
        self.noise = identity.map(|identity| {
            Box::new(Tunn::new(
                identity.secret().clone(),
                x25519::PublicKey::from(*self.key.as_bytes()),
                self.preshared.as_ref().map(|secret| *secret.as_bytes()),
                None,
                self.index,
                Some(identity.tunnel_limiter()),
            ))
        });
    }

    /// A different preshared key ends the session and asks for a new one; the same one changes nothing.
    pub(super) fn set_preshared(&mut self, preshared: Option<Secret>, identity: Option<&Identity>) {
        if self.preshared != preshared {
            self.preshared = preshared;
            self.rebuild(identity);
        }
    }

    /// Sends to `endpoint` from now on; a handshake that is waiting for an answer is repeated there at once.
    pub(super) fn set_endpoint(&mut self, endpoint: SocketAddr) {
        if self.endpoint.replace(endpoint) != Some(endpoint) && self.initiating {
            self.wants_handshake = true;
        }
    }

    /// Interval in seconds, 0 is off; turning it on makes one due at once, as in the kernel.
    pub(super) fn set_keepalive(&mut self, interval: u16) {
        if self.keepalive == 0 && interval > 0 {
            self.last_traffic = None;
        }
        self.keepalive = interval;
    }

    /// Whether a session can carry packets now.
    pub(super) fn has_session(&self) -> bool {
        self.noise.as_ref().is_some_and(|noise| noise.time_since_last_handshake().is_some())
    }

    /// Encrypts an inner packet, or queues it and begins a handshake. Without an endpoint it is dropped.
    ///
    /// `dst` must hold the packet and 32 bytes, and 148 at least.
    pub(super) fn seal<'a>(&mut self, packet: &[u8], dst: &'a mut [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let endpoint = self.endpoint?;
        let result = self.noise.as_mut()?.encapsulate(packet, dst);
        self.outgoing(result).map(|datagram| (endpoint, datagram))
    }

    /// Takes a datagram that is for this peer. `dst` must be as long as the datagram, and 148 at least.
    pub(super) fn open<'a>(&mut self, from: SocketAddr, datagram: &[u8], dst: &'a mut [u8]) -> Received<'a> {
        let Some(noise) = self.noise.as_mut() else { return Received::default() };
        let result = noise.decapsulate(Some(from.ip()), datagram, dst);
        if let TunnResult::Err(error) = &result {
            tracing::debug!(peer = %self.key.short(), %from, ?error, "datagram refused");
            return Received::default();
        }
        self.account(from, datagram);
        match result {
            TunnResult::WriteToTunnelV4(packet, source) => self.inner(datagram, packet, source.into()),
            TunnResult::WriteToTunnelV6(packet, source) => self.inner(datagram, packet, source.into()),
            TunnResult::WriteToNetwork(reply) => self.reply(datagram, reply),
            TunnResult::Done | TunnResult::Err(_) => {
                Received { established: self.confirm(datagram), ..Received::default() }
            }
        }
    }

    /// The next packet that waited for a session, encrypted; call until None.
    pub(super) fn flush<'a>(&mut self, dst: &'a mut [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let endpoint = self.endpoint?;
        let result = self.noise.as_mut()?.decapsulate(None, &[], dst);
        self.outgoing(result).map(|datagram| (endpoint, datagram))
    }

    /// What is due by time: a repeated handshake, a keepalive. To be called every 100 ms, as the noise
    /// state machine keeps its clock by it.
    pub(super) fn tick<'a>(&mut self, now: Instant, dst: &'a mut [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let due = self.keepalive_due(now);
        let noise = self.noise.as_mut()?;
        // The borrow checker wants each result used where it is made, hence lengths rather than slices.
        let mut length = written(noise.update_timers(dst), &mut self.initiating);
        if length.is_none() && std::mem::take(&mut self.wants_handshake) && self.endpoint.is_some() {
            length = written(noise.format_handshake_initiation(dst, true), &mut self.initiating);
        }
        if length.is_none() && due {
            let age = noise.time_since_last_handshake();
            // Tunn renews a session for data alone. The kernel renews it for keepalives too, and so notices
            // after 120 s rather than 180 s that a silent peer was restarted.
            if age.is_none_or(|age| self.initiator && age >= REKEY_AFTER) {
                length = written(noise.format_handshake_initiation(dst, false), &mut self.initiating);
            }
            if length.is_none() && age.is_some() {
                length = written(noise.encapsulate(&[], dst), &mut self.initiating);
            }
        }
        let (length, endpoint) = (length?, self.endpoint?);
        self.sent(&dst[..length]);
        Some((endpoint, &dst[..length]))
    }

    /// The state as `get=1` reports it.
    pub(super) fn view(&self) -> TunnelView {
        TunnelView {
            preshared: self.preshared.clone(),
            endpoint: self.endpoint,
            keepalive: self.keepalive,
            last_handshake: self.last_handshake,
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
        }
    }

    fn keepalive_due(&self, now: Instant) -> bool {
        let interval = Duration::from_secs(self.keepalive.into());
        let quiet = self.last_traffic.is_none_or(|last| now.saturating_duration_since(last) >= interval);
        self.keepalive > 0 && self.endpoint.is_some() && quiet
    }

    /// An authenticated datagram: its sender is where the peer is now. A cookie proves no such thing.
    fn account(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.rx_bytes += datagram.len() as u64;
        if datagram.first() == Some(&COOKIE) {
            return;
        }
        self.last_traffic = Some(Instant::now());
        if self.endpoint.replace(from) != Some(from) {
            tracing::debug!(peer = %self.key.short(), endpoint = %from, "peer moved");
        }
    }

    fn inner<'a>(&mut self, datagram: &[u8], packet: &'a [u8], source: IpAddr) -> Received<'a> {
        let established = self.confirm(datagram);
        Received { packet: Some((source, packet)), established, ..Received::default() }
    }

    fn reply<'a>(&mut self, datagram: &[u8], reply: &'a [u8]) -> Received<'a> {
        self.sent(reply);
        let established = datagram.first() == Some(&RESPONSE);
        if established {
            self.established(true);
        } else {
            self.unconfirmed = word(reply, 4);
        }
        Received { reply: Some(reply), established, ..Received::default() }
    }

    /// The first packet on a session that the other side began shows that it has our answer.
    fn confirm(&mut self, datagram: &[u8]) -> bool {
        let confirmed = datagram.first() == Some(&DATA) && self.unconfirmed.is_some();
        if !confirmed || word(datagram, 4) != self.unconfirmed {
            return false;
        }
        self.established(false);
        true
    }

    fn established(&mut self, initiator: bool) {
        self.initiator = initiator;
        self.unconfirmed = None;
        self.initiating = false;
        self.last_handshake = Some(SystemTime::now());
        tracing::debug!(peer = %self.key.short(), "session established");
    }

    fn outgoing<'a>(&mut self, result: TunnResult<'a>) -> Option<&'a [u8]> {
        let TunnResult::WriteToNetwork(datagram) = result else { return None };
        self.sent(datagram);
        Some(datagram)
    }

    fn sent(&mut self, datagram: &[u8]) {
        self.tx_bytes += datagram.len() as u64;
        self.last_traffic = Some(Instant::now());
        self.initiating |= datagram.first() == Some(&INITIATION);
    }
}

fn written(result: TunnResult<'_>, initiating: &mut bool) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
        TunnResult::Err(WireGuardError::ConnectionExpired) => {
            *initiating = false;
            None
        }
        _ => None,
    }
}

fn word(datagram: &[u8], at: usize) -> Option<u32> {
    let bytes = datagram.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("the slice has four bytes")))
}

/// Message types, first byte of every datagram (WireGuard paper, section 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;

/// REKEY_AFTER_TIME (WireGuard paper, section 6.1).
const REKEY_AFTER: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests;
