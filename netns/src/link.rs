//! The links of a node: found whole, removed only when proven ours. What is changed of them is in [`crate::edit`].

use crate::error::Result;
use crate::namespace;
use crate::netlink::{Link, Rtnl};
use crate::sysctl;
use ipnet::IpNet;
use ployz_core::adopt::Seen;
use ployz_core::live::{EndLive, LinkLive};
use ployz_core::spec::link::{HOST_HOP, NETNS_HOP};
use ployz_core::spec::netns::owned_by_us;
use ployz_core::spec::{LinkSpec, Side};
use std::collections::{BTreeMap, BTreeSet};
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
