//! The links between host, namespace and workloads, and the routes, rules and sysctls that make them work.
//!
//! Two veth pairs: one for the host, routed; one that makes the namespace a port of the workload bridge. Workloads and
//! namespace are on one Ethernet segment, so that no forward rule of Docker, nor of anybody else, is on the way to
//! a workload (docs/decisions/0005-containers-on-the-bridge.md).

use crate::address::{NodeSubnet, OverlayPrefix};
use crate::id::NetworkId;
use crate::spec::netns::owner_alias;
use crate::spec::rule::Rule;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Host end of the second pair: the namespace's port of the bridge.
    pub port_end: String,
    /// Namespace end of the second pair: where the service address is on link for workloads.
    pub service_end: String,
    /// MTU of all of them: the tunnel's.
    pub mtu: u32,
    /// Addresses of the host end.
    pub host_addresses: BTreeSet<IpNet>,
    /// Addresses of the namespace end.
    pub netns_addresses: BTreeSet<IpNet>,
    /// Addresses of the bridge.
    pub bridge_addresses: BTreeSet<IpNet>,
    /// Addresses of the service end.
    pub service_addresses: BTreeSet<IpNet>,
    /// Hardware address of the bridge. One that is not set follows the ports: it changes with the first container and
    /// is lost with the last, and workloads send to the old one until ARP notices.
    pub bridge_mac: Mac,
    /// Hardware address of the service end, the same whenever the namespace is recreated.
    pub service_mac: Mac,
    /// Routes by side.
    pub routes: BTreeSet<(Side, RouteSpec)>,
    /// Policy rules of the host, which lead to those routes whatever other rules there are.
    pub rules: BTreeSet<Rule>,
    /// Sysctls of our own links in the host, by path below `/proc/sys/net`: what the host wants for all links is not ours
    /// to change.
    pub host_sysctls: BTreeMap<String, String>,
    /// Sysctls inside the namespace, by path below `/proc/sys/net`.
    pub netns_sysctls: BTreeMap<String, String>,
}

/// The hardware address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// In which namespace something lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Side {
    /// The host namespace.
    Host,
    /// The namespace `ployz`.
    Netns,
}

impl Side {
    /// `host` or `netns`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One wanted route. All of ours carry protocol [`ROUTE_PROTOCOL`], which is how they are told from others'.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteSpec {
    /// Destination network, host bits zero.
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
    /// Out of this device to a next hop. A link-local IPv6 one serves IPv4 destinations too (RFC 5549), so that nothing
    /// depends on ARP or on the host's `arp_*` settings.
    Gateway(String, IpAddr),
}

impl RouteVia {
    /// The link it leaves by.
    pub fn device(&self) -> &str {
        match self {
            Self::Device(device) | Self::Gateway(device, _) => device,
        }
    }
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
        let gateway = |device: &str, hop: IpAddr| RouteVia::Gateway(device.to_owned(), hop);
        let route = |to: IpNet, via, source| RouteSpec { to, via, source };
        let overlay = IpNet::V6(prefix.net());
        let bridge = IpAddr::V4(own.bridge());
        let host6 = IpAddr::V6(prefix.host());
        let service = IpNet::from(IpAddr::V4(own.service()));
        let egress = IpAddr::V4(own.egress());
        let to_netns = || gateway(HOST_END, NETNS_HOP.into());
        let tunnel = || RouteVia::Device(WG_DEVICE.to_owned());
        let to_host = || gateway(NETNS_END, HOST_HOP.into());
        let workloads = || RouteVia::Device(SERVICE_END.to_owned());
        Self {
            network: network.clone(),
            host_end: HOST_END.to_owned(),
            netns_end: NETNS_END.to_owned(),
            bridge: BRIDGE.to_owned(),
            port_end: PORT_END.to_owned(),
            service_end: SERVICE_END.to_owned(),
            mtu,
            host_addresses: BTreeSet::from([link_local(HOST_HOP), IpNet::from(host6)]),
            netns_addresses: BTreeSet::from([link_local(NETNS_HOP)]),
            bridge_addresses: BTreeSet::from([IpNet::V4(
                Ipv4Net::new(own.bridge(), own.net().prefix_len()).expect("the prefix is the subnet's own"),
            )]),
            service_addresses: BTreeSet::from([service, IpNet::from(egress)]),
            bridge_mac: Mac::of(own.bridge()),
            service_mac: Mac::of(own.service()),
            routes: BTreeSet::from([
                (Side::Host, route(overlay, to_netns(), Some(host6))),
                (Side::Host, route(IpNet::V4(cluster), to_netns(), Some(bridge))),
                (Side::Host, route(service, to_netns(), Some(bridge))),
                (Side::Netns, route(overlay, tunnel(), None)),
                (Side::Netns, route(IpNet::V4(cluster), tunnel(), None)),
                (Side::Netns, route(IpNet::V4(own.net()), workloads(), Some(service.addr()))),
                // The host answers over the first pair, so this must not go to the bridge: a strict rp_filter drops it.
                (Side::Netns, route(IpNet::from(bridge), to_host(), None)),
                (Side::Netns, route(IpNet::from(host6), to_host(), None)),
                // Out of the cluster as a workload goes: over the bridge and masqueraded. By the first pair it would come
                // to the host from a link that Docker's FORWARD policy does not accept.
                (Side::Netns, route(EVERYTHING, gateway(SERVICE_END, bridge), Some(egress))),
            ]),
            rules: [overlay, IpNet::V4(cluster)].into_iter().flat_map(Rule::ours).collect(),
            host_sysctls: HOST_SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            netns_sysctls: SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }

