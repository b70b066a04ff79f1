//! The table: one row for each thing of the host, what it is, who may change it, how that is noticed, what is done.

use crate::adopt::Component;
use std::fmt::Write as _;

/// One thing that a running network relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPart {
    /// IPv6 in the kernel.
    KernelIpv6,
    /// Sysctls of our links in the host.
    HostSysctls,
    /// Sysctls in the namespace.
    NetnsSysctls,
    /// The host's forwarding.
    Forwarding,
    /// Links and their addresses.
    Links,
    /// Our routes.
    Routes,
    /// Our policy rules.
    Rules,
    /// Policy rules and routes of others.
    OthersRules,
    /// The way to the peers.
    Underlay,
    /// This machine's addresses.
    Addresses,
    /// MTU of the underlay.
    Mtu,
    /// The tunnel's UDP port.
    UdpPort,
    /// Our nftables tables.
    Firewall,
    /// Firewalls of others.
    OthersFirewall,
    /// The gateway's ports.
    GatewayPort,
    /// Neighbour tables.
    Neighbours,
    /// Connection tracking.
    Conntrack,
    /// Open files.
    Descriptors,
    /// Room on disk.
    Disk,
    /// The clock.
    Clock,
    /// Resolvers of the host.
    Resolvers,
    /// Docker.
    Docker,
    /// Docker's network of workloads.
    DockerNetwork,
    /// Units of the data plane.
    Units,
    /// Programs on disk.
    Programs,
    /// Which machine the state belongs to.
    Identity,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which thing.
    pub part: HostPart,
    /// What it is.
    pub what: &'static str,
    /// Who may change it.
    pub changed_by: &'static str,
    /// How that is noticed.
    pub noticed: &'static str,
    /// What is done.
    pub done: Done,
}

/// What is done about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is owned: these components put it right.
    Fixed(&'static [Component]),
    /// It is the operator's: these checks of `doctor` report it.
    Reported(&'static [&'static str]),
    /// It is followed: what depends on it is changed.
    Followed(&'static str),
}

