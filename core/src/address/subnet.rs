//! The cluster's IPv4 range, cut into one node subnet per machine.
//!
//! With the defaults `10.101.0.0/16` and `/24` there are 256 node subnets of 254 usable addresses. In each node subnet `.1`
//! is the workload bridge and the host's own address, `.2` the node's service address, containers begin at `.3`, and
//! `.254` is how the namespace reaches what is outside the cluster.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// How `cluster_cidr` is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPlan")]
pub struct AddressPlan {
    /// The whole range, equal on every machine of a network.
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of a node subnet.
    pub subnet_prefix_len: u8,
}

/// A plan as written, not judged yet.
#[derive(Deserialize)]
struct RawPlan {
    cluster_cidr: Ipv4Net,
    subnet_prefix_len: u8,
}

impl TryFrom<RawPlan> for AddressPlan {
    type Error = InvalidPlan;
    fn try_from(raw: RawPlan) -> Result<Self, InvalidPlan> {
        Self::new(raw.cluster_cidr, raw.subnet_prefix_len)
    }
}

/// A `cluster_cidr` and `subnet_prefix_len` that cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    /// Host bits are set, as in `10.101.3.0/16`.
    #[error("cluster_cidr {given} has host bits set; the network is {wanted}")]
    HostBits {
        /// The range as it was given, host bits included.
        given: Ipv4Net,
        /// With the host bits cleared.
        wanted: Ipv4Net,
    },
    /// The node subnet is not smaller than the range, so no second node could join.
    #[error(
        "subnet_prefix_len {len} leaves no room for nodes in {cidr}: it must be from {min} to {MAX_SLICE_PREFIX}",
        min = cidr.prefix_len() + 1
    )]
    NoNode {
        /// The node subnet's prefix length.
        len: u8,
        /// The `cluster_cidr` that the prefix length was to divide.
        cidr: Ipv4Net,
    },
    /// The range is not private: routing it into the mesh would hide part of the internet.
    #[error(
        "cluster_cidr {0} is not a private range (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10)"
    )]
    NotPrivate(Ipv4Net),
}

/// The part of the cluster range that belongs to one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeSubnet(Ipv4Net);

impl AddressPlan {
    /// A checked plan.
    pub fn new(cluster_cidr: Ipv4Net, subnet_prefix_len: u8) -> Result<Self, InvalidPlan> {
        if cluster_cidr.trunc() != cluster_cidr {
            return Err(InvalidPlan::HostBits { given: cluster_cidr, wanted: cluster_cidr.trunc() });
        }
        if !PRIVATE.iter().any(|net| net.contains(&cluster_cidr)) {
            return Err(InvalidPlan::NotPrivate(cluster_cidr));
        }
        if subnet_prefix_len <= cluster_cidr.prefix_len() || subnet_prefix_len > MAX_SLICE_PREFIX {
            return Err(InvalidPlan::NoNode { len: subnet_prefix_len, cidr: cluster_cidr });
        }
        Ok(Self { cluster_cidr, subnet_prefix_len })
    }

    /// How many nodes fit.
    pub fn capacity(&self) -> usize {
        1usize << (self.subnet_prefix_len - self.cluster_cidr.prefix_len())
    }

    /// Slice number `index`, counted from zero; `None` past the end.
    pub fn slice(&self, index: usize) -> Option<NodeSubnet> {
        if index >= self.capacity() {
            return None;
        }
        let size = 1u64 << (32 - self.subnet_prefix_len);
        let base = u64::from(u32::from(self.cluster_cidr.network())) + index as u64 * size;
        let address = Ipv4Addr::from(u32::try_from(base).ok()?);
        Ipv4Net::new(address, self.subnet_prefix_len).ok().map(NodeSubnet)
    }

    /// All node subnets in order.
    pub fn slices(&self) -> impl Iterator<Item = NodeSubnet> + '_ {
        (0..self.capacity()).filter_map(|index| self.slice(index))
    }

    /// Whether a node subnet belongs to this plan.
    pub fn holds(&self, subnet: &NodeSubnet) -> bool {
        subnet.0.prefix_len() == self.subnet_prefix_len
            && self.cluster_cidr.contains(&subnet.0)
            && subnet.0.trunc() == subnet.0
    }

    /// The node subnet that an address is in; `None` outside the cluster.
    pub fn containing(&self, address: Ipv4Addr) -> Option<NodeSubnet> {
        let subnet = Ipv4Net::new(address, self.subnet_prefix_len).ok()?.trunc();
        self.cluster_cidr.contains(&address).then_some(NodeSubnet(subnet))
    }

    /// The first node subnet that `taken` does not name; `None` when every node subnet is in use.
    pub fn first_free(&self, taken: impl Fn(&NodeSubnet) -> bool) -> Option<NodeSubnet> {
        self.slices().find(|slice| !taken(slice))
    }
}

