//! The tunnel device: its configuration, never its statistics. A peer's live endpoint is a statistic.

use crate::id::{MachineId, NetworkId};
use crate::key::{PrivateKey, PublicKey};
use crate::spec::TunnelBackend;
use crate::spec::netns::owner_alias;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The wanted device.
#[derive(Clone)]
pub struct WireguardSpec {
    /// Interface name inside the namespace: `wg0`.
    pub name: String,
    /// The network it serves; gives the ownership alias.
    pub network: NetworkId,
    /// Who runs it.
    pub backend: TunnelBackend,
    /// The machine's key.
    pub private_key: PrivateKey,
    /// UDP port in the host namespace.
    pub listen_port: u16,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses on the device, host prefixes only.
    pub addresses: BTreeSet<IpNet>,
    /// The peers by public key.
    pub peers: BTreeMap<PublicKey, PeerSpec>,
}

/// One wanted peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    /// For people: the machine's id.
    pub name: MachineId,
    /// What may come from and go to this peer.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Seconds between keepalives; 0 is off.
    pub keepalive: u16,
    /// Candidate endpoints, best first. Used when the peer is added and when a path is dead, never to
    /// overwrite a working endpoint.
    pub endpoints: Vec<SocketAddr>,
}

impl WireguardSpec {
    /// The mark of ownership on the device.
    pub fn alias(&self) -> String {
        owner_alias(&self.network)
    }
}

/// WireGuard's overhead over IPv6: 40 (IPv6) + 8 (UDP) + 32 (WireGuard header and tag).
pub const OVERHEAD: u32 = 80;

/// Keepalive of every peer: keeps NAT mappings open (RFC 4787 asks for 120 s, many boxes keep 30 s).
pub const KEEPALIVE_SECONDS: u16 = 15;

/// The MTU of the tunnel on an underlay link of this MTU; never under IPv6's minimum.
pub fn tunnel_mtu(underlay: u32) -> u32 {
    underlay.saturating_sub(OVERHEAD).clamp(1280, 8920)
}
