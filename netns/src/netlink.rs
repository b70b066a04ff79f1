//! A small typed route-netlink connection, one method a need. The only module that knows rtnetlink.

use crate::error::{Context, Error, Result};
use crate::namespace;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteVia as Via,
};
use ployz_core::spec::link::ROUTE_PROTOCOL;
use ployz_core::spec::{Mac, RouteSpec, RouteVia};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkWireguard, RouteMessageBuilder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// A connection bound to one namespace for its whole life.
#[derive(Clone)]
pub struct Rtnl {
    handle: Handle,
}

/// A link as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind (`veth`, `bridge`, `wireguard`, `tun`); `None` for hardware.
    pub kind: Option<String>,
    /// Alias.
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Hardware address, of links that have one.
    pub mac: Option<Mac>,
    /// Index of the other end (veth).
    pub peer: Option<u32>,
    /// Index of the bridge it is a port of.
    pub controller: Option<u32>,
}

/// One of our routes, with the message that removes it.
#[derive(Debug, Clone)]
pub struct Route {
    /// As a spec.
    pub spec: RouteSpec,
    message: RouteMessage,
}

impl Rtnl {
    /// In the namespace of the calling thread. Needs a runtime.
    pub fn here() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().doing("open", "netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// In the namespace of `file`.
    pub fn inside(file: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        namespace::inside(file, move || {
            let _context = runtime.enter();
            Self::here()
        })?
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let found: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.doing("list", "links")?;
        Ok(found.into_iter().map(read_link).collect())
    }

    /// The link of this name, `None` when there is none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut found = std::pin::pin!(self.handle.link().get().match_name(name.to_owned()).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.map(read_link)),
            Err(error) if code(&error) == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error).doing("inspect link", name),
        }
    }

    /// Makes a veth pair whose other end is born in the namespace of `netns`.
    pub async fn add_veth(&self, name: &str, peer: &str, netns: impl AsFd) -> Result<()> {
        let other = LinkUnspec::new_with_name(peer).setns_by_fd(netns.as_fd().as_raw_fd()).build();
        let message = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(other))).build();
        self.handle.link().add(message).execute().await.doing("create veth", name)
    }

    /// Makes a bridge that forwards at once. It is born with its hardware address: udev gives one of its own
    /// (`MACAddressPolicy=persistent`) to a new link whose address is the kernel's random one, whenever it gets to that.
    pub async fn add_bridge(&self, name: &str, mac: Mac) -> Result<()> {
        let message = LinkBridge::new(name).forward_delay(0).address(mac.0.to_vec()).build();
        self.handle.link().add(message).execute().await.doing("create bridge", name)
    }

    /// Makes a WireGuard device that lives in `netns` while its UDP socket stays in this connection's namespace.
    pub async fn add_wireguard(&self, name: &str, netns: impl AsFd) -> Result<()> {
        let message = LinkWireguard::new(name).setns_by_fd(netns.as_fd().as_raw_fd()).build();
        self.handle.link().add(message).execute().await.doing("create WireGuard device", name)
    }

    /// Removes a link.
    pub async fn delete_link(&self, index: u32) -> Result<()> {
        match self.handle.link().del(index).execute().await {
            Err(error) if code(&error) == Some(nix::libc::ENODEV) => Ok(()),
            other => other.doing("remove link", format!("#{index}")),
        }
    }

    /// Sets the mark of ownership.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        self.change(index, "mark link", |builder| builder.alias(alias)).await
    }

    /// Gives a link that is down another name.
    pub async fn rename(&self, index: u32, name: &str) -> Result<()> {
        self.change(index, "rename link", |builder| builder.name(name.to_owned())).await
    }

    /// Sets the MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.change(index, "set MTU of link", |builder| builder.mtu(mtu)).await
    }

    /// Brings a link up.
    pub async fn set_up(&self, index: u32) -> Result<()> {
        self.change(index, "bring up link", LinkMessageBuilder::up).await
    }

    /// Sets the hardware address, which for a bridge also means that it no longer follows its ports.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<()> {
        self.change(index, "set hardware address of link", |builder| builder.address(mac.0.to_vec())).await
    }

    /// Makes the link a port of a bridge.
    pub async fn set_controller(&self, index: u32, bridge: u32) -> Result<()> {
        self.change(index, "attach to bridge link", |builder| builder.controller(bridge)).await
    }

    async fn change(
        &self,
        index: u32,
        operation: &'static str,
        with: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let message = with(LinkUnspec::new_with_index(index)).build();
        self.handle.link().change(message).execute().await.doing(operation, format!("#{index}"))
    }

    /// Addresses by link index.
    pub async fn addresses(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>> {
        let mut found = std::pin::pin!(self.handle.address().get().execute());
        let mut by_link: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        while let Some(message) = found.try_next().await.doing("list", "addresses")? {
            // IFA_LOCAL is the address itself on a point-to-point link, where IFA_ADDRESS is the peer's.
            let local = message
                .attributes
                .iter()
                .find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
            let address = message
                .attributes
                .iter()
                .find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
            if let Some(net) = local.or(address).and_then(|ip| IpNet::new(ip, message.header.prefix_len).ok())
            {
                by_link.entry(message.header.index).or_default().insert(net);
            }
        }
        Ok(by_link)
    }

    /// Adds an address; without duplicate address detection, which would keep it unusable for a second.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.doing("add address", address.to_string())
    }

    /// Removes an address.
    pub async fn delete_address(&self, index: u32, address: IpNet) -> Result<()> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        let mut request = request;
        let message = request.message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Err(error) if code(&error) == Some(nix::libc::EADDRNOTAVAIL) => Ok(()),
            other => other.doing("remove address", address.to_string()),
        }
    }

    /// The routes that carry our protocol number.
    pub async fn our_routes(&self) -> Result<Vec<Route>> {
        let names: BTreeMap<u32, String> =
            self.links().await?.into_iter().map(|l| (l.index, l.name)).collect();
        let mut ours = Vec::new();
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut found = std::pin::pin!(self.handle.route().get(query).execute());
            while let Some(message) = found.try_next().await.doing("list", "routes")? {
                if message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
                    && let Some(spec) = read_route(&message, &names)
                {
                    ours.push(Route { spec, message });
                }
            }
        }
        Ok(ours)
    }

    /// Destinations of the routes that are not ours, without the default route and what belongs to the links named.
    pub async fn foreign_routes(&self, without: &[&str]) -> Result<Vec<IpNet>> {
        let names: BTreeMap<u32, String> =
            self.links().await?.into_iter().map(|l| (l.index, l.name)).collect();
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut found = std::pin::pin!(self.handle.route().get(query).execute());
        let mut others = Vec::new();
        while let Some(message) = found.try_next().await.doing("list", "routes")? {
            let main = message.header.table == MAIN_TABLE;
            let ours = message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL);
            if let Some(spec) = read_route(&message, &names).filter(|_| main && !ours)
                && spec.to.prefix_len() > 0
                && !without.contains(&spec.via.device())
            {
                others.push(spec.to);
            }
        }
        Ok(others)
    }

    /// Adds a route of ours. One of somebody else's with the same destination is not replaced: that is an error.
    pub async fn set_route(&self, route: &RouteSpec) -> Result<()> {
        let device = route.via.device();
        let link = self.link(device).await?.ok_or_else(|| Error::Protocol {
            operation: "add route",
            subject: route.to.to_string(),
            detail: format!("there is no link {device}"),
        })?;
        let message = match route.to {
            IpNet::V4(to) => {
                let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(to.addr(), to.prefix_len())
                    .output_interface(link.index)
                    .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
                builder = match route.via {
                    RouteVia::Gateway(_, IpAddr::V6(hop)) => builder.via(hop),
                    RouteVia::Gateway(_, IpAddr::V4(hop)) => builder.gateway(hop),
                    RouteVia::Device(_) => builder.scope(netlink_packet_route::route::RouteScope::Link),
                };
                if let Some(IpAddr::V4(source)) = route.source {
                    builder = builder.pref_source(source);
                }
                builder.build()
            }
            IpNet::V6(to) => {
                let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(to.addr(), to.prefix_len())
                    .output_interface(link.index)
                    .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
                if let RouteVia::Gateway(_, IpAddr::V6(hop)) = route.via {
                    builder = builder.gateway(hop);
                }
                if let Some(IpAddr::V6(source)) = route.source {
                    builder = builder.pref_source(source);
                }
                builder.build()
            }
        };
        self.handle.route().add(message).execute().await.doing("add route", route.to.to_string())
    }

    /// Removes a route that was found.
    pub async fn delete_route(&self, route: &Route) -> Result<()> {
        match self.handle.route().del(route.message.clone()).execute().await {
            Err(error) if code(&error) == Some(nix::libc::ESRCH) => Ok(()),
            other => other.doing("remove route", route.spec.to.to_string()),
        }
    }
}

/// RT_TABLE_MAIN (linux/rtnetlink.h).
const MAIN_TABLE: u8 = 254;

pub(crate) fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn read_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        alias: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        mac: None,
        peer: None,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias).filter(|text| !text.is_empty()),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) => link.mac = address.try_into().ok().map(Mac),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::Controller(index) => link.controller = Some(index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(info) => {
                link.kind = info.into_iter().find_map(|part| match part {
                    LinkInfo::Kind(kind) => Some(kind_name(&kind)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Other(name) => name.clone(),
        known => known.to_string(),
    }
}

fn read_route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<RouteSpec> {
    let v6 = message.header.address_family == AddressFamily::Inet6;
    let mut to: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let (mut device, mut hop, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = plain(address)?,
            RouteAttribute::Oif(index) => device = names.get(index).cloned(),
            RouteAttribute::Gateway(address) => hop = plain(address),
            RouteAttribute::Via(Via::Inet6(address)) => hop = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = plain(address),
            _ => {}
        }
    }
    let device = device?;
    let via =
        hop.map_or_else(|| RouteVia::Device(device.clone()), |hop| RouteVia::Gateway(device.clone(), hop));
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(RouteSpec { to, via, source })
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
