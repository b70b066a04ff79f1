//! The least change that makes a device right. Never replace-all: that would cost sessions and counters.

use ipnet::IpNet;
use ployz_core::key::{PrivateKey, PublicKey};
use ployz_core::live::WireguardLive;
use ployz_core::spec::WireguardSpec;
use std::net::SocketAddr;

/// A change of a device's configuration.
#[derive(Clone, Default)]
pub struct DeviceChange {
    /// Set this key.
    pub private_key: Option<PrivateKey>,
    /// Set this port.
    pub listen_port: Option<u16>,
    /// Change these peers, in order.
    pub peers: Vec<PeerChange>,
}

/// A change of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// Remove it.
    Remove(PublicKey),
    /// Add it or change the given parts.
    Set {
        /// Which.
        key: PublicKey,
        /// Only if it is there: a change of endpoint must not bring a removed peer back.
        update_only: bool,
        /// Replace its allowed IPs.
        allowed_ips: Option<Vec<IpNet>>,
        /// Set its keepalive in seconds.
        keepalive: Option<u16>,
        /// Set its endpoint.
        endpoint: Option<SocketAddr>,
    },
}

impl DeviceChange {
    /// What separates a live device from its spec. A live peer's endpoint is a statistic and is left alone.
    pub fn between(spec: &WireguardSpec, live: &WireguardLive) -> Self {
        let removed =
            live.peers.keys().filter(|key| !spec.peers.contains_key(key)).map(|key| PeerChange::Remove(*key));
        let set = spec.peers.iter().filter_map(|(key, want)| {
            let have = live.peers.get(key);
            let allowed = have.is_none_or(|have| have.allowed_ips != want.allowed_ips);
            let keepalive = have.is_none_or(|have| have.keepalive != want.keepalive);
            let endpoint = match have {
                Some(have) if have.stats.endpoint.is_some() => None,
                _ => want.endpoints.first().copied(),
            };
            let needed = have.is_none() || allowed || keepalive;
            needed.then(|| PeerChange::Set {
                key: *key,
                update_only: false,
                allowed_ips: allowed.then(|| want.allowed_ips.iter().copied().collect()),
                keepalive: keepalive.then_some(want.keepalive),
                endpoint,
            })
        });
        Self {
            private_key: (live.public_key != Some(spec.private_key.public()))
                .then(|| spec.private_key.clone()),
            listen_port: (live.listen_port != spec.listen_port).then_some(spec.listen_port),
            peers: removed.chain(set).collect(),
        }
    }

    /// A peer's endpoint and nothing else.
    pub fn endpoint(key: PublicKey, endpoint: SocketAddr) -> Self {
        let peer = PeerChange::Set {
            key,
            update_only: true,
            allowed_ips: None,
            keepalive: None,
            endpoint: Some(endpoint),
        };
        Self { peers: vec![peer], ..Self::default() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.private_key.is_none() && self.listen_port.is_none() && self.peers.is_empty()
    }
}
