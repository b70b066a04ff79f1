//! The machine's own addresses and the MTU of the way out.

use crate::error::Result;
use crate::netlink::Rtnl;
use ployz_core::address::Observed;
use ployz_core::spec::link::{BRIDGE, HOST_END};

/// Every address of every link of the host namespace.
pub async fn observe() -> Result<Vec<Observed>> {
    let host = Rtnl::here()?;
    let (links, mut addresses) = (host.links().await?, host.addresses().await?);
    let mut seen = Vec::new();
    for link in links {
        for address in addresses.remove(&link.index).unwrap_or_default() {
            seen.push(Observed {
                interface: link.name.clone(),
                kind: link.kind.clone(),
                mtu: link.mtu,
                up: link.up,
                address: address.addr(),
            });
        }
    }
    Ok(seen)
}

/// IPv4 networks that the host has routes to, other than ours and the default route.
pub async fn routes() -> Result<Vec<ipnet::IpNet>> {
    Rtnl::here()?.foreign_routes(&[BRIDGE, HOST_END]).await
}

/// The smallest MTU among the links whose addresses are offered to peers; 1500 when there is none.
pub fn smallest_mtu(seen: &[Observed], offered: &[std::net::SocketAddr]) -> u32 {
    let used = seen.iter().filter(|s| offered.iter().any(|endpoint| endpoint.ip() == s.address));
    used.map(|s| s.mtu).min().unwrap_or(1500)
}
