//! The drift table: what is found, and the whole plan as an operator reads it.

#![allow(clippy::unwrap_used)]

/// What is there, to change it.
macro_rules! present {
    ($seen:expr) => {
        match &mut $seen {
            Seen::Present(live) => live,
            other => panic!("not present: {other:?}"),
        }
    };
}

mod held;
mod node;
mod routes;
mod world;

use node::{NS, live, network, peer_key, spec};
use ployz_core::adopt::{Plan, Seen, plan};
use ployz_core::id::NetworkId;
use ployz_core::live::*;
use ployz_core::spec::netns::owner_alias;
use ployz_core::spec::{Listen, Mac, NodeSpec, Rule, Side, TunnelBackend};

const KERNEL: TunnelBackend = TunnelBackend::Kernel;
const USERSPACE: TunnelBackend = TunnelBackend::Userspace;

fn drifted(backend: TunnelBackend, change: impl FnOnce(&mut NodeSpec, &mut NodeLive)) -> String {
    let mut spec = spec(backend);
    let mut live = live(&spec);
    change(&mut spec, &mut live);
    let planned = plan(&spec, &live);
    leads_to_adoption(&spec, live, &planned);
    text(&planned)
}

/// Carried out on a node in memory, the operations leave nothing to do, except for what is held.
fn leads_to_adoption(spec: &NodeSpec, mut live: NodeLive, planned: &Plan) {
    world::settle(spec, &mut live);
    planned.operations().for_each(|planned| world::apply(&planned.op, spec, &mut live));
    let left = plan(spec, &live);
    assert!(left.is_silent(), "planned:\n{planned}left:\n{left}");
    assert!(planned.count("hold") > 0 || left.is_all_adopt(), "planned:\n{planned}left:\n{left}");
}

/// The plan as an operator reads it, and the operations of it.
fn text(plan: &Plan) -> String {
    for step in &plan.steps {
        assert_eq!(step.verdict.writes(), !step.ops.is_empty(), "{step}");
    }
    let operations: String = plan.operations().map(|planned| format!("  {planned}\n")).collect();
    format!("{plan}{operations}")
}

fn golden(name: &str, got: &str) {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("PLOYZ_BLESS").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{name}: PLOYZ_BLESS=1 writes the golden file anew");
}

