//! The operations on links, routes, rules and sysctls.
//!
//! A link that is recreated takes with it what was on it (addresses, routes, sysctls of the link). So the difference is taken from
//! what is left then, and not from what was found.

use super::{Context, Ops};
use crate::adopt::op::Op;
use crate::live::{EndLive, LinkLive};
use crate::spec::{LinkSpec, Mac, RouteSpec, Side};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

impl Context<'_> {
    pub(super) fn link(&self, ops: &mut Ops<'_>) {
        let spec = &self.spec.link;
        let mut left = self.live.link.present().cloned().unwrap_or_default();
        if self.new_netns {
            left.routes.retain(|(side, _)| *side == Side::Host);
            left.netns_sysctls.clear();
        }
        if self.new_wireguard {
            forget(&mut left, &self.spec.wireguard.name);
        }
        let (outer, inner) = (left.host_end.take(), left.netns_end.take());
        (left.host_end, left.netns_end) =
            self.pair(ops, (&spec.host_end, outer), (&spec.netns_end, inner), &mut left);
        let (outer, inner) = (left.port_end.take(), left.service_end.take());
        (left.port_end, left.service_end) =
            self.pair(ops, (&spec.port_end, outer), (&spec.service_end, inner), &mut left);
        if left.bridge.is_none() {
            ops.push(Op::CreateBridge(spec.bridge.clone(), spec.bridge_mac), &spec.bridge);
            forget(&mut left, &spec.bridge);
        }
        sysctls(ops, Side::Host, &left.host_sysctls, &spec.host_sysctls);
        sysctls(ops, Side::Netns, &left.netns_sysctls, &spec.netns_sysctls);
        if let Some(bridge) = &left.bridge {
            mac(ops, Side::Host, &spec.bridge, Some(bridge), spec.bridge_mac);
        }
        mac(ops, Side::Netns, &spec.service_end, left.service_end.as_ref(), spec.service_mac);
        let controller = left.port_end.as_ref().and_then(|port| port.controller.as_deref());
        if controller != Some(&spec.bridge) || left.bridge.is_none() {
            ops.push(Op::AttachPort(spec.port_end.clone(), spec.bridge.clone()), &spec.port_end);
        }
        ends(ops, spec, &left);
        for side in [Side::Host, Side::Netns] {
            routes(ops, side, &left.routes, &spec.routes);
        }
        // New ones before old ones go: in between, packets find one of the two.
        for rule in spec.rules.difference(&left.rules) {
            ops.push(Op::AddRule(rule.clone()), "rules");
        }
        for rule in left.rules.difference(&spec.rules) {
            ops.push(Op::DeleteRule(rule.clone()), "rules");
        }
    }

    /// A pair of which either end is missing, or of another pair, is recreated. Returns what is left of it.
    fn pair(
        &self,
        ops: &mut Ops<'_>,
        (outer, out): (&str, Option<EndLive>),
        (inner, inn): (&str, Option<EndLive>),
        left: &mut LinkLive,
    ) -> (Option<EndLive>, Option<EndLive>) {
        let paired = |end: &Option<EndLive>| end.as_ref().is_some_and(|end| end.paired);
        if !self.new_netns && paired(&out) && paired(&inn) {
            return (out, inn);
        }
        if out.is_some() {
            ops.push(Op::DeleteLink(Side::Host, outer.to_owned()), outer);
        }
        if inn.is_some() && !self.new_netns {
            ops.push(Op::DeleteLink(Side::Netns, inner.to_owned()), inner);
        }
        ops.push(Op::CreateVeth(outer.to_owned(), inner.to_owned()), outer);
        forget(left, outer);
        forget(left, inner);
        (None, None)
    }
}

/// What goes with a link.
fn forget(left: &mut LinkLive, name: &str) {
    left.routes.retain(|(_, route)| route.via.device() != name);
    let own = format!("/conf/{name}/");
    left.host_sysctls.retain(|path, _| !path.contains(&own));
    left.netns_sysctls.retain(|path, _| !path.contains(&own));
}

fn sysctls(ops: &mut Ops<'_>, side: Side, live: &BTreeMap<String, String>, want: &BTreeMap<String, String>) {
    for (name, value) in want.iter().filter(|(name, value)| live.get(*name) != Some(value)) {
        ops.push(Op::SetSysctl(side, name.clone(), value.clone()), name);
    }
}

fn mac(ops: &mut Ops<'_>, side: Side, name: &str, live: Option<&EndLive>, want: Mac) {
    if live.and_then(|end| end.mac) != Some(want) {
        ops.push(Op::SetMac(side, name.to_owned(), want), &format!("{name}.mac"));
    }
}

fn ends(ops: &mut Ops<'_>, spec: &LinkSpec, left: &LinkLive) {
    let none = BTreeSet::new();
    end(ops, spec, Side::Host, &spec.host_end, left.host_end.as_ref(), &spec.host_addresses);
    end(ops, spec, Side::Netns, &spec.netns_end, left.netns_end.as_ref(), &spec.netns_addresses);
    end(ops, spec, Side::Host, &spec.bridge, left.bridge.as_ref(), &spec.bridge_addresses);
    end(ops, spec, Side::Host, &spec.port_end, left.port_end.as_ref(), &none);
    end(ops, spec, Side::Netns, &spec.service_end, left.service_end.as_ref(), &spec.service_addresses);
}

/// Mark, MTU, state and addresses of one link; `None` = it was made a moment ago.
fn end(
    ops: &mut Ops<'_>,
    spec: &LinkSpec,
    side: Side,
    name: &str,
    live: Option<&EndLive>,
    addresses: &BTreeSet<IpNet>,
) {
    let field = |what: &str| format!("{name}.{what}");
    if live.and_then(|end| end.alias.as_deref()) != Some(&spec.alias()) {
        ops.push(Op::SetAlias(side, name.to_owned(), spec.alias()), &field("owner"));
    }
    if live.map(|end| end.mtu) != Some(spec.mtu) {
        ops.push(Op::SetMtu(side, name.to_owned(), spec.mtu), &field("mtu"));
    }
    if !live.is_some_and(|end| end.up) {
        ops.push(Op::SetUp(side, name.to_owned()), &field("up"));
    }
    let found = live.map(|end| end.addresses.clone()).unwrap_or_default();
    ops.addresses(side, name, &found, addresses, &field("addresses"));
}

fn routes(
    ops: &mut Ops<'_>,
    side: Side,
    live: &BTreeSet<(Side, RouteSpec)>,
    want: &BTreeSet<(Side, RouteSpec)>,
) {
    for (_, route) in live.difference(want).filter(|(at, _)| *at == side) {
        ops.push(Op::DeleteRoute(side, route.clone()), "routes");
    }
    let mut missing: Vec<&RouteSpec> =
        want.difference(live).filter(|(at, _)| *at == side).map(|(_, route)| route).collect();
    // The narrow ones first: the kernel takes a gateway only when there is a route to it.
    missing.sort_by_key(|route| Reverse(route.to.prefix_len()));
    for route in missing {
        ops.push(Op::AddRoute(side, route.clone()), "routes");
    }
}
