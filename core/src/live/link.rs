//! Links, routes and sysctls as found.

use crate::spec::{RouteSpec, Side};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The links that carry our names, and the routes that carry our protocol number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkLive {
    /// Host end of the veth pair.
    pub host_end: Option<EndLive>,
    /// Namespace end of the veth pair.
    pub netns_end: Option<EndLive>,
    /// Workload bridge.
    pub bridge: Option<EndLive>,
    /// Routes with our protocol number, on either side.
    pub routes: BTreeSet<(Side, RouteSpec)>,
    /// The wanted sysctls as they are.
    pub netns_sysctls: BTreeMap<String, String>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndLive {
    /// Interface index.
    pub index: u32,
    /// Link kind as the kernel names it.
    pub kind: Option<String>,
    /// Alias: our mark of ownership.
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Addresses.
    pub addresses: BTreeSet<IpNet>,
    /// For a veth end: whether its other end is the one of our pair.
    pub paired: bool,
    /// For a bridge: how many ports it has.
    pub ports: usize,
}
