//! Overlay IPv6 addresses: one RFC 4193 /48 a network, the low 80 bits derived from a machine's public key.
//!
//! The derivation is a wire contract: every machine computes its peers' addresses the same way for ever.

use crate::id::NetworkId;
use crate::key::PublicKey;
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::Ipv6Addr;

/// The /48 of a network: `fd` and a 40-bit global id (RFC 4193 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OverlayPrefix(Ipv6Net);

impl OverlayPrefix {
    /// The prefix of a network; its id is random, so the global id taken from it is too.
    pub fn of(network: &NetworkId) -> Self {
        let digest = Sha256::digest(format!("ployz overlay v1 {network}"));
        let mut octets = [0u8; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&digest[..5]);
        Self(Ipv6Net::new_assert(Ipv6Addr::from(octets), 48))
    }

    /// The /48 of the network, host bits zero: `fdxx:xxxx:xxxx::/48`.
    pub fn net(&self) -> Ipv6Net {
        self.0
    }

    /// The address of the machine with this key.
    pub fn address(&self, key: &PublicKey) -> Ipv6Addr {
        let mut hash = Sha256::new();
        hash.update(b"ployz address v1 ");
        hash.update(key.as_bytes());
        let digest = hash.finalize();
        let mut octets = self.0.network().octets();
        octets[6..].copy_from_slice(&digest[..10]);
        if octets[6..15].iter().all(|b| *b == 0) {
            octets[6] = 1; // keeps the low addresses (the host's own, HOST_SUFFIX) free
        }
        if octets[6..8] == ONE_TIME {
            octets[6] = 0xfe; // keeps the guests' /64 free
        }
        Ipv6Addr::from(octets)
    }

    /// The /64 of machines that are not members (yet): what comes from here may redeem a token and nothing else.
    pub fn guests(&self) -> Ipv6Net {
        let mut octets = self.0.network().octets();
        octets[6..8].copy_from_slice(&ONE_TIME);
        Ipv6Net::new_assert(Ipv6Addr::from(octets), 64)
    }

    /// The address that goes with an invite's one-time key.
    pub fn guest(&self, key: &PublicKey) -> Ipv6Addr {
        let mut octets = self.guests().network().octets();
        octets[8..].copy_from_slice(&self.address(key).octets()[8..]);
        Ipv6Addr::from(octets)
    }

    /// The address a host uses towards its own namespace; it never leaves the machine.
    pub fn host(&self) -> Ipv6Addr {
        let mut octets = self.0.network().octets();
        octets[15] = HOST_SUFFIX;
        Ipv6Addr::from(octets)
    }
}

impl fmt::Display for OverlayPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fourth group of a guest's address; no member's address has it.
const ONE_TIME: [u8; 2] = [0xff, 0xff];

/// Last octet of the host's own address in the overlay prefix (all other low bits are zero).
pub const HOST_SUFFIX: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn derivation_is_frozen() {
        let prefix = OverlayPrefix::of(&NetworkId::from_bytes([1; 16]));
        assert_eq!(prefix.to_string(), "fda1:2826:9433::/48");
        assert_eq!(
            prefix.address(&PublicKey::from_bytes([2; 32])).to_string(),
            "fda1:2826:9433:6a73:9193:7897:ffe2:e6ba"
        );
        assert_eq!(prefix.host().to_string(), "fda1:2826:9433::1");
    }

    proptest! {
        #[test]
        fn addresses_lie_in_the_prefix_and_never_on_the_host(id in any::<[u8; 16]>(), key in any::<[u8; 32]>()) {
            let prefix = OverlayPrefix::of(&NetworkId::from_bytes(id));
            let address = prefix.address(&PublicKey::from_bytes(key));
            prop_assert!(prefix.net().contains(&address));
            prop_assert_ne!(address, prefix.host());
            prop_assert_eq!(address.octets()[0], 0xfd);
            prop_assert!(!prefix.guests().contains(&address));
            let guest = prefix.guest(&PublicKey::from_bytes(key));
            prop_assert!(prefix.guests().contains(&guest) && prefix.net().contains(&guest));
        }
    }
}
