//! The addresses of containers: from `.3` of the node's subnet to the last before its egress address.

use crate::address::NodeSubnet;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Every address of the node's subnet is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {} container addresses of {subnet} are in use", capacity(subnet))]
pub struct Exhausted {
    /// The subnet.
    pub subnet: NodeSubnet,
}

/// The lowest address that is not taken.
///
/// `taken` must name what any container has or is promised, stopped ones too: Docker gives an address of a stopped
/// container to no other container only while it knows of it.
pub fn first_free(subnet: &NodeSubnet, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Exhausted> {
    containers(subnet).find(|address| !taken.contains(address)).ok_or(Exhausted { subnet: *subnet })
}

/// How many containers fit.
pub fn capacity(subnet: &NodeSubnet) -> usize {
    containers(subnet).count()
}

/// All container addresses, lowest first. `hosts` leaves out network and broadcast address; `.1` is the bridge, `.2`
/// the service address and the last one the namespace's way out.
fn containers(subnet: &NodeSubnet) -> impl Iterator<Item = Ipv4Addr> {
    let egress = subnet.egress();
    subnet.net().hosts().skip(2).filter(move |address| *address != egress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::AddressPlan;
    use proptest::prelude::*;

    fn subnet(len: u8) -> NodeSubnet {
        AddressPlan::new("10.101.0.0/16".parse().unwrap(), len).unwrap().slice(1).unwrap()
    }

    #[test]
    fn addresses_begin_at_three() {
        let subnet = subnet(24);
        let mut taken = BTreeSet::new();
        assert_eq!(first_free(&subnet, &taken).unwrap().to_string(), "10.101.1.3");
        taken.extend(["10.101.1.3", "10.101.1.5"].map(|text| text.parse::<Ipv4Addr>().unwrap()));
        assert_eq!(first_free(&subnet, &taken).unwrap().to_string(), "10.101.1.4");
        assert_eq!(capacity(&subnet), 251);
    }

    #[test]
    fn a_full_subnet_is_an_error_with_its_name() {
        let subnet = subnet(29);
        let taken: BTreeSet<Ipv4Addr> = containers(&subnet).collect();
        assert_eq!(taken.len(), 3);
        let error = first_free(&subnet, &taken).unwrap_err();
        assert_eq!(error.to_string(), "all 3 container addresses of 10.101.0.8/29 are in use");
    }

    proptest! {
        #[test]
        fn an_address_is_free_ours_and_never_reserved(
            len in 26u8..=29,
            picks in proptest::collection::btree_set(0u32..64, 0..64),
        ) {
            let subnet = subnet(len);
            let base = u32::from(subnet.net().network());
            let taken: BTreeSet<Ipv4Addr> = picks.iter().map(|n| Ipv4Addr::from(base + n)).collect();
            match first_free(&subnet, &taken) {
                Ok(address) => {
                    prop_assert!(subnet.net().contains(&address) && !taken.contains(&address));
                    prop_assert!(u32::from(address) >= base + 3 && address < subnet.egress());
                }
                Err(_) => prop_assert!(containers(&subnet).all(|address| taken.contains(&address))),
            }
        }
    }
}
