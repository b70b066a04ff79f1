//! A node in memory that operations are carried out on, with the side effects that the kernel and systemd add: what lives in
//! something that goes, goes with it. An operation that could not be done there is a panic.

use super::node::{self, NS};
use ployz_core::adopt::device::{DeviceChange, PeerChange};
use ployz_core::adopt::sidecar::Replace;
use ployz_core::adopt::{Op, Seen};
use ployz_core::live::*;
use ployz_core::spec::{NodeSpec, Side, SidecarSpec, TunnelBackend, UnitName};

/// What the kernel has taken away already: rows name only what was done.
pub(super) fn settle(spec: &NodeSpec, live: &mut NodeLive) {
    if live.wireguard == Seen::Absent {
        link_goes(live, &spec.wireguard.name);
    }
}

/// Carries out one operation.
pub(super) fn apply(op: &Op, spec: &NodeSpec, live: &mut NodeLive) {
    match op {
        Op::RemoveNetns(_) => netns_goes(live),
        Op::CreateNetns(_) => {
            netns_goes(live);
            live.netns = Seen::Present(NetnsLive { id: NS, alias: Some(spec.netns.alias()) });
        }
        Op::StartUnit(unit) if *unit == UnitName::NATS => {
            assert_eq!(live.nats, Seen::Absent, "systemd refuses to start what is there");
            let unit = node::unit(&spec.nats.unit);
            live.nats = Seen::Present(NatsLive { unit, loaded: Some(spec.nats.revision.clone()) });
        }
        Op::StartUnit(_) => {
            assert_eq!(live.tunnel, Seen::Absent, "systemd refuses to start what is there");
            live.tunnel = Seen::Present(node::unit(spec.tunnel.as_ref().unwrap()));
            live.wireguard = Seen::Present(WireguardLive::blank(TunnelBackend::Userspace));
        }
        Op::StopUnit(unit) if *unit == UnitName::NATS => live.nats = Seen::Absent,
        Op::StopUnit(_) => {
            live.tunnel = Seen::Absent;
            if live.wireguard.present().is_some_and(|device| device.backend == TunnelBackend::Userspace) {
                live.wireguard = Seen::Absent;
            }
        }
        Op::ReloadUnit(_) => present!(live.nats).loaded = Some(spec.nats.revision.clone()),
        Op::StopSidecar(unit) => *sidecar(spec, live, unit).1 = Seen::Absent,
        Op::PutSidecar { unit, what, opens, closes } => {
            let (spec, found) = sidecar(spec, live, unit);
            put_sidecar(spec, found, *what, opens, closes);
        }
        Op::WriteStoreConfig(_) => {}
        Op::AwaitStore(revision) => {
            assert_eq!(present!(live.nats).loaded.as_ref(), Some(revision), "it never comes");
        }
        Op::LoadTable(side) => {
            if live.firewall == Seen::Absent {
                live.firewall = Seen::Present(FirewallLive::default());
            }
            let firewall = present!(live.firewall);
            match side {
                Side::Host => firewall.host = Some(node::table(&spec.firewall.host)),
                Side::Netns => firewall.netns = Some(node::table(&spec.firewall.netns)),
            }
        }
        Op::CreateWireguard(_) => {
            assert!(live.netns.present().is_some() && live.wireguard == Seen::Absent);
            live.wireguard = Seen::Present(WireguardLive::blank(TunnelBackend::Kernel));
        }
        Op::RemoveWireguard(name) => {
            live.wireguard = Seen::Absent;
            link_goes(live, name);
        }
        Op::AwaitWireguard(_) => assert!(live.wireguard.present().is_some(), "it never comes"),
        Op::ConfigureWireguard(_, change) => configure(present!(live.wireguard), change),
        Op::BringUpWireguard(_) => present!(live.wireguard).up = true,
        Op::EnableIpv6(_) => present!(live.wireguard).ipv6 = true,
        other => link(other, spec, live),
    }
}

