//! The links of a node: found whole, set in place, removed only when proven ours.

use crate::error::{Context, Result};
use crate::namespace;
use crate::netlink::{Link, Rtnl};
use crate::sysctl;
use ipnet::IpNet;
use ployz_core::adopt::Seen;
use ployz_core::live::{EndLive, LinkLive};
use ployz_core::spec::link::{HOST_HOP, NETNS_HOP};
use ployz_core::spec::netns::owned_by_us;
use ployz_core::spec::{LinkSpec, Mac, Side};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

/// What is there. `netns` is the namespace file; when it names no namespace only the host half is looked at.
pub async fn inspect(spec: &LinkSpec, netns: &Path) -> Seen<LinkLive> {
    match find(spec, netns).await {
        Ok(live) if live == LinkLive::default() => Seen::Absent,
        Ok(live) => Seen::Present(live),
        Err(error) => Seen::Unknown(ployz_core::text::chain(&error)),
    }
}

async fn find(spec: &LinkSpec, netns: &Path) -> Result<LinkLive> {
    let mut live = LinkLive::default();
    let host = View::of(Rtnl::here()?).await?;
    let inside = match namespace::id_of(netns)? {
        Some(_) => Some(View::of(Rtnl::inside(netns)?).await?),
        None => None,
    };
    let host_end = host.link(&spec.host_end);
    let netns_end = inside.as_ref().and_then(|side| side.link(&spec.netns_end));
    let paired = is_pair(host_end, netns_end);
    live.host_end = host_end.map(|link| host.end(link, paired));
    live.netns_end = netns_end.zip(inside.as_ref()).map(|(link, side)| side.end(link, paired));
    let port_end = host.link(&spec.port_end);
    let service_end = inside.as_ref().and_then(|side| side.link(&spec.service_end));
    let paired = is_pair(port_end, service_end);
    live.port_end = port_end.map(|link| host.end(link, paired));
    live.service_end = service_end.zip(inside.as_ref()).map(|(link, side)| side.end(link, paired));
    live.bridge = host.link(&spec.bridge).map(|link| host.end(link, false));
    if let (Some(bridge), Some(port)) = (&mut live.bridge, port_end)
        && port.controller == Some(bridge.index)
    {
        bridge.ports -= 1;
    }
    for (side, found) in [(Side::Host, Some(&host)), (Side::Netns, inside.as_ref())] {
        let Some(found) = found else { continue };
        live.routes.extend(found.rtnl.our_routes().await?.into_iter().map(|route| (side, route.spec)));
    }
    let any = [&live.host_end, &live.netns_end, &live.bridge].into_iter().any(Option::is_some);
    if any {
        live.host_sysctls = sysctl::read(&spec.host_sysctls)?;
    }
    if inside.is_some() && any {
        live.netns_sysctls = sysctl::read_inside(netns, &spec.netns_sysctls)?;
    }
    live.rules = host.rtnl.our_rules().await?.into_iter().map(|found| found.rule).collect();
    Ok(live)
}

/// Makes reality what the spec says, touching only what differs. Ownership was decided before.
pub async fn apply(spec: &LinkSpec, netns: &Path) -> Result<()> {
    let host = Rtnl::here()?;
    let inside = Rtnl::inside(netns)?;
    ensure_pair(&host, &inside, &spec.host_end, &spec.netns_end, netns).await?;
    ensure_pair(&host, &inside, &spec.port_end, &spec.service_end, netns).await?;
    if host.link(&spec.bridge).await?.is_none() {
        host.add_bridge(&spec.bridge, spec.bridge_mac).await?;
    }
    sysctl::write(&spec.host_sysctls)?;
    sysctl::write_inside(netns, &spec.netns_sysctls)?;
    set_mac(&host, &spec.bridge, spec.bridge_mac).await?;
    set_mac(&inside, &spec.service_end, spec.service_mac).await?;
    attach(&host, &spec.port_end, &spec.bridge).await?;
    for (rtnl, name, addresses) in [
        (&host, &spec.host_end, &spec.host_addresses),
        (&inside, &spec.netns_end, &spec.netns_addresses),
        (&host, &spec.bridge, &spec.bridge_addresses),
        (&host, &spec.port_end, &BTreeSet::new()),
        (&inside, &spec.service_end, &spec.service_addresses),
    ] {
        settle(rtnl, name, &spec.alias(), spec.mtu, addresses).await?;
    }
    for (side, rtnl) in [(Side::Host, &host), (Side::Netns, &inside)] {
        set_routes(spec, side, rtnl).await?;
    }
    set_rules(spec, &host).await
}

/// Removes the veth pairs, the bridge and our rules and routes in the host namespace; each only if it carries our mark.
pub async fn remove(spec: &LinkSpec) -> Result<()> {
    let host = Rtnl::here()?;
    for found in host.our_rules().await? {
        host.delete_rule(&found).await?;
    }
    for route in host.our_routes().await? {
        let device = route.spec.via.device();
        if device == spec.host_end || device == spec.bridge {
            host.delete_route(&route).await?;
        }
    }
    for name in [&spec.host_end, &spec.port_end, &spec.bridge] {
        if let Some(link) = host.link(name).await?
            && owned_by_us(link.alias.as_deref())
        {
            host.delete_link(link.index).await?;
        }
    }
    Ok(())
}