impl NodeSubnet {
    /// The node subnet as a network.
    pub fn net(&self) -> Ipv4Net {
        self.0
    }

    /// `.1`: the workload bridge and the host itself.
    pub fn bridge(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// `.2`: the node's service address (DNS for containers), held inside the network namespace.
    pub fn service(&self) -> Ipv4Addr {
        self.nth(2)
    }

    /// The last address before the broadcast address: the source of what the namespace itself asks outside the cluster.
    pub fn egress(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.broadcast()) - 1)
    }

    /// Whether a container of this node subnet can have an address: from `.3` to the last before the egress address.
    pub fn is_container(&self, address: Ipv4Addr) -> bool {
        self.0.contains(&address) && address > self.service() && address < self.egress()
    }

    /// The node subnet as a key for the store: `10-101-3-0_24`.
    pub fn store_key(&self) -> String {
        format!("{}_{}", self.0.network().to_string().replace('.', "-"), self.0.prefix_len())
    }

    fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) + n)
    }
}

impl fmt::Display for NodeSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl fmt::Display for AddressPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in /{} node subnets", self.cluster_cidr, self.subnet_prefix_len)
    }
}

/// In a /30 there would be no address left for containers after `.1` and `.2`, nor one for [`NodeSubnet::egress`].
const MAX_SLICE_PREFIX: u8 = 29;

/// RFC 1918 and RFC 6598.
const PRIVATE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn plan(cidr: &str, len: u8) -> Result<AddressPlan, InvalidPlan> {
        AddressPlan::new(cidr.parse().unwrap(), len)
    }

    #[test]
    fn defaults_hold_256_nodes() {
        let plan = plan("10.101.0.0/16", 24).unwrap();
        assert_eq!(plan.capacity(), 256);
        let third = plan.slice(3).unwrap();
        assert_eq!(third.to_string(), "10.101.3.0/24");
        assert_eq!(third.bridge().to_string(), "10.101.3.1");
        assert_eq!(third.service().to_string(), "10.101.3.2");
        assert_eq!(third.egress().to_string(), "10.101.3.254");
        assert_eq!(third.store_key(), "10-101-3-0_24");
        assert_eq!(plan.slice(256), None);
    }

    #[test]
    fn impossible_plans_are_named() {
        assert!(matches!(plan("10.101.3.0/16", 24), Err(InvalidPlan::HostBits { .. })));
        assert!(matches!(plan("10.101.0.0/16", 16), Err(InvalidPlan::NoNode { .. })));
        assert!(matches!(plan("10.101.0.0/16", 30), Err(InvalidPlan::NoNode { .. })));
        assert!(matches!(plan("8.8.0.0/16", 24), Err(InvalidPlan::NotPrivate(_))));
    }

    #[test]
    fn a_plan_that_is_read_is_judged_too() {
        for bad in ["0.0.0.0/0\",\"subnet_prefix_len\":24", "10.0.0.0/16\",\"subnet_prefix_len\":8"] {
            let text = format!("{{\"cluster_cidr\":\"{bad}}}");
            assert!(serde_json::from_str::<AddressPlan>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_full_plan_has_no_free_slice() {
        let plan = plan("10.0.0.0/24", 26).unwrap();
        assert_eq!(plan.first_free(|_| true), None);
        assert_eq!(plan.first_free(|s| s.to_string() == "10.0.0.0/26").unwrap().to_string(), "10.0.0.64/26");
    }

    proptest! {
        #[test]
        fn slices_are_disjoint_and_inside(extra in 1u8..=8, prefix in 12u8..=20) {
            let cidr = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
            let plan = AddressPlan::new(cidr, prefix + extra).unwrap();
            let all: Vec<_> = plan.slices().collect();
            prop_assert_eq!(all.len(), plan.capacity());
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
            prop_assert!(all.iter().all(|s| plan.holds(s)));
            prop_assert!(all.windows(2).all(|w| u32::from(w[0].net().broadcast()) + 1 == u32::from(w[1].net().network())));
        }
    }
}
