//! A node as it should be and the same node as an inspection would find it: the starting point of every drift.

use ployz_core::address::{AddressPlan, OverlayPrefix};
use ployz_core::adopt::Seen;
use ployz_core::id::NetworkId;
use ployz_core::key::{PrivateKey, PublicKey};
use ployz_core::live::*;
use ployz_core::spec::firewall::Table;
use ployz_core::spec::netns::owner_alias;
use ployz_core::spec::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The namespace that the found node lives in.
pub const NS: NsId = NsId { device: 4, inode: 4026532785 };

/// The network.
pub fn network() -> NetworkId {
    NetworkId::from_bytes([7; 16])
}

/// A key whose short form is easy to tell.
pub fn peer_key(n: u8) -> PublicKey {
    PrivateKey::from_random([n; 32]).public()
}

/// A founder with two peers, on the given backend.
pub fn spec(backend: TunnelBackend) -> NodeSpec {
    let prefix = OverlayPrefix::of(&network());
    let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
    let subnet = plan.slice(0).unwrap();
    let key = PrivateKey::from_random([1; 32]);
    let own = prefix.address(&key.public());
    let peer = |n: u8, name: &str| {
        let allowed = BTreeSet::from([
            IpAddr::V6(prefix.address(&peer_key(n))).into(),
            plan.slice(usize::from(n)).unwrap().net().into(),
        ]);
        let endpoints = vec![([10, 0, 0, n], 51820).into()];
        (
            peer_key(n),
            PeerSpec { name: name.parse().unwrap(), allowed_ips: allowed, keepalive: 15, endpoints },
        )
    };
    let nats = UnitSpec {
        name: UnitName::NATS,
        description: "Ployz store (NATS)".into(),
        exec: ["/usr/lib/ployz/nats-server", "-c", "/var/lib/ployz/networks/prod/nats/nats.conf"]
            .map(String::from)
            .into(),
        environment: BTreeMap::from([("PLOYZ_NATS_ROLE".into(), "standalone".into())]),
        user: Some("ployz-nats".into()),
        netns: Some("/run/netns/ployz".into()),
        writable: vec!["/var/lib/ployz/networks/prod/nats".into()],
        notifies: false,
        reload_signal: Some(1),
        capabilities: Vec::new(),
        stop_seconds: 30,
    };
    let tunnel = UnitSpec {
        name: UnitName::WIREGUARD,
        exec: vec!["/usr/lib/ployz/ployz-wireguard".into()],
        environment: BTreeMap::new(),
        user: None,
        netns: None,
        notifies: true,
        ..nats.clone()
    };
    let gateway = sidecar(
        &UnitSpec { name: UnitName::GATEWAY, user: Some("ployz-gateway".into()), ..nats.clone() },
        vec![
            socket("ployz-gateway", "http", &["0.0.0.0:80"], None),
            socket("ployz-gateway-metrics", "metrics", &["127.0.0.1:9101"], None),
        ],
        &[("PLOYZ_GATEWAY_THREADS", "2")],
    );
    let dns = sidecar(
        &UnitSpec { name: UnitName::DNS, user: Some("ployz-dns".into()), ..nats.clone() },
        vec![socket("ployz-dns", "dns", &["10.101.0.2:53"], Some("/run/netns/ployz"))],
        &[("PLOYZ_DNS_MACHINE", "db-1")],
    );
    NodeSpec {
        gateway,
        dns,
        netns: NetnsSpec {
            name: "ployz".into(),
            network: network(),
            siblings: vec![NetworkId::from_bytes([9; 16])],
        },
        tunnel: (backend == TunnelBackend::Userspace).then_some(tunnel),
        wireguard: WireguardSpec {
            name: "wg0".into(),
            network: network(),
            backend,
            private_key: key,
            listen_port: 51820,
            mtu: 1420,
            addresses: BTreeSet::from([IpAddr::V6(own).into(), IpAddr::V4(subnet.service()).into()]),
            peers: BTreeMap::from([peer(2, "db-2"), peer(3, "db-3")]),
        },
        link: LinkSpec::of(&network(), prefix, subnet, plan.cluster_cidr, 1420),
        firewall: FirewallSpec::of(prefix, own, subnet, &plan),
        nats: NatsSpec {
            unit: nats,
            config_path: "/var/lib/ployz/networks/prod/nats/nats.conf".into(),
            config: String::new(),
            revision: "16de7f251a5c".into(),
        },
    }
}

/// The same node as it is found when all is right.
pub fn live(spec: &NodeSpec) -> NodeLive {
    NodeLive {
        netns: Seen::Present(NetnsLive { id: NS, alias: Some(spec.netns.alias()) }),
        tunnel: spec.tunnel.as_ref().map_or(Seen::Absent, |tunnel| Seen::Present(unit(tunnel))),
        wireguard: Seen::Present(device(&spec.wireguard)),
        link: Seen::Present(links(&spec.link)),
        firewall: Seen::Present(FirewallLive {
            host: Some(table(&spec.firewall.host)),
            netns: Some(table(&spec.firewall.netns)),
        }),
        nats: Seen::Present(NatsLive {
            unit: unit(&spec.nats.unit),
            loaded: Some(spec.nats.revision.clone()),
        }),
        gateway: Seen::Present(served(&spec.gateway)),
        dns: Seen::Present(served(&spec.dns)),
    }
}

