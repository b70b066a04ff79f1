//! The veth pair between host and namespace, the workload bridge, and the routes and sysctls that make them work.

use crate::address::{NodeSubnet, OverlayPrefix};
use crate::id::NetworkId;
use crate::spec::netns::owner_alias;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// The wanted links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// The network they serve; gives the ownership alias.
    pub network: NetworkId,
    /// Host end of the veth pair.
    pub host_end: String,
    /// Namespace end of the veth pair.
    pub netns_end: String,
    /// Workload bridge in the host namespace.
    pub bridge: String,
    /// MTU of all three: the tunnel's.
    pub mtu: u32,
    /// Addresses of the host end.
    pub host_addresses: BTreeSet<IpNet>,
    /// Addresses of the namespace end.
    pub netns_addresses: BTreeSet<IpNet>,
    /// Addresses of the bridge.
    pub bridge_addresses: BTreeSet<IpNet>,
    /// Routes by side.
    pub routes: BTreeSet<(Side, RouteSpec)>,
    /// Sysctls inside the namespace, by path below `/proc/sys/net`.
    pub netns_sysctls: BTreeMap<String, String>,
}

/// In which namespace something lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The host namespace.
    Host,
    /// The namespace `ployz`.
    Netns,
}

/// One wanted route. All of ours carry protocol [`ROUTE_PROTOCOL`], which is how they are told from others'.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteSpec {
    /// Destination.
    pub to: IpNet,
    /// Where it goes.
    pub via: RouteVia,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteVia {
    /// Out of this device, on link.
    Device(String),
    /// Out of this device to a link-local next hop; serves IPv4 destinations too (RFC 5549), so nothing
    /// depends on ARP or on the host's `arp_*` settings.
    Gateway(String, Ipv6Addr),
}

impl LinkSpec {
    /// The links of one node.
    pub fn of(
        network: &NetworkId,
        prefix: OverlayPrefix,
        own: NodeSubnet,
        cluster: Ipv4Net,
        mtu: u32,
    ) -> Self {
        let gateway = |device: &str, hop| RouteVia::Gateway(device.to_owned(), hop);
        let route = |to: IpNet, via, source| RouteSpec { to, via, source };
        let overlay = IpNet::V6(prefix.net());
        let bridge = IpAddr::V4(own.bridge());
        let host6 = IpAddr::V6(prefix.host());
        let service = IpNet::from(IpAddr::V4(own.service()));
        let to_netns = || gateway(HOST_END, NETNS_HOP);
        let tunnel = || RouteVia::Device(WG_DEVICE.to_owned());
        let to_host = || gateway(NETNS_END, HOST_HOP);
        Self {
            network: network.clone(),
            host_end: HOST_END.to_owned(),
            netns_end: NETNS_END.to_owned(),
            bridge: BRIDGE.to_owned(),
            mtu,
            host_addresses: BTreeSet::from([link_local(HOST_HOP), IpNet::from(host6)]),
            netns_addresses: BTreeSet::from([link_local(NETNS_HOP)]),
            bridge_addresses: BTreeSet::from([IpNet::V4(
                Ipv4Net::new(own.bridge(), own.net().prefix_len()).expect("the prefix is the subnet's own"),
            )]),
            routes: BTreeSet::from([
                (Side::Host, route(overlay, to_netns(), Some(host6))),
                (Side::Host, route(IpNet::V4(cluster), to_netns(), Some(bridge))),
                (Side::Host, route(service, to_netns(), Some(bridge))),
                (Side::Netns, route(overlay, tunnel(), None)),
                (Side::Netns, route(IpNet::V4(cluster), tunnel(), None)),
                (Side::Netns, route(IpNet::V4(own.net()), to_host(), None)),
                (Side::Netns, route(IpNet::from(host6), to_host(), None)),
            ]),
            netns_sysctls: BTreeMap::from([
                ("ipv4/ip_forward".to_owned(), "1".to_owned()),
                ("ipv6/conf/all/forwarding".to_owned(), "1".to_owned()),
            ]),
        }
    }

    /// The mark of ownership on each link.
    pub fn alias(&self) -> String {
        owner_alias(&self.network)
    }
}

fn link_local(address: Ipv6Addr) -> IpNet {
    IpNet::new(IpAddr::V6(address), 64).expect("64 is a valid IPv6 prefix length")
}

/// The tunnel's name inside the namespace.
pub const WG_DEVICE: &str = "wg0";
/// Host end of the veth pair.
pub const HOST_END: &str = "ployz-veth";
/// Namespace end of the veth pair.
pub const NETNS_END: &str = "host0";
/// Workload bridge.
pub const BRIDGE: &str = "ployz0";
/// Link-local address of the host end.
pub const HOST_HOP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Link-local address of the namespace end.
pub const NETNS_HOP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// `proto` of our routes as `ip route` prints it; free in `/etc/iproute2/rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 76;
