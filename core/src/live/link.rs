//! Links, routes, rules and sysctls as found.

use crate::spec::{Mac, RouteSpec, Rule, Side};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The links that carry our names, and the routes that carry our protocol number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkLive {
    /// Host end of the veth pair.
    pub host_end: Option<EndLive>,
    /// Namespace end of the veth pair.
    pub netns_end: Option<EndLive>,
    /// The workload bridge `ployz0`, in the host.
    pub bridge: Option<EndLive>,
    /// The namespace's port of the bridge, host end.
    pub port_end: Option<EndLive>,
    /// The same, namespace end.
    pub service_end: Option<EndLive>,
    /// Routes with our protocol number, on either side.
    pub routes: BTreeSet<(Side, RouteSpec)>,
    /// Policy rules of the host with our protocol number.
    pub rules: BTreeSet<Rule>,
    /// The wanted sysctls of the host as they are.
    pub host_sysctls: BTreeMap<String, String>,
    /// The wanted sysctls of the namespace as they are.
    pub netns_sysctls: BTreeMap<String, String>,
}

/// One link that carries one of our names; whether it is ours is said by its alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndLive {
    /// Interface index in its own namespace; another one after a recreation.
    pub index: u32,
    /// Link kind as the kernel names it.
    pub kind: Option<String>,
    /// Alias: our mark of ownership.
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`), whether or not it has carrier.
    pub up: bool,
    /// Hardware address, 6 bytes; `None` for a link without one.
    pub mac: Option<Mac>,
    /// Name of the bridge that it is a port of.
    pub controller: Option<String>,
    /// Addresses with prefix lengths; link-local ones included only if they are wanted.
    pub addresses: BTreeSet<IpNet>,
    /// For a veth end: whether its other end is the one of its pair of ours.
    pub paired: bool,
    /// For a bridge: how many ports it has besides the namespace's.
    pub ports: usize,
}
