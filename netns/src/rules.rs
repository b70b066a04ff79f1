//! Policy rules of the host and the way that the kernel would send a packet. Rules that carry our protocol number are
//! ours, as the routes that do.

use crate::error::{Context, Result};
use crate::netlink::Rtnl;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use ployz_core::host::Way;
use ployz_core::spec::Rule;
use ployz_core::spec::link::ROUTE_PROTOCOL;
use ployz_core::spec::rule::Action;
use rtnetlink::{IpVersion, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A rule, with the message that removes it.
#[derive(Debug, Clone)]
pub struct Found {
    /// As a value.
    pub rule: Rule,
    message: RuleMessage,
}

impl Found {
    fn is_ours(&self) -> bool {
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
        self.message.attributes.contains(&ours)
    }
}

impl Rtnl {
    /// The rules that carry our protocol number.
    pub async fn our_rules(&self) -> Result<Vec<Found>> {
        Ok(self.rules().await?.into_iter().filter(Found::is_ours).collect())
    }

    /// The rules of everybody else.
    pub async fn foreign_rules(&self) -> Result<Vec<Rule>> {
        let others = self.rules().await?.into_iter().filter(|found| !found.is_ours());
        Ok(others.map(|found| found.rule).collect())
    }

    /// A kernel without IPv6 has no rules of it.
    async fn rules(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let v6 = version == IpVersion::V6;
            let mut found = std::pin::pin!(self.handle().rule().get(version).execute());
            loop {
                match found.try_next().await {
                    Ok(Some(message)) => all.push(Found { rule: read(&message, v6), message }),
                    Ok(None) => break,
                    Err(_) if v6 && !crate::sysctl::kernel_has_ipv6() => break,
                    Err(error) => return Err(error).doing("list", "policy rules"),
                }
            }
        }
        Ok(all)
    }

    /// Adds a rule of ours.
    pub async fn add_rule(&self, rule: &Rule) -> Result<()> {
        let request = self.handle().rule().add().priority(rule.priority).action(RuleAction::ToTable);
        let request = match rule.action {
            Action::Lookup(table) => request.table_id(table),
            Action::Other(_) => request,
        };
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
        let added = match rule.to {
            Some(IpNet::V4(to)) => {
                let mut request = request.v4().destination_prefix(to.network(), to.prefix_len());
                request.message_mut().attributes.push(ours);
                request.execute().await
            }
            Some(IpNet::V6(to)) => {
                let mut request = request.v6().destination_prefix(to.network(), to.prefix_len());
                request.message_mut().attributes.push(ours);
                request.execute().await
            }
            None => return Ok(()),
        };
        match added {
            Err(error) if crate::netlink::code(&error) == Some(nix::libc::EEXIST) => Ok(()),
            other => other.doing("add policy rule", rule.to_string()),
        }
    }

    /// Removes a rule that was found.
    pub async fn delete_rule(&self, found: &Found) -> Result<()> {
        match self.handle().rule().del(found.message.clone()).execute().await {
            Err(error) if crate::netlink::code(&error) == Some(nix::libc::ENOENT) => Ok(()),
            other => other.doing("remove policy rule", found.rule.to_string()),
        }
    }

    /// The link and the table that a packet from this machine to each of these takes, in their order.
    pub async fn ways_to(&self, destinations: &[IpAddr]) -> Result<Vec<Way>> {
        let names: BTreeMap<u32, String> =
            self.links().await?.into_iter().map(|link| (link.index, link.name)).collect();
        let mut ways = Vec::with_capacity(destinations.len());
        for to in destinations {
            ways.push(self.way_to(*to, &names).await?);
        }
        Ok(ways)
    }

    async fn way_to(&self, to: IpAddr, names: &BTreeMap<u32, String>) -> Result<Way> {
        let mut query = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        // Not of one protocol, type or table: what the kernel would do.
        query.header = RouteHeader {
            address_family: query.header.address_family,
            destination_prefix_length: query.header.destination_prefix_length,
            // Without it the kernel says `main` of every IPv4 route.
            flags: RouteFlags::LookupTable,
            ..Default::default()
        };
        let mut found = std::pin::pin!(self.handle().route().get(query).execute());
        let message = match found.try_next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Way::None("no route".into())),
            Err(rtnetlink::Error::NetlinkError(refused)) => {
                return Ok(Way::None(refused.to_io().to_string()));
            }
            Err(error) => return Err(error).doing("ask for the route to", to.to_string()),
        };
        let (mut table, mut link) = (u32::from(message.header.table), String::new());
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Oif(index) => link = names.get(index).cloned().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(Way::By { link, table })
    }
}

fn read(message: &RuleMessage, v6: bool) -> Rule {
    let header = &message.header;
    let mut rule = Rule {
        priority: 0,
        v6,
        to: None,
        only: Vec::new(),
        marked: false,
        action: Action::Lookup(u32::from(header.table)),
    };
    let inverted = header.flags.contains(RuleFlags::Invert);
    if inverted {
        rule.only.push("not".into());
    }
    if header.tos != 0 {
        rule.only.push(format!("tos {:#x}", header.tos));
    }
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.action = Action::Lookup(*table),
            RuleAttribute::Destination(to) => rule.to = IpNet::new(*to, header.dst_len).ok(),
            RuleAttribute::Source(from) => rule.only.push(format!("from {from}/{}", header.src_len)),
            RuleAttribute::FwMark(0) => {}
            RuleAttribute::FwMark(mark) => {
                rule.marked = !inverted;
                rule.only.push(format!("fwmark {mark:#x}"));
            }
            RuleAttribute::Iifname(name) => rule.only.push(format!("iif {name}")),
            RuleAttribute::Oifname(name) => rule.only.push(format!("oif {name}")),
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                rule.only.push(format!("suppress_prefixlength {length}"));
            }
            RuleAttribute::L3MDev(true) => rule.action = Action::Other("lookup of a VRF".into()),
            RuleAttribute::UidRange(_) => rule.only.push("uidrange".into()),
            RuleAttribute::IpProtocol(_) => rule.only.push("ipproto".into()),
            RuleAttribute::SourcePortRange(_) => rule.only.push("sport".into()),
            RuleAttribute::DestinationPortRange(_) => rule.only.push("dport".into()),
            _ => {}
        }
    }
    if inverted {
        // Of all but those destinations: which of ours it takes is not for us to work out.
        rule.only.extend(rule.to.take().map(|to| format!("to {to}")));
    }
    match header.action {
        RuleAction::ToTable => {}
        RuleAction::Goto => rule.action = Action::Other("goto".into()),
        RuleAction::Nop => rule.action = Action::Other("nop".into()),
        RuleAction::Blackhole => rule.action = Action::Other("blackhole".into()),
        RuleAction::Unreachable => rule.action = Action::Other("unreachable".into()),
        RuleAction::Prohibit => rule.action = Action::Other("prohibit".into()),
        other => rule.action = Action::Other(format!("action {}", u8::from(other))),
    }
    rule
}
