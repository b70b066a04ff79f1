//! The links of a node: found whole, set in place, removed only when proven ours.

use crate::error::{Context, Result};
use crate::namespace;
use crate::netlink::{Link, Rtnl};
use ipnet::IpNet;
use ployz_core::adopt::Seen;
use ployz_core::live::{EndLive, LinkLive};
use ployz_core::spec::link::{HOST_HOP, NETNS_HOP};
use ployz_core::spec::netns::owned_by_us;
use ployz_core::spec::{LinkSpec, RouteVia, Side};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

/// What is there. `netns` is the namespace file; when it names no namespace only the host half is looked at.
pub async fn inspect(spec: &LinkSpec, netns: &Path) -> Seen<LinkLive> {
    match find(spec, netns).await {
        Ok(live) if live == LinkLive::default() => Seen::Absent,
        Ok(live) => Seen::Present(live),
        Err(error) => Seen::Unknown(crate::chain(&error)),
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
    let paired = match (host_end, netns_end) {
        (Some(a), Some(b)) => a.peer == Some(b.index) && b.peer == Some(a.index),
        _ => false,
    };
    live.host_end = host_end.map(|link| host.end(link, paired));
    live.netns_end = netns_end.zip(inside.as_ref()).map(|(link, side)| side.end(link, paired));
    live.bridge = host.link(&spec.bridge).map(|link| host.end(link, false));
    for (side, found) in [(Side::Host, Some(&host)), (Side::Netns, inside.as_ref())] {
        let Some(found) = found else { continue };
        live.routes.extend(found.rtnl.our_routes().await?.into_iter().map(|route| (side, route.spec)));
    }
    if inside.is_some() && (live.host_end.is_some() || live.netns_end.is_some() || live.bridge.is_some()) {
        live.netns_sysctls = read_sysctls(spec, netns)?;
    }
    Ok(live)
}

/// Makes reality what the spec says, touching only what differs. Ownership was decided before.
pub async fn apply(spec: &LinkSpec, netns: &Path) -> Result<()> {
    let host = Rtnl::here()?;
    let inside = Rtnl::inside(netns)?;
    ensure_pair(spec, &host, &inside, netns).await?;
    if host.link(&spec.bridge).await?.is_none() {
        host.add_bridge(&spec.bridge).await?;
    }
    write_sysctls(spec, netns)?;
    for (rtnl, name, addresses) in [
        (&host, &spec.host_end, &spec.host_addresses),
        (&inside, &spec.netns_end, &spec.netns_addresses),
        (&host, &spec.bridge, &spec.bridge_addresses),
    ] {
        settle(rtnl, name, &spec.alias(), spec.mtu, addresses).await?;
    }
    for (side, rtnl) in [(Side::Host, &host), (Side::Netns, &inside)] {
        set_routes(spec, side, rtnl).await?;
    }
    Ok(())
}

/// Removes the veth pair, the bridge and our routes in the host namespace; each only if it carries our mark.
pub async fn remove(spec: &LinkSpec) -> Result<()> {
    let host = Rtnl::here()?;
    for route in host.our_routes().await? {
        let through_ours = match &route.spec.via {
            RouteVia::Device(device) | RouteVia::Gateway(device, _) => {
                *device == spec.host_end || *device == spec.bridge
            }
        };
        if through_ours {
            host.delete_route(&route).await?;
        }
    }
    for name in [&spec.host_end, &spec.bridge] {
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

async fn ensure_pair(spec: &LinkSpec, host: &Rtnl, inside: &Rtnl, netns: &Path) -> Result<()> {
    let (outer, inner) = (host.link(&spec.host_end).await?, inside.link(&spec.netns_end).await?);
    if let (Some(a), Some(b)) = (&outer, &inner)
        && a.peer == Some(b.index)
    {
        return Ok(());
    }
    if let Some(stale) = outer {
        host.delete_link(stale.index).await?;
    }
    if let Some(stale) = inside.link(&spec.netns_end).await? {
        inside.delete_link(stale.index).await?;
    }
    let file = File::open(netns).doing("open namespace", netns.display().to_string())?;
    host.add_veth(&spec.host_end, &spec.netns_end, &file).await
}

async fn set_routes(spec: &LinkSpec, side: Side, rtnl: &Rtnl) -> Result<()> {
    let found = rtnl.our_routes().await?;
    let wanted: Vec<_> = spec.routes.iter().filter(|(at, _)| *at == side).map(|(_, route)| route).collect();
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

fn read_sysctls(spec: &LinkSpec, netns: &Path) -> Result<BTreeMap<String, String>> {
    let names: Vec<String> = spec.netns_sysctls.keys().cloned().collect();
    namespace::inside(netns, move || {
        names
            .into_iter()
            .map(|name| {
                let value = std::fs::read_to_string(sysctl(&name)).doing("read sysctl", name.as_str())?;
                Ok((name, value.trim().to_owned()))
            })
            .collect()
    })?
}

fn write_sysctls(spec: &LinkSpec, netns: &Path) -> Result<()> {
    let wanted = spec.netns_sysctls.clone();
    namespace::inside(netns, move || {
        for (name, value) in wanted {
            let now = std::fs::read_to_string(sysctl(&name)).doing("read sysctl", name.as_str())?;
            if now.trim() != value {
                std::fs::write(sysctl(&name), &value).doing("write sysctl", name.as_str())?;
            }
        }
        Ok(())
    })?
}

/// `/proc/sys/net` shows the namespace of the thread that looks.
fn sysctl(name: &str) -> String {
    format!("/proc/sys/net/{name}")
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

    fn end(&self, link: &Link, paired: bool) -> EndLive {
        let addresses = self.addresses.get(&link.index).cloned().unwrap_or_default();
        EndLive {
            index: link.index,
            kind: link.kind.clone(),
            alias: link.alias.clone(),
            mtu: link.mtu,
            up: link.up,
            addresses: addresses.into_iter().filter(is_ours_to_judge).collect(),
            paired,
            ports: self.links.iter().filter(|port| port.controller == Some(link.index)).count(),
        }
    }
}
