//! One nftables table of ours a namespace, as readable text. Rules of other programs are neither named nor changed.
//!
//! The rules are written the way `nft list` prints them, so that a live table can be compared rule by rule.

use crate::address::{AddressPlan, NodeSubnet, OverlayPrefix};
use crate::spec::link::{BRIDGE, HOST_END, NETNS_END, SERVICE_END, WG_DEVICE};
use crate::wire::v1::join::PORT;
use std::net::Ipv6Addr;

/// The wanted tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallSpec {
    /// Table `inet ployz` of the host namespace.
    pub host: Table,
    /// Table `inet ployz` of the namespace.
    pub netns: Table,
}

/// One table: chains in order, each with its hook line and its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Chains in the order in which they are loaded.
    pub chains: Vec<Chain>,
}

/// One base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name of the chain, unique in its table.
    pub name: String,
    /// For example `type filter hook forward priority filter; policy accept;`.
    pub hook: String,
    /// Rules as `nft list` prints them.
    pub rules: Vec<String>,
}

impl FirewallSpec {
    /// The rules of one node.
    pub fn of(prefix: OverlayPrefix, own: Ipv6Addr, subnet: NodeSubnet, plan: &AddressPlan) -> Self {
        Self { host: host_table(prefix, subnet, plan), netns: netns_table(prefix, own, subnet) }
    }
}

impl Table {
    /// The text for `nft -f -`: replaces our table in one transaction.
    pub fn script(&self) -> String {
        format!("table inet {TABLE}\ndelete table inet {TABLE}\n{}", self.body())
    }

    /// The text that removes our table, whether or not it is there.
    pub fn removal() -> String {
        format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
    }

    fn body(&self) -> String {
        let mut text = format!("table inet {TABLE} {{\n");
        for chain in &self.chains {
            text += &format!("\tchain {} {{\n\t\t{}\n", chain.name, chain.hook);
            for rule in &chain.rules {
                text += &format!("\t\t{rule}\n");
            }
            text += "\t}\n";
        }
        text + "}\n"
    }
}

/// Overlay traffic may leave and enter the host only through our links: nothing leaks to the underlay when the
/// tunnel is away, and no host on the underlay can pretend to be a peer.
fn host_table(prefix: OverlayPrefix, subnet: NodeSubnet, plan: &AddressPlan) -> Table {
    let ours = format!("{{ \"lo\", \"{HOST_END}\", \"{BRIDGE}\" }}");
    let (v6, v4, own) = (prefix.net(), plan.cluster_cidr, subnet.net());
    Table {
        chains: vec![
            Chain {
                name: "spoofed".into(),
                hook: "type filter hook prerouting priority raw; policy accept;".into(),
                rules: vec![
                    format!("iifname != {ours} ip6 saddr {v6} drop"),
                    format!("iifname != {ours} ip6 daddr {v6} drop"),
                    format!("iifname != {ours} ip saddr {v4} drop"),
                    format!("iifname != {ours} ip daddr {v4} drop"),
                ],
            },
            Chain {
                name: "leaked".into(),
                hook: "type filter hook postrouting priority raw; policy accept;".into(),
                rules: vec![
                    format!("oifname != {ours} ip6 daddr {v6} drop"),
                    format!("oifname != {ours} ip daddr {v4} drop"),
                ],
            },
            Chain {
                name: "untracked".into(),
                hook: "type filter hook prerouting priority raw; policy accept;".into(),
                // Workloads reach the overlay through the host and are answered over the bridge. Connection tracking
                // sees half of that and calls it invalid, which firewalld, for one, drops.
                rules: vec![
                    format!("iifname \"{BRIDGE}\" ip saddr {own} ip daddr {v4} ip daddr != {own} notrack"),
                    format!("iifname \"{BRIDGE}\" ip saddr {v4} ip saddr != {own} ip daddr {own} notrack"),
                ],
            },
            Chain {
                name: "egress".into(),
                hook: "type nat hook postrouting priority srcnat; policy accept;".into(),
                rules: vec![
                    format!("ip saddr {own} ip daddr != {v4} oifname != \"{BRIDGE}\" masquerade"),
                    // Only what Docker translated (a port published on the bridge address) comes this way. Answered
                    // to the host it is translated back; answered to the overlay it would not be.
                    format!("iifname \"{HOST_END}\" oifname \"{BRIDGE}\" masquerade"),
                ],
            },
        ],
    }
}

/// The namespace has a way out of the cluster (docs/decisions/0005-containers-on-the-bridge.md) for its own questions:
/// no other packets go that way, and only answers come back.
fn netns_table(prefix: OverlayPrefix, own: Ipv6Addr, subnet: NodeSubnet) -> Table {
    let (v6, host, guests) = (prefix.net(), prefix.host(), prefix.guests());
    let (workloads, egress) = (subnet.net(), subnet.egress());
    Table {
        chains: vec![
            Chain {
                name: "input".into(),
                hook: "type filter hook input priority filter; policy accept;".into(),
                rules: vec![
                    "iifname \"lo\" accept".into(),
                    "ct state established,related accept".into(),
                    format!("ip daddr {egress} drop"),
                    // A holder of a token may redeem it, through the tunnel, and do nothing else.
                    format!("ip6 saddr {guests} tcp dport {PORT} accept"),
                    format!("ip6 saddr {guests} drop"),
                    format!("ip6 saddr {v6} accept"),
                    "tcp dport { 4222, 6222, 7422, 8222 } drop".into(),
                ],
            },
            Chain {
                name: "forward".into(),
                hook: "type filter hook forward priority mangle; policy accept;".into(),
                rules: vec![
                    format!("ip6 saddr {guests} drop"),
                    format!("oifname \"{SERVICE_END}\" ip daddr != {workloads} drop"),
                    "tcp flags syn tcp option maxseg size set rt mtu".into(),
                ],
            },
            Chain {
                name: "from_host".into(),
                hook: "type nat hook postrouting priority srcnat; policy accept;".into(),
                rules: vec![format!("oifname \"{WG_DEVICE}\" ip6 saddr {host} snat ip6 to {own}")],
            },
            Chain {
                name: "only_ours".into(),
                hook: "type filter hook prerouting priority raw; policy accept;".into(),
                rules: vec![
                    format!("iifname \"{NETNS_END}\" ip6 saddr != {{ {host}, fe80::/10 }} drop"),
                    format!("iifname \"{SERVICE_END}\" ip saddr != {workloads} ip daddr != {egress} drop"),
                ],
            },
        ],
    }
}

/// Name of our table in each namespace.
pub const TABLE: &str = "ployz";