/// Sets mark, MTU, state and addresses of one link; writes only what differs.
pub(crate) async fn settle(
    rtnl: &Rtnl,
    name: &str,
    alias: &str,
    mtu: u32,
    addresses: &BTreeSet<IpNet>,
) -> Result<()> {
    let Some(link) = rtnl.link(name).await? else { return Ok(()) };
    if link.alias.as_deref() != Some(alias) {
        rtnl.set_alias(link.index, alias).await?;
    }
    if link.mtu != mtu {
        rtnl.set_mtu(link.index, mtu).await?;
    }
    if !link.up {
        rtnl.set_up(link.index).await?;
    }
    let found = rtnl.addresses().await?.remove(&link.index).unwrap_or_default();
    let found: BTreeSet<IpNet> = found.into_iter().filter(is_ours_to_judge).collect();
    for address in addresses.difference(&found) {
        rtnl.add_address(link.index, *address).await?;
    }
    for address in found.difference(addresses) {
        rtnl.delete_address(link.index, *address).await?;
    }
    Ok(())
}

/// The kernel gives every link a link-local address of its own; only the two that we chose count.
pub(crate) fn is_ours_to_judge(address: &IpNet) -> bool {
    match address.addr() {
        IpAddr::V6(v6) => v6 == HOST_HOP || v6 == NETNS_HOP || (v6.segments()[0] & 0xffc0) != 0xfe80,
        IpAddr::V4(_) => true,
    }
}

fn is_pair(outer: Option<&Link>, inner: Option<&Link>) -> bool {
    match (outer, inner) {
        (Some(a), Some(b)) => a.peer == Some(b.index) && b.peer == Some(a.index),
        _ => false,
    }
}

async fn ensure_pair(host: &Rtnl, inside: &Rtnl, outer: &str, inner: &str, netns: &Path) -> Result<()> {
    let (stale_outer, stale_inner) = (host.link(outer).await?, inside.link(inner).await?);
    if is_pair(stale_outer.as_ref(), stale_inner.as_ref()) {
        return Ok(());
    }
    if let Some(stale) = stale_outer {
        host.delete_link(stale.index).await?;
    }
    if let Some(stale) = inside.link(inner).await? {
        inside.delete_link(stale.index).await?;
    }
    let file = File::open(netns).doing("open namespace", netns.display().to_string())?;
    host.add_veth(outer, inner, &file).await
}

async fn set_mac(rtnl: &Rtnl, name: &str, mac: Mac) -> Result<()> {
    match rtnl.link(name).await? {
        Some(link) if link.mac != Some(mac) => rtnl.set_mac(link.index, mac).await,
        _ => Ok(()),
    }
}

async fn attach(host: &Rtnl, port: &str, bridge: &str) -> Result<()> {
    match (host.link(port).await?, host.link(bridge).await?) {
        (Some(port), Some(bridge)) if port.controller != Some(bridge.index) => {
            host.set_controller(port.index, bridge.index).await
        }
        _ => Ok(()),
    }
}

async fn set_routes(spec: &LinkSpec, side: Side, rtnl: &Rtnl) -> Result<()> {
    let found = rtnl.our_routes().await?;
    let mut wanted: Vec<_> =
        spec.routes.iter().filter(|(at, _)| *at == side).map(|(_, route)| route).collect();
    // The narrow ones first: the kernel takes a gateway only when there is a route to it.
    wanted.sort_by_key(|route| Reverse(route.to.prefix_len()));
    for stale in found.iter().filter(|route| !wanted.contains(&&route.spec)) {
        rtnl.delete_route(stale).await?;
    }
    for route in wanted {
        if !found.iter().any(|live| live.spec == *route) {
            rtnl.set_route(route).await?;
        }
    }
    Ok(())
}

/// New ones before old ones go: in between, packets find one of the two.
async fn set_rules(spec: &LinkSpec, host: &Rtnl) -> Result<()> {
    let found = host.our_rules().await?;
    for rule in spec.rules.iter().filter(|rule| !found.iter().any(|live| live.rule == **rule)) {
        host.add_rule(rule).await?;
    }
    for stale in found.iter().filter(|live| !spec.rules.contains(&live.rule)) {
        host.delete_rule(stale).await?;
    }
    Ok(())
}

struct View {
    rtnl: Rtnl,
    links: Vec<Link>,
    addresses: BTreeMap<u32, BTreeSet<IpNet>>,
}

impl View {
    async fn of(rtnl: Rtnl) -> Result<Self> {
        let (links, addresses) = (rtnl.links().await?, rtnl.addresses().await?);
        Ok(Self { rtnl, links, addresses })
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn name(&self, index: u32) -> Option<String> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.clone())
    }

    fn end(&self, link: &Link, paired: bool) -> EndLive {
        let addresses = self.addresses.get(&link.index).cloned().unwrap_or_default();
        EndLive {
            index: link.index,
            kind: link.kind.clone(),
            alias: link.alias.clone(),
            mtu: link.mtu,
            up: link.up,
            mac: link.mac,
            controller: link.controller.and_then(|index| self.name(index)),
            addresses: addresses.into_iter().filter(is_ours_to_judge).collect(),
            paired,
            ports: self.links.iter().filter(|port| port.controller == Some(link.index)).count(),
        }
    }
}
