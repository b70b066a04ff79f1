//! The least change that makes a device right. Never replace-all: that would cost sessions and counters.

use crate::key::{PrivateKey, PublicKey};
use crate::live::WireguardLive;
use crate::spec::WireguardSpec;
use ipnet::IpNet;
use std::fmt;
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

    /// The fields of the device that it changes.
    pub fn fields(&self) -> Vec<&'static str> {
        let fields = [
            ("public_key", self.private_key.is_some()),
            ("listen_port", self.listen_port.is_some()),
            ("peers", !self.peers.is_empty()),
        ];
        fields.into_iter().filter(|(_, changes)| *changes).map(|(field, _)| field).collect()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.private_key.is_none() && self.listen_port.is_none() && self.peers.is_empty()
    }
}

/// Keys are compared by their public halves.
impl PartialEq for DeviceChange {
    fn eq(&self, other: &Self) -> bool {
        let public = |change: &Self| change.private_key.as_ref().map(PrivateKey::public);
        public(self) == public(other) && self.listen_port == other.listen_port && self.peers == other.peers
    }
}

impl Eq for DeviceChange {}

/// Without the private key, as for an operator.
impl fmt::Debug for DeviceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DeviceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.private_key.as_ref().map(|key| format!("key {}...", key.public().short())));
        words.extend(self.listen_port.map(|port| format!("port {port}")));
        words.extend(self.peers.iter().take(SHOWN).map(|peer| match peer {
            PeerChange::Set { key, .. } => format!("set peer {}...", key.short()),
            PeerChange::Remove(key) => format!("remove peer {}...", key.short()),
        }));
        let more = self.peers.len().saturating_sub(SHOWN);
        words.extend((more > 0).then(|| format!("and {more} more peers")));
        f.write_str(&words.join(", "))
    }
}

/// How many peers a line names.
const SHOWN: usize = 8;
