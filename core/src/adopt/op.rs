//! The operations of a plan. Each is one call of the apply step, which decides nothing: what is written is computed here,
//! from the spec and what was found. An operation that finds the world changed in the meantime fails and says so, and the
//! next run decides again.

use crate::adopt::Component;
use crate::adopt::device::DeviceChange;
use crate::adopt::sidecar::Replace;
use crate::spec::{Mac, RouteSpec, Rule, Side, UnitName};
use ipnet::IpNet;
use std::fmt;

/// One operation, with the component it is for and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOp {
    /// For which component.
    pub component: Component,
    /// What is done.
    pub op: Op,
    /// Why, in a few words: the drifted fields, `missing`, or the parent that is recreated.
    pub cause: String,
}

/// What is done. Names are those of the spec; sides say in which namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Take the namespace's name away.
    RemoveNetns(String),
    /// Make the namespace, marked as ours.
    CreateNetns(String),
    /// Start a unit that is not there.
    StartUnit(UnitName),
    /// Stop a unit and forget it.
    StopUnit(UnitName),
    /// Make a unit read its settings again.
    ReloadUnit(UnitName),
    /// Stop a process with its sockets and all that is left of earlier ones.
    StopSidecar(UnitName),
    /// Start a process with its sockets, or replace as much of it as `what` says.
    PutSidecar {
        /// Which.
        unit: UnitName,
        /// How much of it.
        what: Replace,
        /// Socket units of routes that are opened.
        opens: Vec<String>,
        /// Socket units of routes that are closed.
        closes: Vec<String>,
    },
    /// Write the store's configuration file.
    WriteStoreConfig(String),
    /// Wait until the store says that it runs with the settings of this revision.
    AwaitStore(String),
    /// Replace our nftables table in one transaction.
    LoadTable(Side),
    /// Make the kernel's WireGuard device, empty.
    CreateWireguard(String),
    /// Remove the WireGuard device.
    RemoveWireguard(String),
    /// Wait until the userspace tunnel's process has made its device.
    AwaitWireguard(String),
    /// Change key, port and peers; one operation however many peers, because they go in batched messages.
    ConfigureWireguard(String, DeviceChange),
    /// Bring the WireGuard device up, which opens its UDP port in the host's namespace.
    BringUpWireguard(String),
    /// Let the WireGuard device have IPv6 addresses, whatever is set for all links.
    EnableIpv6(String),
    /// Remove a link; one that is gone already is no error, because the other half of a pair goes with it.
    DeleteLink(Side, String),
    /// Make a veth pair: one end in the host, the other in the namespace.
    CreateVeth(String, String),
    /// Make the workload bridge, born with its hardware address.
    CreateBridge(String, Mac),
    /// Set the mark of ownership.
    SetAlias(Side, String, String),
    /// Set the hardware address.
    SetMac(Side, String, Mac),
    /// Set the MTU in bytes.
    SetMtu(Side, String, u32),
    /// Bring a link up.
    SetUp(Side, String),
    /// Make a link of the host a port of a bridge.
    AttachPort(String, String),
    /// Add an address to a link.
    AddAddress(Side, String, IpNet),
    /// Remove an address from a link.
    DeleteAddress(Side, String, IpNet),
    /// Add a route of ours.
    AddRoute(Side, RouteSpec),
    /// Remove a route of ours.
    DeleteRoute(Side, RouteSpec),
    /// Add a policy rule of ours to the host.
    AddRule(Rule),
    /// Remove one.
    DeleteRule(Rule),
    /// Write a sysctl, by path below `/proc/sys/net`.
    SetSysctl(Side, String, String),
}

impl fmt::Display for PlannedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} {} (because: {})", self.component, self.op, self.cause)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveNetns(name) => write!(f, "remove namespace {name}"),
            Self::CreateNetns(name) => write!(f, "create namespace {name}"),
            Self::StartUnit(unit) => write!(f, "start {unit}"),
            Self::StopUnit(unit) => write!(f, "stop {unit}"),
            Self::ReloadUnit(unit) => write!(f, "reload {unit}"),
            Self::StopSidecar(unit) => write!(f, "stop {unit} and its sockets"),
            Self::PutSidecar { unit, what, opens, closes } => put(f, unit, *what, opens, closes),
            Self::WriteStoreConfig(revision) => write!(f, "write the store's configuration {revision}"),
            Self::AwaitStore(revision) => write!(f, "wait for the store with settings {revision}"),
            Self::LoadTable(side) => write!(f, "load the nftables table of {side}"),
            Self::CreateWireguard(name) => write!(f, "create WireGuard device {name}"),
            Self::RemoveWireguard(name) => write!(f, "remove WireGuard device {name}"),
            Self::AwaitWireguard(name) => write!(f, "wait for WireGuard device {name}"),
            Self::ConfigureWireguard(name, change) => write!(f, "configure {name}: {change}"),
            Self::BringUpWireguard(name) => write!(f, "bring up netns:{name}"),
            Self::EnableIpv6(name) => write!(f, "enable IPv6 on netns:{name}"),
            Self::DeleteLink(side, name) => write!(f, "delete link {side}:{name}"),
            Self::CreateVeth(outer, inner) => write!(f, "create veth pair host:{outer} netns:{inner}"),
            Self::CreateBridge(name, mac) => write!(f, "create bridge host:{name} with {mac}"),
            Self::SetAlias(side, name, alias) => write!(f, "set alias of {side}:{name} to {alias}"),
            Self::SetMac(side, name, mac) => write!(f, "set hardware address of {side}:{name} to {mac}"),
            Self::SetMtu(side, name, mtu) => write!(f, "set MTU of {side}:{name} to {mtu}"),
            Self::SetUp(side, name) => write!(f, "bring up {side}:{name}"),
            Self::AttachPort(port, bridge) => write!(f, "attach host:{port} to {bridge}"),
            Self::AddAddress(side, name, address) => write!(f, "add address {address} to {side}:{name}"),
            Self::DeleteAddress(side, name, address) => {
                write!(f, "delete address {address} from {side}:{name}")
            }
            Self::AddRoute(side, route) => write!(f, "add route {side}:{route}"),
            Self::DeleteRoute(side, route) => write!(f, "delete route {side}:{route}"),
            Self::AddRule(rule) => write!(f, "add rule {rule}"),
            Self::DeleteRule(rule) => write!(f, "delete rule {rule}"),
            Self::SetSysctl(side, name, value) => write!(f, "set sysctl {side}:{name} to {value}"),
        }
    }
}

fn put(
    f: &mut fmt::Formatter<'_>,
    unit: &UnitName,
    what: Replace,
    opens: &[String],
    closes: &[String],
) -> fmt::Result {
    match what {
        Replace::All => write!(f, "start {unit} with all its sockets")?,
        Replace::Process | Replace::Routes => write!(f, "restart {unit}, its sockets stay")?,
    }
    for (word, names) in [("open", opens), ("close", closes)] {
        if !names.is_empty() {
            write!(f, "; {word} {}", names.join(" "))?;
        }
    }
    Ok(())
}
