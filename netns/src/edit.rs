//! Links, addresses, routes, rules and sysctls: one call per operation of a plan. What is written was decided from an
//! inspection; a link that is gone since is an error here, and what is removed already is none.

use crate::error::{Context, Error, Result};
use crate::netlink::{Link, Rtnl};
use crate::sysctl::{self, Sysctls};
use ipnet::IpNet;
use ployz_core::spec::{Mac, RouteSpec, Rule, Side};
use std::fs::File;
use std::path::Path;

/// Both namespaces: the host's, and the one of this file.
#[derive(Clone, Copy)]
pub struct Edit<'a> {
    /// The namespace file.
    pub netns: &'a Path,
}

impl Edit<'_> {
    /// Removes a link if it is there.
    pub async fn delete_link(&self, side: Side, name: &str) -> Result<()> {
        let rtnl = self.on(side)?;
        match rtnl.link(name).await? {
            Some(link) => rtnl.delete_link(link.index).await,
            None => Ok(()),
        }
    }

    /// Makes a pair from the host into the namespace.
    pub async fn create_veth(&self, outer: &str, inner: &str) -> Result<()> {
        let file = File::open(self.netns).doing("open namespace", self.netns.display().to_string())?;
        Rtnl::here()?.add_veth(outer, inner, &file).await
    }

    /// Makes a bridge in the host.
    pub async fn create_bridge(&self, name: &str, mac: Mac) -> Result<()> {
        Rtnl::here()?.add_bridge(name, mac).await
    }

    /// Sets the mark of ownership.
    pub async fn set_alias(&self, side: Side, name: &str, alias: &str) -> Result<()> {
        let (rtnl, link) = self.link(side, name).await?;
        rtnl.set_alias(link.index, alias).await
    }

    /// Sets the hardware address.
    pub async fn set_mac(&self, side: Side, name: &str, mac: Mac) -> Result<()> {
        let (rtnl, link) = self.link(side, name).await?;
        rtnl.set_mac(link.index, mac).await
    }

    /// Sets the MTU in bytes.
    pub async fn set_mtu(&self, side: Side, name: &str, mtu: u32) -> Result<()> {
        let (rtnl, link) = self.link(side, name).await?;
        rtnl.set_mtu(link.index, mtu).await
    }

    /// Brings a link up.
    pub async fn set_up(&self, side: Side, name: &str) -> Result<()> {
        let (rtnl, link) = self.link(side, name).await?;
        rtnl.set_up(link.index).await
    }

    /// Makes a link of the host a port of a bridge.
    pub async fn attach_port(&self, port: &str, bridge: &str) -> Result<()> {
        let (_, bridge) = self.link(Side::Host, bridge).await?;
        let (rtnl, port) = self.link(Side::Host, port).await?;
        rtnl.set_controller(port.index, bridge.index).await
    }

    /// Adds an address.
    pub async fn add_address(&self, side: Side, name: &str, address: IpNet) -> Result<()> {
        let (rtnl, link) = self.link(side, name).await?;
        rtnl.add_address(link.index, address).await
    }

    /// Removes an address.
    pub async fn delete_address(&self, side: Side, name: &str, address: IpNet) -> Result<()> {
        let (rtnl, link) = self.link(side, name).await?;
        rtnl.delete_address(link.index, address).await
    }

    /// Adds a route of ours.
    pub async fn add_route(&self, side: Side, route: &RouteSpec) -> Result<()> {
        self.on(side)?.set_route(route).await
    }

    /// Removes a route of ours if it is there.
    pub async fn delete_route(&self, side: Side, route: &RouteSpec) -> Result<()> {
        let rtnl = self.on(side)?;
        match rtnl.our_routes().await?.iter().find(|found| found.spec == *route) {
            Some(found) => rtnl.delete_route(found).await,
            None => Ok(()),
        }
    }

    /// Adds a policy rule of ours to the host.
    pub async fn add_rule(&self, rule: &Rule) -> Result<()> {
        Rtnl::here()?.add_rule(rule).await
    }

    /// Removes a policy rule of ours from the host if it is there.
    pub async fn delete_rule(&self, rule: &Rule) -> Result<()> {
        let host = Rtnl::here()?;
        match host.our_rules().await?.iter().find(|found| found.rule == *rule) {
            Some(found) => host.delete_rule(found).await,
            None => Ok(()),
        }
    }

    /// Writes a sysctl where it differs.
    pub fn set_sysctl(&self, side: Side, name: &str, value: &str) -> Result<()> {
        let one = Sysctls::from([(name.to_owned(), value.to_owned())]);
        match side {
            Side::Host => sysctl::write(&one),
            Side::Netns => sysctl::write_inside(self.netns, &one),
        }
    }

    /// Lets a link of the namespace have IPv6 addresses.
    pub fn enable_ipv6(&self, name: &str) -> Result<()> {
        sysctl::switch_ipv6_on(self.netns, name)
    }

    /// A connection is opened for each call: one that is held keeps its namespace alive.
    fn on(&self, side: Side) -> Result<Rtnl> {
        match side {
            Side::Host => Rtnl::here(),
            Side::Netns => Rtnl::inside(self.netns),
        }
    }

    async fn link(&self, side: Side, name: &str) -> Result<(Rtnl, Link)> {
        let rtnl = self.on(side)?;
        match rtnl.link(name).await? {
            Some(link) => Ok((rtnl, link)),
            None => Err(Error::Protocol {
                operation: "change link",
                subject: format!("{side}:{name}"),
                detail: "it is gone since it was inspected".into(),
            }),
        }
    }
}