/// The table.
pub const TABLE: &[Row] = &[
    Row {
        part: HostPart::KernelIpv6,
        what: "IPv6 in the kernel",
        changed_by: "`ipv6.disable=1` on the kernel's command line",
        noticed: LOOK,
        done: Done::Reported(&["ipv6"]),
    },
    Row {
        part: HostPart::HostSysctls,
        what: "`disable_ipv6` of `ployz-veth`, `forwarding` of `ployz-veth` and `ployz0`",
        changed_by: "hardening guides and `/etc/sysctl.d`: `all` changes every link",
        noticed: EVENT,
        done: Done::Fixed(&[Component::Link]),
    },
    Row {
        part: HostPart::NetnsSysctls,
        what: "`disable_ipv6`, `forwarding`, `rp_filter` and `arp_ignore` in the namespace",
        changed_by: "`net.core.devconf_inherit_init_net`, an operator in the namespace",
        noticed: EVENT,
        done: Done::Fixed(&[Component::Wireguard, Component::Link]),
    },
    Row {
        part: HostPart::Forwarding,
        what: "`net.ipv4.ip_forward` of the host's other links, once there are workloads",
        changed_by: "hardening guides; Docker sets it at its start",
        noticed: LOOK,
        done: Done::Reported(&["forwarding"]),
    },
    Row {
        part: HostPart::Links,
        what: "`wg0`, both veth pairs, the bridge, their addresses",
        changed_by: "`ip link`, `ip netns`, NetworkManager, Docker",
        noticed: EVENT,
        done: Done::Fixed(&[Component::Netns, Component::Wireguard, Component::Link]),
    },
    Row {
        part: HostPart::Routes,
        what: "routes to the overlay (`proto 76`)",
        changed_by: "systemd-networkd at its restart (`ManageForeignRoutes=`), `ip route flush`",
        noticed: EVENT,
        done: Done::Fixed(&[Component::Link]),
    },
    Row {
        part: HostPart::Rules,
        what: "policy rules 75 and 76 to the overlay's ranges (`proto 76`)",
        changed_by: "systemd-networkd at its restart (`ManageForeignRoutingPolicyRules=`), `ip rule flush`",
        noticed: EVENT,
        done: Done::Fixed(&[Component::Link]),
    },
    Row {
        part: HostPart::OthersRules,
        what: "policy rules ahead of ours and narrower routes, which divert the overlay's packets",
        changed_by: "other VPNs, Kubernetes networks",
        noticed: LOOK,
        done: Done::Reported(&["policy-rules", "overlay-route"]),
    },
    Row {
        part: HostPart::Underlay,
        what: "the route to the peers' endpoints",
        changed_by: "other VPNs (a default route in their own table)",
        noticed: LOOK,
        done: Done::Reported(&["underlay-route"]),
    },
    Row {
        part: HostPart::Addresses,
        what: "this machine's own addresses",
        changed_by: "DHCP, roaming, the operator",
        noticed: EVENT,
        done: Done::Followed("the candidates in this machine's record; peers move to one that answers"),
    },
    Row {
        part: HostPart::Mtu,
        what: "MTU of the underlay's links",
        changed_by: "the operator, DHCP, another VPN",
        noticed: LOOK,
        done: Done::Reported(&["mtu"]),
    },
    Row {
        part: HostPart::UdpPort,
        what: "the tunnel's UDP port",
        changed_by: "another program that binds it first",
        noticed: LOOK,
        done: Done::Reported(&["udp-port"]),
    },
    Row {
        part: HostPart::Firewall,
        what: "table `inet ployz` in the host and in the namespace",
        changed_by: "`nft flush ruleset`, a restart of `nftables.service`",
        noticed: EVENT,
        done: Done::Fixed(&[Component::Firewall]),
    },
    Row {
        part: HostPart::OthersFirewall,
        what: "other programs' firewall rules that drop the tunnel's packets",
        changed_by: "firewalld, ufw, a cloud's security groups",
        noticed: "one probe per second to every peer",
        done: Done::Reported(&["peer", "firewalld"]),
    },
    Row {
        part: HostPart::GatewayPort,
        what: "the ports that the gateway listens on",
        changed_by: "another web server",
        noticed: "when `doctor` runs",
        done: Done::Reported(&["gateway-port"]),
    },
    Row {
        part: HostPart::Neighbours,
        what: "space in the neighbour tables (`gc_thresh3`)",
        changed_by: "many machines or containers on one segment",
        noticed: LOOK,
        done: Done::Reported(&["neighbours-ipv4", "neighbours-ipv6"]),
    },
    Row {
        part: HostPart::Conntrack,
        what: "space for tracked connections (`nf_conntrack_max`)",
        changed_by: "load, a small limit",
        noticed: LOOK,
        done: Done::Reported(&["conntrack"]),
    },
    Row {
        part: HostPart::Descriptors,
        what: "open files of the machine and of our processes",
        changed_by: "load, `fs.file-max`, limits in drop-ins",
        noticed: LOOK,
        done: Done::Reported(&["descriptors"]),
    },
    Row {
        part: HostPart::Disk,
        what: "bytes and inodes where the state is",
        changed_by: "anything else that writes there",
        noticed: LOOK,
        done: Done::Reported(&["disk"]),
    },
    Row {
        part: HostPart::Clock,
        what: "the clock against the peers'",
        changed_by: "no time synchronisation, a suspended machine",
        noticed: "when `doctor` runs",
        done: Done::Reported(&["clock"]),
    },
    Row {
        part: HostPart::Resolvers,
        what: "the host's resolvers for external names",
        changed_by: "DHCP, systemd-resolved, NetworkManager",
        noticed: "`/etc/resolv.conf` is followed",
        done: Done::Reported(&["dns-upstreams"]),
    },
    Row {
        part: HostPart::Docker,
        what: "the Docker engine",
        changed_by: "its restart, its upgrade",
        noticed: "its event stream",
        done: Done::Reported(&["docker"]),
    },
    Row {
        part: HostPart::DockerNetwork,
        what: "Docker's network `ployz0`",
        changed_by: "`docker network prune`, `docker system prune`",
        noticed: "its events `destroy`, `remove`, `update` and `disconnect` in Docker's stream, and at the latest after 30 s",
        done: Done::Reported(&["docker-network"]),
    },
    Row {
        part: HostPart::Units,
        what: "the units of the tunnel, store, gateway and DNS",
        changed_by: "`systemctl stop`, drop-ins",
        noticed: LOOK_AROUND,
        done: Done::Fixed(&[Component::Tunnel, Component::Nats, Component::Gateway, Component::Dns]),
    },
    Row {
        part: HostPart::Programs,
        what: "running programs match the installed versions",
        changed_by: "an upgrade",
        noticed: "when `doctor` runs",
        done: Done::Reported(&["programs"]),
    },
    Row {
        part: HostPart::Identity,
        what: "the machine the state belongs to",
        changed_by: "a copied disk or image, a restore to other hardware",
        noticed: "at start, and by the peers' probes",
        done: Done::Reported(&["identity"]),
    },
];

/// The table as it is printed in `docs/host.md`.
pub fn markdown() -> String {
    let mut text =
        String::from("| what | who may change it | how it is noticed | what is done |\n|---|---|---|---|\n");
    for Row { what, changed_by, noticed, done, .. } in TABLE {
        let done = match done {
            Done::Fixed(parts) => format!("fixed: {}", list(parts.iter().map(|part| part.as_str()))),
            Done::Reported(checks) => format!("reported: {}", list(checks.iter().copied())),
            Done::Followed(what) => format!("followed: {what}"),
        };
        let _ = writeln!(text, "| {what} | {changed_by} | {noticed} | {done} |");
    }
    text
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

const EVENT: &str = "kernel event, at the latest after 30 s";
const LOOK: &str = "checked every 15 s";
const LOOK_AROUND: &str = "checked at least every 30 s";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_thing_has_one_row() {
        let parts: BTreeSet<HostPart> = TABLE.iter().map(|row| row.part).collect();
        assert_eq!(parts.len(), TABLE.len());
    }
}