fn link(op: &Op, spec: &NodeSpec, live: &mut NodeLive) {
    if live.link == Seen::Absent {
        live.link = Seen::Present(LinkLive::default());
    }
    let wg = |name: &str| name == spec.wireguard.name;
    match op {
        Op::SetAlias(_, name, alias) if wg(name) => present!(live.wireguard).alias = Some(alias.clone()),
        Op::SetMtu(_, name, mtu) if wg(name) => present!(live.wireguard).mtu = *mtu,
        Op::AddAddress(_, name, address) if wg(name) => {
            let device = present!(live.wireguard);
            assert!(device.ipv6 || address.addr().is_ipv4(), "IPv6 is off");
            device.addresses.insert(*address);
        }
        Op::DeleteAddress(_, name, address) if wg(name) => {
            present!(live.wireguard).addresses.remove(address);
        }
        Op::DeleteLink(_, name) => {
            let paired = end(spec, live, name).as_ref().is_some_and(|end| end.paired);
            link_goes(live, name);
            *end(spec, live, name) = None;
            if paired {
                let other = other_end(spec, name);
                link_goes(live, &other);
                *end(spec, live, &other) = None;
            }
        }
        Op::CreateVeth(outer, inner) => {
            assert!(live.netns.present().is_some());
            for name in [outer, inner] {
                assert_eq!(*end(spec, live, name), None, "{name} exists");
                link_goes(live, name);
                *end(spec, live, name) = Some(EndLive { paired: true, ..born("veth") });
            }
        }
        Op::CreateBridge(name, mac) => {
            assert_eq!(*end(spec, live, name), None, "{name} exists");
            *end(spec, live, name) = Some(EndLive { mac: Some(*mac), ..born("bridge") });
        }
        Op::SetAlias(_, name, alias) => there(spec, live, name).alias = Some(alias.clone()),
        Op::SetMac(_, name, mac) => there(spec, live, name).mac = Some(*mac),
        Op::SetMtu(_, name, mtu) => there(spec, live, name).mtu = *mtu,
        Op::SetUp(_, name) => there(spec, live, name).up = true,
        Op::AttachPort(port, bridge) => {
            there(spec, live, bridge);
            there(spec, live, port).controller = Some(bridge.clone());
        }
        Op::AddAddress(_, name, address) => {
            there(spec, live, name).addresses.insert(*address);
        }
        Op::DeleteAddress(_, name, address) => {
            there(spec, live, name).addresses.remove(address);
        }
        Op::AddRoute(side, route) => {
            if !wg(route.via.device()) {
                assert!(there(spec, live, route.via.device()).up, "{route}: the network is down");
            }
            assert!(present!(live.link).routes.insert((*side, route.clone())), "{route} exists");
        }
        Op::DeleteRoute(side, route) => {
            assert!(present!(live.link).routes.remove(&(*side, route.clone())), "no {route}");
        }
        Op::AddRule(rule) => assert!(present!(live.link).rules.insert(rule.clone()), "{rule} exists"),
        Op::DeleteRule(rule) => assert!(present!(live.link).rules.remove(rule), "no {rule}"),
        Op::SetSysctl(side, name, value) => {
            let link = present!(live.link);
            let sysctls = match side {
                Side::Host => &mut link.host_sysctls,
                Side::Netns => &mut link.netns_sysctls,
            };
            sysctls.insert(name.clone(), value.clone());
        }
        other => panic!("{other} is no operation on links"),
    }
}

fn netns_goes(live: &mut NodeLive) {
    live.netns = Seen::Absent;
    if live.wireguard.present().is_some_and(|device| device.backend == TunnelBackend::Kernel) {
        live.wireguard = Seen::Absent;
    }
    if let Seen::Present(firewall) = &mut live.firewall {
        firewall.netns = None;
    }
    if let Seen::Present(link) = &mut live.link {
        // The host's ends go too, but only when the kernel gets to it.
        for end in [&mut link.host_end, &mut link.port_end] {
            end.iter_mut().for_each(|end| end.paired = false);
        }
        (link.netns_end, link.service_end) = (None, None);
        link.routes.retain(|(side, _)| *side == Side::Host);
        link.netns_sysctls.clear();
    }
}

