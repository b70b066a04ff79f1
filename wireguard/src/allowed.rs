//! The cryptokey routing table: which peer may send from, and gets the packets for, an inner address.
//!
//! One hash map per prefix length in use, longest first. A mesh uses two or three lengths per family, so a
//! lookup costs as many probes; a trie would only win with dozens of lengths.

use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefixes of both families, each owned by exactly one `T`.
pub(super) struct AllowedIps<T> {
    v4: Family<T>,
    v6: Family<T>,
}

struct Family<T> {
    bits: u8,
    lengths: BTreeMap<Reverse<u8>, HashMap<u128, T>>,
}

impl<T> AllowedIps<T> {
    pub(super) fn new() -> Self {
        Self { v4: Family::new(32), v6: Family::new(128) }
    }

    /// Gives the prefix (host bits are ignored) to `owner`, taking it from whoever held it.
    pub(super) fn insert(&mut self, prefix: IpNet, owner: T) -> Option<T> {
        let (address, length) = (number(prefix.addr()), prefix.prefix_len());
        let family = self.family_mut(prefix.addr());
        let network = family.network(address, length);
        family.lengths.entry(Reverse(length)).or_default().insert(network, owner)
    }

    /// Takes the prefix away if its owner satisfies `condition`.
    pub(super) fn remove_if(&mut self, prefix: IpNet, condition: impl FnOnce(&T) -> bool) {
        let (address, length) = (number(prefix.addr()), prefix.prefix_len());
        let family = self.family_mut(prefix.addr());
        let network = family.network(address, length);
        let Some(prefixes) = family.lengths.get_mut(&Reverse(length)) else { return };
        if prefixes.get(&network).is_some_and(condition) {
            prefixes.remove(&network);
        }
        family.lengths.retain(|_, prefixes| !prefixes.is_empty());
    }

    /// Keeps the prefixes whose owner satisfies `condition`.
    pub(super) fn retain(&mut self, condition: impl Fn(&T) -> bool) {
        for family in [&mut self.v4, &mut self.v6] {
            family.lengths.values_mut().for_each(|prefixes| prefixes.retain(|_, owner| condition(owner)));
            family.lengths.retain(|_, prefixes| !prefixes.is_empty());
        }
    }

    /// The owner of the longest prefix that holds `address`.
    pub(super) fn lookup(&self, address: IpAddr) -> Option<&T> {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let address = number(address);
        let mut lengths = family.lengths.iter();
        lengths.find_map(|(Reverse(length), prefixes)| prefixes.get(&family.network(address, *length)))
    }

    /// Every prefix with its owner: IPv4 first, then by length, longest first; within a length in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        [&self.v4, &self.v6].into_iter().flat_map(|family| {
            family.lengths.iter().flat_map(move |(Reverse(length), prefixes)| {
                prefixes.iter().map(move |(network, owner)| (family.prefix(*network, *length), owner))
            })
        })
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Family<T> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

impl<T> Family<T> {
    fn new(bits: u8) -> Self {
        Self { bits, lengths: BTreeMap::new() }
    }

    fn network(&self, address: u128, length: u8) -> u128 {
        match length {
            0 => 0,
            _ => address & (u128::MAX << (self.bits - length)),
        }
    }

    fn prefix(&self, network: u128, length: u8) -> IpNet {
        let address = match u32::try_from(network) {
            Ok(network) if self.bits == 32 => IpAddr::V4(Ipv4Addr::from(network)),
            _ => IpAddr::V6(Ipv6Addr::from(network)),
        };
        IpNet::new(address, length).expect("lengths come from an IpNet of the same family")
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let mut table = AllowedIps::new();
        for (prefix, owner) in [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.2.3/32", 3), ("::/0", 4)] {
            assert_eq!(table.insert(net(prefix), owner), None);
        }
        let found = |address: &str| table.lookup(address.parse().unwrap()).copied();
        assert_eq!(found("192.0.2.1"), Some(1));
        assert_eq!(found("10.1.2.4"), Some(2));
        assert_eq!(found("10.1.2.3"), Some(3));
        assert_eq!(found("::10.1.2.3"), Some(4));
        assert_eq!(found("::ffff:10.1.2.3"), Some(4));
    }

    #[test]
    fn a_prefix_moves_to_its_new_owner_whatever_its_host_bits() {
        let mut table = AllowedIps::new();
        table.insert(net("10.0.0.1/24"), 1);
        assert_eq!(table.insert(net("10.0.0.77/24"), 2), Some(1));
        assert_eq!(table.iter().collect::<Vec<_>>(), [(net("10.0.0.0/24"), &2)]);
        table.remove_if(net("10.0.0.0/24"), |owner| *owner == 1);
        assert_eq!(table.iter().count(), 1);
        table.remove_if(net("10.0.0.0/24"), |owner| *owner == 2);
        assert_eq!(table.lookup("10.0.0.1".parse().unwrap()), None);
    }

    /// Few distinct addresses and every length, so that prefixes nest and collide.
    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u32..64, 0u8..=32).prop_map(|(n, len)| IpNet::new(v4(n), len).unwrap()),
            (0u32..64, 0u8..=128).prop_map(|(n, len)| IpNet::new(v6(n), len).unwrap()),
        ]
    }

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from((n & 7) | ((n >> 3) << 29)).into()
    }

    fn v6(n: u32) -> IpAddr {
        Ipv6Addr::from(u128::from(n & 7) | (u128::from(n >> 3) << 125)).into()
    }

    fn naive(model: &[(IpNet, u8)], address: IpAddr) -> Option<u8> {
        let holding = model.iter().filter(|(prefix, _)| prefix.contains(&address));
        holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owner)| *owner)
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_list_of_prefixes(
            steps in prop::collection::vec((prefix(), 0u8..4, 0u8..8), 0..60),
        ) {
            let (mut table, mut model) = (AllowedIps::new(), Vec::<(IpNet, u8)>::new());
            for (prefix, owner, action) in steps {
                match action {
                    0 => {
                        table.retain(|held| *held != owner);
                        model.retain(|(_, held)| *held != owner);
                    }
                    1 => {
                        table.remove_if(prefix, |held| *held == owner);
                        model.retain(|entry| *entry != (prefix.trunc(), owner));
                    }
                    _ => {
                        table.insert(prefix, owner);
                        model.retain(|(held, _)| *held != prefix.trunc());
                        model.push((prefix.trunc(), owner));
                    }
                }
            }
            for address in (0..64).flat_map(|n| [v4(n), v6(n)]) {
                prop_assert_eq!(table.lookup(address).copied(), naive(&model, address));
            }
            let mut listed: Vec<_> = table.iter().map(|(prefix, owner)| (prefix, *owner)).collect();
            listed.sort();
            model.sort();
            prop_assert_eq!(listed, model);
        }
    }
}
