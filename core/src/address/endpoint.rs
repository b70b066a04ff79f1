//! Which underlay addresses a machine offers to its peers, and in which order they are tried.
//!
//! The policy is fixed (not configurable): what cannot work is dropped, what is near comes first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One address found on an interface, with what is needed to judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Interface name, for example `eth0`.
    pub interface: String,
    /// Link kind as the kernel names it (`bridge`, `veth`, `wireguard`); `None` for hardware.
    pub kind: Option<String>,
    /// MTU of the link in bytes.
    pub mtu: u32,
    /// Whether the link is administratively up.
    pub up: bool,
    /// One address of the link, without its prefix length.
    pub address: IpAddr,
}

/// How useful a candidate is likely to be; lower is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Candidate {
    /// Private IPv4 (RFC 1918: 10/8, 172.16/12, 192.168/16).
    Private,
    /// RFC 6598 (carrier-grade NAT).
    CarrierNat,
    /// Anything else that is routable.
    Public,
}

/// The endpoints to offer: `local` addresses filtered and ordered, joined by those that peers `reflected`.
///
/// `overlay` tells which addresses are ours inside the mesh: they are never offered (a handshake through the
/// tunnel itself would make a tunnel in a tunnel). Equal classes keep IPv4 before IPv6, then address order, so
/// the list does not change while the machine does not.
pub fn candidates(
    local: &[Observed],
    reflected: &[SocketAddr],
    port: u16,
    overlay: impl Fn(&IpAddr) -> bool,
) -> Vec<SocketAddr> {
    let mut found: Vec<(Candidate, SocketAddr)> = local
        .iter()
        .filter(|seen| seen.up && usable_link(seen))
        .map(|seen| SocketAddr::new(seen.address, port))
        .chain(reflected.iter().map(|seen| SocketAddr::new(canonical(seen.ip()), seen.port())))
        .filter(|endpoint| !overlay(&endpoint.ip()))
        .filter_map(|endpoint| classify(&endpoint.ip()).map(|class| (class, endpoint)))
        .collect();
    found.sort_by_key(|(class, endpoint)| (*class, endpoint.is_ipv6(), *endpoint));
    found.dedup();
    found.truncate(MAX_CANDIDATES);
    found.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// What is offered: the endpoints an operator named, then those that were found.
pub fn offered(named: impl IntoIterator<Item = SocketAddr>, found: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for endpoint in named.into_iter().chain(found.iter().copied()) {
        if !all.contains(&endpoint) {
            all.push(endpoint);
        }
    }
    all.truncate(MAX_CANDIDATES);
    all
}

/// Why an address is not offered, where an operator may wonder: `None` for those that are, and for loopback, link-local
/// and links that lead into containers or tunnels.
pub fn why_not(seen: &Observed) -> Option<&'static str> {
    let ours = HELPER_NAMES.iter().any(|prefix| seen.interface.starts_with(prefix));
    let unique_local = matches!(canonical(seen.address), IpAddr::V6(v6) if is_unique_local(v6));
    let ordinary = unique_local || classify(&seen.address).is_some();
    if ours || !ordinary {
        None
    } else if !seen.up {
        Some("its link is down")
    } else if unique_local {
        Some("a unique local address (ULA), which only its own site can reach")
    } else if seen.mtu < MIN_UNDERLAY_MTU {
        Some("the MTU of its link is too small for the tunnel")
    } else {
        None
    }
}