/// A process with its sockets, made from its spec.
pub fn served(spec: &SidecarSpec) -> SidecarLive {
    let sockets = spec.sockets.iter().map(|socket| (socket.name.clone(), listening(socket))).collect();
    let mut live = SidecarLive { unit: Some(unit(&spec.unit)), sockets, ..SidecarLive::default() };
    spec.routes.wanted.iter().for_each(|socket| open(&mut live, socket));
    live
}

/// Opens a socket that a route asks for, as a restart does it.
pub fn open(live: &mut SidecarLive, socket: &SocketSpec) {
    live.sockets.insert(socket.name.clone(), listening(socket));
    live.given.get_or_insert_default().insert(socket.purpose.clone());
}

/// Sockets made from their spec.
pub fn listening(spec: &SocketSpec) -> SocketLive {
    SocketLive {
        identity: spec.identity(),
        fingerprint: Some(spec.identity().fingerprint()),
        state: ActiveState::Active,
    }
}

/// Sockets of TCP.
pub fn socket(name: &str, purpose: &str, listen: &[&str], netns: Option<&str>) -> SocketSpec {
    SocketSpec {
        name: name.into(),
        purpose: purpose.into(),
        listen: listen.iter().map(|text| Listen::Stream(text.parse().unwrap())).collect(),
        netns: netns.map(Into::into),
        v6_only: false,
    }
}

fn sidecar(unit: &UnitSpec, sockets: Vec<SocketSpec>, environment: &[(&str, &str)]) -> SidecarSpec {
    let name = unit.name.as_str();
    let dir = std::path::Path::new("/var/lib/ployz/networks/prod").join(name);
    let unit = UnitSpec {
        description: name.into(),
        exec: vec!["/usr/lib/ployz/ployz-front".into(), format!("/usr/lib/ployz/{name}")],
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        writable: vec![dir.join("data")],
        notifies: true,
        reload_signal: None,
        ..unit.clone()
    };
    SidecarSpec { unit, settings: dir.join("env"), sockets, routes: RouteSockets::default() }
}

/// A unit made from its spec.
pub fn unit(spec: &UnitSpec) -> UnitLive {
    UnitLive {
        identity: spec.identity(),
        fingerprint: Some(spec.identity().fingerprint()),
        state: ActiveState::Active,
        pid: 4711,
        netns: Some(spec.netns.as_ref().map_or(NsId { device: 4, inode: 1 }, |_| NS)),
    }
}

fn device(spec: &WireguardSpec) -> WireguardLive {
    let peer = |peer: &PeerSpec| PeerLive {
        allowed_ips: peer.allowed_ips.clone(),
        keepalive: peer.keepalive,
        stats: PeerStats {
            endpoint: peer.endpoints.first().copied(),
            last_handshake: Some(9),
            rx_bytes: 1,
            tx_bytes: 2,
        },
    };
    WireguardLive {
        index: 5,
        backend: spec.backend,
        alias: Some(spec.alias()),
        public_key: Some(spec.private_key.public()),
        listen_port: spec.listen_port,
        mtu: spec.mtu,
        up: true,
        ipv6: true,
        addresses: spec.addresses.clone(),
        peers: spec.peers.iter().map(|(key, spec)| (*key, peer(spec))).collect(),
    }
}

fn links(spec: &LinkSpec) -> LinkLive {
    let end = |kind: &str, addresses: &BTreeSet<_>, paired| EndLive {
        index: 3,
        kind: Some(kind.into()),
        alias: Some(owner_alias(&spec.network)),
        mtu: spec.mtu,
        up: true,
        mac: None,
        controller: None,
        addresses: addresses.clone(),
        paired,
        ports: 0,
    };
    let bridge = end("bridge", &spec.bridge_addresses, false);
    let port = end("veth", &BTreeSet::new(), true);
    let service = end("veth", &spec.service_addresses, true);
    LinkLive {
        host_end: Some(end("veth", &spec.host_addresses, true)),
        netns_end: Some(end("veth", &spec.netns_addresses, true)),
        bridge: Some(EndLive { mac: Some(spec.bridge_mac), ..bridge }),
        port_end: Some(EndLive { controller: Some(spec.bridge.clone()), ..port }),
        service_end: Some(EndLive { mac: Some(spec.service_mac), ..service }),
        routes: spec.routes.clone(),
        rules: spec.rules.clone(),
        host_sysctls: spec.host_sysctls.clone(),
        netns_sysctls: spec.netns_sysctls.clone(),
    }
}

/// A table as `nft` would list it: through its own text.
pub fn table(table: &Table) -> TableLive {
    let script = table.script();
    let listing = script.split_once("delete table inet ployz\n").expect("the script replaces the table").1;
    TableLive::parse(listing)
}