fn link_goes(live: &mut NodeLive, name: &str) {
    let Seen::Present(link) = &mut live.link else { return };
    link.routes.retain(|(_, route)| route.via.device() != name);
    for sysctls in [&mut link.host_sysctls, &mut link.netns_sysctls] {
        sysctls.retain(|path, _| !path.contains(&format!("/conf/{name}/")));
    }
}

fn end<'a>(spec: &NodeSpec, live: &'a mut NodeLive, name: &str) -> &'a mut Option<EndLive> {
    let (link, spec) = (present!(live.link), &spec.link);
    match name {
        name if name == spec.host_end => &mut link.host_end,
        name if name == spec.netns_end => &mut link.netns_end,
        name if name == spec.port_end => &mut link.port_end,
        name if name == spec.service_end => &mut link.service_end,
        name if name == spec.bridge => &mut link.bridge,
        other => panic!("no link {other}"),
    }
}

fn there<'a>(spec: &NodeSpec, live: &'a mut NodeLive, name: &str) -> &'a mut EndLive {
    end(spec, live, name).as_mut().unwrap_or_else(|| panic!("{name} is not there"))
}

fn other_end(spec: &NodeSpec, name: &str) -> String {
    let spec = &spec.link;
    let pairs = [(&spec.host_end, &spec.netns_end), (&spec.port_end, &spec.service_end)];
    let other = pairs.into_iter().find_map(|(outer, inner)| match name {
        name if name == outer => Some(inner),
        name if name == inner => Some(outer),
        _ => None,
    });
    other.unwrap_or_else(|| panic!("{name} is no end of a pair")).clone()
}

fn born(kind: &str) -> EndLive {
    EndLive {
        index: 9,
        kind: Some(kind.into()),
        alias: None,
        mtu: 1500,
        up: false,
        mac: None,
        controller: None,
        addresses: Default::default(),
        paired: false,
        ports: 0,
    }
}

fn configure(device: &mut WireguardLive, change: &DeviceChange) {
    if let Some(key) = &change.private_key {
        device.public_key = Some(key.public());
    }
    device.listen_port = change.listen_port.unwrap_or(device.listen_port);
    for peer in &change.peers {
        match peer {
            PeerChange::Remove(key) => assert!(device.peers.remove(key).is_some()),
            PeerChange::Set { key, allowed_ips, keepalive, .. } => {
                let new =
                    PeerLive { allowed_ips: Default::default(), keepalive: 0, stats: Default::default() };
                let found = device.peers.entry(*key).or_insert(new);
                if let Some(ips) = allowed_ips {
                    found.allowed_ips = ips.iter().copied().collect();
                }
                found.keepalive = keepalive.unwrap_or(found.keepalive);
            }
        }
    }
}

fn sidecar<'a>(
    spec: &'a NodeSpec,
    live: &'a mut NodeLive,
    unit: &UnitName,
) -> (&'a SidecarSpec, &'a mut Seen<SidecarLive>) {
    if *unit == UnitName::GATEWAY { (&spec.gateway, &mut live.gateway) } else { (&spec.dns, &mut live.dns) }
}

/// A restart gives the process all sockets there are.
fn put_sidecar(
    spec: &SidecarSpec,
    found: &mut Seen<SidecarLive>,
    what: Replace,
    opens: &[String],
    closes: &[String],
) {
    if what == Replace::All {
        return *found = Seen::Present(node::served(spec));
    }
    let live = present!(*found);
    live.unit = Some(node::unit(&spec.unit));
    live.sockets.retain(|name, _| !closes.contains(name));
    for socket in spec.routes.wanted.iter().filter(|socket| opens.contains(&socket.name)) {
        live.sockets.insert(socket.name.clone(), node::listening(socket));
    }
    let purposes = live.sockets.keys().filter_map(|name| name.strip_prefix(spec.unit.name.as_str()));
    live.given = Some(purposes.filter_map(|rest| rest.strip_prefix('-')).map(str::to_owned).collect());
}
