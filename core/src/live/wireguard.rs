//! A tunnel device as found. Endpoint, handshake and traffic are statistics: they never drift.

use crate::key::PublicKey;
use crate::spec::TunnelBackend;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The device `wg0`, the kernel's or the userspace one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardLive {
    /// Interface index in the namespace.
    pub index: u32,
    /// Who runs it.
    pub backend: TunnelBackend,
    /// Alias: our mark of ownership.
    pub alias: Option<String>,
    /// Public half of its key; `None` while it has none.
    pub public_key: Option<PublicKey>,
    /// UDP port of the tunnel's socket, in the host namespace.
    pub listen_port: u16,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Whether it may have IPv6 addresses (`disable_ipv6` is 0).
    pub ipv6: bool,
    /// Addresses (link-local ones left out).
    pub addresses: BTreeSet<IpNet>,
    /// Peers by public key.
    pub peers: BTreeMap<PublicKey, PeerLive>,
}

/// One peer as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLive {
    /// Configuration: allowed IPs.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Configuration: seconds between keepalives.
    pub keepalive: u16,
    /// Statistics: never compared with the spec.
    pub stats: PeerStats,
}

/// What a peer has been doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Endpoint in use, roamed or not.
    pub endpoint: Option<SocketAddr>,
    /// Unix time of the last handshake in seconds; `None` = never.
    pub last_handshake: Option<u64>,
    /// Bytes received from the peer, encrypted, since it was added.
    pub rx_bytes: u64,
    /// Bytes sent to the peer, encrypted, since it was added.
    pub tx_bytes: u64,
}

impl WireguardLive {
    /// A device as it is right after its creation: nothing is configured.
    pub fn blank(backend: TunnelBackend) -> Self {
        Self {
            index: 0,
            backend,
            alias: None,
            public_key: None,
            listen_port: 0,
            mtu: 0,
            up: false,
            ipv6: false,
            addresses: BTreeSet::new(),
            peers: BTreeMap::new(),
        }
    }

    /// A device that was never configured: left over from an interrupted creation, safe to claim.
    pub fn is_blank(&self) -> bool {
        self.alias.is_none() && self.public_key.is_none() && self.peers.is_empty()
    }
}
