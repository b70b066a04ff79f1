//! Writing the answer to `get=1`.

use crate::identity::Identity;
use crate::tunnel::TunnelView;
use ipnet::IpNet;
use ployz_core::key::PublicKey;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Everything there is to tell.
pub(crate) struct DeviceView {
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) listen_port: u16,
    pub(crate) fwmark: u32,
    pub(crate) peers: Vec<PeerView>,
}

/// One peer.
pub(crate) struct PeerView {
    pub(crate) public_key: PublicKey,
    pub(crate) tunnel: TunnelView,
    /// IPv4 first, the longest prefixes first, then by address.
    pub(crate) allowed_ips: Vec<IpNet>,
}

/// The answer, with its `errno=0` and the empty line. Holds the private key: it is wiped when dropped.
pub(crate) fn format(device: &DeviceView) -> Zeroizing<String> {
    // Reserved at once: a string that grows leaves copies of the key behind.
    let prefixes: usize = device.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(512 + device.peers.len() * 768 + prefixes * 64));
    if let Some(identity) = &device.identity {
        line(&mut text, "private_key", Hex(identity.private().as_bytes()));
    }
    line(&mut text, "listen_port", device.listen_port);
    if device.fwmark != 0 {
        line(&mut text, "fwmark", device.fwmark);
    }
    for peer in &device.peers {
        format_peer(&mut text, peer);
    }
    text.push_str("errno=0\n\n");
    text
}

fn format_peer(text: &mut String, peer: &PeerView) {
    let tunnel = &peer.tunnel;
    line(text, "public_key", Hex(peer.public_key.as_bytes()));
    if let Some(secret) = &tunnel.preshared {
        line(text, "preshared_key", Hex(secret.as_bytes()));
    }
    line(text, "protocol_version", 1);
    if let Some(endpoint) = tunnel.endpoint {
        line(text, "endpoint", endpoint);
    }
    let handshake = tunnel.last_handshake.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let handshake = handshake.unwrap_or(Duration::ZERO);
    line(text, "last_handshake_time_sec", handshake.as_secs());
    line(text, "last_handshake_time_nsec", handshake.subsec_nanos());
    line(text, "tx_bytes", tunnel.tx_bytes);
    line(text, "rx_bytes", tunnel.rx_bytes);
    line(text, "persistent_keepalive_interval", tunnel.keepalive);
    for prefix in &peer.allowed_ips {
        line(text, "allowed_ip", prefix);
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    writeln!(text, "{key}={value}").expect("a String takes any text");
}

/// Bytes as lower-case hexadecimal digits.
struct Hex<'a>(&'a [u8; 32]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