/// The class of an address, or `None` when it must not be offered at all.
pub fn classify(address: &IpAddr) -> Option<Candidate> {
    match canonical(*address) {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(v4: Ipv4Addr) -> Option<Candidate> {
    let [a, b, ..] = v4.octets();
    if v4.is_loopback()
        || v4.is_link_local()
        || v4.is_unspecified()
        || v4.is_multicast()
        || v4.is_broadcast()
        || a == 0
    {
        None
    } else if v4.is_private() {
        Some(Candidate::Private)
    } else if a == 100 && (64..128).contains(&b) {
        Some(Candidate::CarrierNat)
    } else {
        Some(Candidate::Public)
    }
}

fn classify_v6(v6: Ipv6Addr) -> Option<Candidate> {
    let first = v6.segments()[0];
    let link_local = first & 0xffc0 == 0xfe80;
    if v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || is_unique_local(v6) || link_local {
        None
    } else {
        Some(Candidate::Public)
    }
}

/// Whether it is a unique local address: fc00::/7 (RFC 4193).
fn is_unique_local(v6: Ipv6Addr) -> bool {
    v6.segments()[0] & 0xfe00 == 0xfc00
}

fn usable_link(seen: &Observed) -> bool {
    let helper_kind = seen.kind.as_deref().is_some_and(|kind| HELPER_KINDS.contains(&kind));
    let helper_name = HELPER_NAMES.iter().any(|prefix| seen.interface.starts_with(prefix));
    let cluster_facing_bridge = seen.kind.as_deref() == Some("bridge") && !helper_name;
    seen.mtu >= MIN_UNDERLAY_MTU && !helper_name && (!helper_kind || cluster_facing_bridge)
}

/// `::ffff:10.0.0.1` is `10.0.0.1`: a dual-stack socket reports IPv4 peers that way.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// IPv6 needs 1280 bytes inside the tunnel (RFC 8200); WireGuard over IPv6 adds 80.
pub const MIN_UNDERLAY_MTU: u32 = 1280 + 80;

/// More would only slow rotation down.
const MAX_CANDIDATES: usize = 8;

/// Links that lead into containers or other tunnels. Bridges and veth links are judged by their names: on many
/// servers the machine's own address lives on `br0`, and `eth0` of a system container is one end of a veth pair.
const HELPER_KINDS: [&str; 12] = [
    "wireguard",
    "tun",
    "dummy",
    "vxlan",
    "geneve",
    "gre",
    "ip6gre",
    "ipip",
    "sit",
    "ip6tnl",
    "ifb",
    "nlmon",
];
const HELPER_NAMES: [&str; 17] = [
    "docker",
    "br-",
    "veth",
    "ployz",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "lxc",
    "lxd",
    "virbr",
    "vnet",
    "tailscale",
    "wg",
    "zt",
    "podman",
    "kube",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(interface: &str, kind: Option<&str>, mtu: u32, address: &str) -> Observed {
        Observed {
            interface: interface.into(),
            kind: kind.map(Into::into),
            mtu,
            up: true,
            address: address.parse().unwrap(),
        }
    }

    fn offered(local: &[Observed], reflected: &[&str]) -> Vec<String> {
        let reflected: Vec<SocketAddr> = reflected.iter().map(|r| r.parse().unwrap()).collect();
        let ours: ipnet::Ipv4Net = "10.101.0.0/16".parse().unwrap();
        let overlay = |ip: &IpAddr| matches!(ip, IpAddr::V4(v4) if ours.contains(v4));
        candidates(local, &reflected, 51820, overlay).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn private_then_carrier_nat_then_public() {
        let local = [
            seen("eth0", None, 1500, "203.0.113.7"),
            seen("eth1", None, 1500, "100.64.1.2"),
            seen("eth2", None, 1500, "192.168.1.2"),
            seen("eth0", None, 1500, "2001:db8::7"),
            seen("eth3", None, 9000, "10.0.0.2"),
        ];
        let want = [
            "10.0.0.2:51820",
            "192.168.1.2:51820",
            "100.64.1.2:51820",
            "203.0.113.7:51820",
            "[2001:db8::7]:51820",
        ];
        assert_eq!(offered(&local, &[]), want);
    }

    #[test]
    fn what_cannot_work_is_dropped() {
        let local = [
            seen("lo", None, 65536, "127.0.0.1"),
            seen("lo", None, 65536, "::1"),
            seen("eth0", None, 1500, "169.254.3.4"),
            seen("eth0", None, 1500, "fe80::1"),
            seen("eth0", None, 1500, "fd12::1"),
            seen("eth1", None, 1280, "10.9.9.9"),
            seen("docker0", Some("bridge"), 1500, "172.17.0.1"),
            seen("br-1f2e", Some("bridge"), 1500, "172.18.0.1"),
            seen("veth12", Some("veth"), 1500, "10.4.4.4"),
            seen("wg1", Some("wireguard"), 1420, "10.5.5.5"),
            seen("tailscale0", Some("tun"), 1500, "100.100.1.1"),
            seen("eth4", None, 1500, "10.101.0.1"),
        ];
        assert_eq!(offered(&local, &[]), Vec::<String>::new());
    }

    #[test]
    fn what_an_operator_named_comes_first_and_once() {
        let read =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let found = read(&["10.0.0.2:51820", "192.168.1.2:51820"]);
        let named = read(&["[fd12::1]:51820", "192.168.1.2:51820"]);
        let want = read(&["[fd12::1]:51820", "192.168.1.2:51820", "10.0.0.2:51820"]);
        assert_eq!(super::offered(named, &found), want);
        let many = (1..=20).map(|port| SocketAddr::from(([10, 0, 0, 2], port)));
        assert_eq!(super::offered(many, &found).len(), MAX_CANDIDATES);
    }

    #[test]
    fn an_address_that_is_left_out_has_a_reason() {
        let why = |interface, mtu, address| why_not(&seen(interface, None, mtu, address));
        assert!(why("eth0", 1500, "fd12::1").unwrap().contains("ULA"));
        assert!(why("eth0", 1280, "10.0.0.2").unwrap().contains("MTU"));
        for (interface, address) in
            [("eth0", "10.0.0.2"), ("lo", "::1"), ("eth0", "fe80::1"), ("docker0", "fd12::1")]
        {
            assert_eq!(why(interface, 1500, address), None, "{address}");
        }
    }

    #[test]
    fn a_bridge_that_carries_the_machine_is_kept() {
        assert_eq!(offered(&[seen("br0", Some("bridge"), 1500, "192.168.7.2")], &[]), ["192.168.7.2:51820"]);
    }

    #[test]
    fn reflected_addresses_join_the_same_order_once() {
        let local = [seen("eth0", None, 1500, "10.0.0.2")];
        let got = offered(&local, &["198.51.100.9:40000", "10.0.0.2:51820", "[::ffff:198.51.100.9]:40000"]);
        assert_eq!(got, ["10.0.0.2:51820", "198.51.100.9:40000"]);
    }

    #[test]
    fn links_that_are_down_are_not_offered() {
        let mut down = seen("eth0", None, 1500, "10.0.0.2");
        down.up = false;
        assert_eq!(offered(&[down], &[]), Vec::<String>::new());
    }
}