    /// The mark of ownership on each link.
    pub fn alias(&self) -> String {
        owner_alias(&self.network)
    }
}

impl Mac {
    /// Locally administered, and unlike any that Docker gives (02:42 and the container's address).
    fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x70, a, b, c, d])
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.via {
            RouteVia::Device(device) => write!(f, "{} dev {device}", self.to)?,
            RouteVia::Gateway(device, hop) => write!(f, "{} via {hop} dev {device}", self.to)?,
        }
        self.source.iter().try_for_each(|source| write!(f, " src {source}"))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn link_local(address: Ipv6Addr) -> IpNet {
    IpNet::new(IpAddr::V6(address), 64).expect("64 is a valid IPv6 prefix length")
}

/// The default route's destination.
const EVERYTHING: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
/// The tunnel's name inside the namespace.
pub const WG_DEVICE: &str = "wg0";
/// Host end of the veth pair.
pub const HOST_END: &str = "ployz-veth";
/// Namespace end of the veth pair.
pub const NETNS_END: &str = "host0";
/// Name of the workload bridge and of the Docker network on it.
pub const BRIDGE: &str = "ployz0";
/// The namespace's port of the bridge, in the host.
pub const PORT_END: &str = "ployz-port";
/// The other end of that port, in the namespace.
pub const SERVICE_END: &str = "svc0";
/// Link-local address of the host end.
pub const HOST_HOP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Link-local address of the namespace end.
pub const NETNS_HOP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// `proto` of our routes as `ip route` prints it; free in `/etc/iproute2/rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 76;

/// Of our links alone. `all` in front of these names changes every link of the host, and is what hardening guides set;
/// a link's own value counts, whenever it was set last.
const HOST_SYSCTLS: [(&str, &str); 3] = [
    // From workloads to the overlay, and from the namespace to a published port.
    ("ipv4/conf/ployz0/forwarding", "1"),
    ("ipv4/conf/ployz-veth/forwarding", "1"),
    // The overlay is IPv6, and its next hops serve IPv4 too.
    ("ipv6/conf/ployz-veth/disable_ipv6", "0"),
];

/// A new namespace starts with the host's values, whatever those are: all that matter are set.
const SYSCTLS: [(&str, &str); 10] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    // Workloads answer by the bridge to what came from them by the host: no path is the reverse of another.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/host0/rp_filter", "0"),
    ("ipv4/conf/svc0/rp_filter", "0"),
    ("ipv4/conf/all/arp_ignore", "0"),
    ("ipv4/conf/svc0/arp_ignore", "0"),
    // Overlay IPv6 is what the control plane trusts: nothing of it may come from a workload's Ethernet frame.
    ("ipv6/conf/svc0/disable_ipv6", "1"),
    ("ipv6/conf/lo/disable_ipv6", "0"),
    ("ipv6/conf/host0/disable_ipv6", "0"),
];