/// Every row of the drift table, as one text a person can read through.
#[test]
fn drift_table() {
    let mut text = String::new();
    let mut row = |title: &str, plan: String| text += &format!("# {title}\n{plan}\n");

    row("all right", drifted(KERNEL, |_, _| {}));
    row("all right, userspace tunnel", drifted(USERSPACE, |_, _| {}));
    row("nothing there", drifted(KERNEL, |_, live| *live = held::nothing()));
    row("nothing there, userspace tunnel", drifted(USERSPACE, |_, live| *live = held::nothing()));
    row(
        "namespace deleted, the rest as it was left",
        drifted(KERNEL, |_, live| {
            live.netns = Seen::Absent;
            live.wireguard = Seen::Absent;
            let link = present!(live.link);
            (link.host_end, link.netns_end) = (None, None);
            link.routes.clear();
            present!(live.firewall).netns = None;
        }),
    );
    row(
        "namespace deleted under a userspace tunnel",
        drifted(USERSPACE, |_, live| {
            live.netns = Seen::Absent;
            live.wireguard = Seen::Absent;
            present!(live.tunnel).state = ActiveState::Changing;
            let nats = present!(live.nats);
            (nats.unit.state, nats.loaded) = (ActiveState::Changing, None);
        }),
    );
    row(
        "the namespace is no port of the bridge (a node of an older version)",
        drifted(KERNEL, |spec, live| {
            let service = spec.link.service_end.clone();
            let link = present!(live.link);
            (link.port_end, link.service_end) = (None, None);
            link.bridge.as_mut().unwrap().mac = Some(Mac([0x16, 0xaa, 0x69, 0x87, 0x97, 0x85]));
            link.routes.retain(|(_, route)| route.via.device() != service);
            link.netns_sysctls.retain(|name, _| !name.contains("svc0"));
        }),
    );
    row(
        "the port of the bridge was taken out",
        drifted(KERNEL, |_, live| present!(live.link).port_end.as_mut().unwrap().controller = None),
    );
    row(
        "the way out of the namespace is gone (a node of an older version)",
        drifted(KERNEL, |spec, live| {
            let link = present!(live.link);
            link.routes.retain(|(_, route)| route.to.prefix_len() > 0);
            let egress = spec.link.service_addresses.last().copied().unwrap();
            link.service_end.as_mut().unwrap().addresses.remove(&egress);
            present!(live.firewall).netns = None;
        }),
    );
    row(
        "Docker was up first and made the bridge for its network",
        drifted(KERNEL, |_, live| {
            let link = present!(live.link);
            let bridge = link.bridge.as_mut().unwrap();
            (bridge.alias, bridge.ports, bridge.mac) = (None, 2, Some(Mac([2, 0x42, 0x24, 0x1d, 6, 0x30])));
            link.port_end.as_mut().unwrap().controller = None;
        }),
    );
    row(
        "somebody else's link has the port's name",
        drifted(KERNEL, |_, live| {
            let port = present!(live.link).port_end.as_mut().unwrap();
            (port.alias, port.paired) = (None, false);
            port.ports = 1;
        }),
    );
    row(
        "namespace of another daemon's network",
        drifted(KERNEL, |_, live| {
            present!(live.netns).alias = Some(owner_alias(&NetworkId::from_bytes([8; 16])));
        }),
    );
    row(
        "namespace left by another network of this machine",
        drifted(KERNEL, |_, live| {
            present!(live.netns).alias = Some(owner_alias(&NetworkId::from_bytes([9; 16])));
        }),
    );
    row("namespace without our mark", drifted(KERNEL, |_, live| present!(live.netns).alias = None));
    row(
        "namespace cannot be inspected",
        drifted(KERNEL, |_, live| {
            live.netns = Seen::Unknown("no answer within 2s".into());
        }),
    );
    row("wg0 deleted", drifted(KERNEL, |_, live| live.wireguard = Seen::Absent));
    row(
        "peer removed by hand",
        drifted(KERNEL, |_, live| {
            present!(live.wireguard).peers.remove(&peer_key(2));
        }),
    );
    row(
        "foreign peer added",
        drifted(KERNEL, |_, live| {
            let device = present!(live.wireguard);
            let copy = device.peers[&peer_key(2)].clone();
            device.peers.insert(peer_key(66), copy);
        }),
    );
    row(
        "allowed IPs and keepalive of a peer changed by hand",
        drifted(KERNEL, |_, live| {
            let peer = present!(live.wireguard).peers.get_mut(&peer_key(3)).unwrap();
            peer.allowed_ips.clear();
            peer.keepalive = 0;
        }),
    );
    row(
        "a peer roamed",
        drifted(KERNEL, |_, live| {
            let peer = present!(live.wireguard).peers.get_mut(&peer_key(3)).unwrap();
            peer.stats = PeerStats { endpoint: Some(([192, 0, 2, 9], 7).into()), ..Default::default() };
        }),
    );
    row("port changed in the configuration", drifted(KERNEL, |spec, _| spec.wireguard.listen_port = 51821));
    row(
        "wg0 left unconfigured by a start cut short",
        drifted(KERNEL, |_, live| {
            let device = present!(live.wireguard);
            (device.alias, device.public_key, device.up) = (None, None, false);
            device.peers.clear();
            device.addresses.clear();
        }),
    );
    row(
        "somebody else's wg0 in our namespace",
        drifted(KERNEL, |_, live| present!(live.wireguard).alias = None),
    );
    row(
        "backend changed from userspace to kernel",
        drifted(KERNEL, |_, live| {
            present!(live.wireguard).backend = USERSPACE;
        }),
    );
    row(
        "userspace tunnel process ended",
        drifted(USERSPACE, |_, live| {
            live.tunnel = Seen::Absent;
            live.wireguard = Seen::Absent;
        }),
    );
    row(
        "namespace recreated by a start cut short before it came to the userspace tunnel",
        drifted(USERSPACE, |_, live| live.wireguard = Seen::Absent),
    );
    row(
        "routes, an address and forwarding changed by hand",
        drifted(KERNEL, |_, live| {
            let link = present!(live.link);
            link.routes.pop_first();
            link.host_end.as_mut().unwrap().addresses.pop_first();
            link.netns_sysctls.insert("ipv4/ip_forward".into(), "0".into());
        }),
    );
    row(
        "IPv6 switched off on every link of the host",
        drifted(KERNEL, |_, live| {
            let link = present!(live.link);
            link.host_end.as_mut().unwrap().addresses.clear();
            link.routes.retain(|(side, route)| *side == Side::Netns || route.to.addr().is_ipv4());
            link.host_sysctls.insert("ipv6/conf/ployz-veth/disable_ipv6".into(), "1".into());
        }),
    );
    row(
        "IPv6 switched off in the namespace",
        drifted(KERNEL, |_, live| {
            let device = present!(live.wireguard);
            device.ipv6 = false;
            device.addresses.retain(|address| address.addr().is_ipv4());
            present!(live.link).netns_sysctls.insert("ipv6/conf/host0/disable_ipv6".into(), "1".into());
        }),
    );
    row(
        "forwarding switched off on every link of the host",
        drifted(KERNEL, |_, live| {
            let sysctls = &mut present!(live.link).host_sysctls;
            sysctls.insert("ipv4/conf/ployz0/forwarding".into(), "0".into());
            sysctls.insert("ipv4/conf/ployz-veth/forwarding".into(), "0".into());
        }),
    );
    row(
        "no policy rules (a node of an older version)",
        drifted(KERNEL, |_, live| {
            let link = present!(live.link);
            link.rules.clear();
        }),
    );
    row(
        "a policy rule removed by hand, and one changed",
        drifted(KERNEL, |_, live| {
            let rules = &mut present!(live.link).rules;
            rules.pop_first();
            let moved = rules.pop_last().unwrap();
            rules.insert(Rule { priority: 9000, ..moved });
        }),
    );
    row(
        "somebody else's link with our name",
        drifted(KERNEL, |_, live| {
            let bridge = present!(live.link).bridge.as_mut().unwrap();
            (bridge.alias, bridge.ports) = (None, 2);
            bridge.addresses = ["192.0.2.2/24".parse().unwrap()].into();
        }),
    );
    row("nft flush ruleset in the host", drifted(KERNEL, |_, live| present!(live.firewall).host = None));
    row(
        "a rule added and a rule removed by hand",
        drifted(KERNEL, |_, live| {
            let firewall = present!(live.firewall);
            firewall.host.as_mut().unwrap().chains[0].rules.push("drop".into());
            firewall.netns.as_mut().unwrap().chains[0].rules.remove(0);
        }),
    );
    row("members changed", drifted(KERNEL, |spec, _| spec.nats.revision = "beefbeefbeef".into()));
    row("NATS gone", drifted(KERNEL, |_, live| live.nats = Seen::Absent));
    row(
        "NATS stopped for good",
        drifted(KERNEL, |_, live| present!(live.nats).unit.state = ActiveState::Inactive),
    );
    row(
        "NATS being restarted by its supervisor",
        drifted(KERNEL, |_, live| {
            present!(live.nats).unit.state = ActiveState::Changing;
        }),
    );
    row(
        "NATS in another namespace",
        drifted(KERNEL, |_, live| {
            present!(live.nats).unit.netns = Some(NsId { inode: 4026532999, ..NS });
        }),
    );
    row(
        "a unit property changed",
        drifted(KERNEL, |spec, live| {
            let mut other = spec.nats.unit.clone();
            other.user = None;
            other.environment.insert("PLOYZ_EXTRA".into(), "1".into());
            present!(live.nats).unit = node::unit(&other);
        }),
    );
    row(
        "an older fingerprint version, every field equal",
        drifted(KERNEL, |_, live| {
            present!(live.nats).unit.fingerprint = Some("v0:deadbeef".into());
        }),
    );
    row(
        "an older fingerprint version on every unit and socket, every field equal",
        drifted(USERSPACE, |_, live| {
            let old = || Some("v0:deadbeef".to_owned());
            present!(live.tunnel).fingerprint = old();
            present!(live.nats).unit.fingerprint = old();
            for sidecar in [&mut live.gateway, &mut live.dns] {
                let sidecar = present!(*sidecar);
                sidecar.unit.as_mut().unwrap().fingerprint = old();
                sidecar.sockets.values_mut().for_each(|socket| socket.fingerprint = old());
            }
        }),
    );
    row(
        "an older fingerprint version, a field differs",
        drifted(KERNEL, |spec, live| {
            spec.nats.unit.environment.insert("PLOYZ_NATS_ROLE".into(), "leaf".into());
            present!(live.nats).unit.fingerprint = Some("v0:deadbeef".into());
        }),
    );
    row(
        "a foreign unit with our name",
        drifted(KERNEL, |_, live| {
            live.nats = Seen::Foreign("unit ployz-nats.service comes from \"/etc/systemd/system\"".into());
        }),
    );
    row("a unit without our mark", drifted(KERNEL, |_, live| present!(live.nats).unit.fingerprint = None));
    row(
        "D-Bus hangs",
        drifted(USERSPACE, |_, live| {
            live.nats = Seen::Unknown("D-Bus timed out after 2s".into());
            live.tunnel = Seen::Unknown("D-Bus timed out after 2s".into());
        }),
    );
    row(
        "netlink hangs",
        drifted(KERNEL, |_, live| {
            live.wireguard = Seen::Unknown("no answer within 2s".into());
            live.link = Seen::Unknown("no answer within 2s".into());
        }),
    );
    row(
        "wg0 held and a route gone",
        drifted(USERSPACE, |_, live| {
            present!(live.tunnel).state = ActiveState::Changing;
            live.wireguard = Seen::Absent;
            present!(live.link).routes.pop_last();
        }),
    );
    row(
        "namespace deleted, NATS left running in it",
        drifted(KERNEL, |_, live| {
            live.netns = Seen::Absent;
            live.wireguard = Seen::Absent;
            present!(live.nats).loaded = None;
        }),
    );
    row("NATS runs and does not answer", drifted(KERNEL, |_, live| present!(live.nats).loaded = None));
    row(
        "gateway_threads changed in the configuration",
        drifted(KERNEL, |spec, _| {
            spec.gateway.unit.environment.insert("PLOYZ_GATEWAY_THREADS".into(), "4".into());
        }),
    );
    row(
        "gateway_listen_addr changed in the configuration",
        drifted(KERNEL, |spec, _| {
            spec.gateway.sockets[0].listen = vec![Listen::Stream(([0, 0, 0, 0], 8080).into())];
        }),
    );
    row(
        "gateway_metrics_listen_addr taken out of the configuration",
        drifted(KERNEL, |spec, _| spec.gateway.sockets.truncate(1)),
    );
    row(
        "a socket of the gateway closed",
        drifted(KERNEL, |_, live| {
            present!(live.gateway).sockets.get_mut("ployz-gateway").unwrap().state = ActiveState::Inactive;
        }),
    );
    row(
        "gateway stopped, its sockets listen",
        drifted(KERNEL, |_, live| {
            let unit = present!(live.gateway).unit.as_mut().unwrap();
            (unit.state, unit.netns) = (ActiveState::Inactive, None);
        }),
    );
    row(
        "gateway's service gone, its sockets there",
        drifted(KERNEL, |_, live| present!(live.gateway).unit = None),
    );
    row(
        "gateway being restarted by its supervisor",
        drifted(KERNEL, |_, live| {
            present!(live.gateway).unit.as_mut().unwrap().state = ActiveState::Changing;
        }),
    );
    row(
        "DNS in another namespace",
        drifted(KERNEL, |_, live| {
            present!(live.dns).unit.as_mut().unwrap().netns = Some(NsId { inode: 4026532999, ..NS });
        }),
    );
    row(
        "a foreign socket unit with our name",
        drifted(KERNEL, |_, live| {
            present!(live.dns).sockets.get_mut("ployz-dns").unwrap().fingerprint = None;
        }),
    );
    routes::tcp_rows(&mut row);
    routes::family_rows(&mut row);
    golden("drift-table", &text);
}

#[test]
fn what_a_daemon_knows_of_itself_is_not_identity() {
    let mut spec = spec(KERNEL);
    let found = live(&spec);
    spec.nats.unit.description = "another text".into();
    spec.nats.unit.stop_seconds = 99;
    assert!(plan(&spec, &found).is_all_adopt());
}

/// The fingerprint of a unit of the first release, for ever.
#[test]
fn unit_fingerprint_is_frozen() {
    let unit = spec(KERNEL).nats.unit;
    let fields: Vec<String> =
        unit.identity().fields().iter().map(|(name, value)| format!("{name}={value}")).collect();
    golden("unit-identity-v1", &format!("{}\n{}\n", fields.join("\n"), unit.identity().fingerprint()));
}

#[test]
fn firewall_text() {
    let spec = spec(KERNEL);
    golden("firewall-host", &spec.firewall.host.script());
    golden("firewall-netns", &spec.firewall.netns.script());
}

#[test]
fn the_network_id_is_in_every_mark() {
    let spec = spec(KERNEL);
    for alias in [spec.netns.alias(), spec.wireguard.alias(), spec.link.alias()] {
        assert_eq!(alias, format!("ployz:v1:{}", network()));
    }
}
