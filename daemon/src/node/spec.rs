//! From what is on disk to what the data plane should be. No control plane, no clock but the one handed in.

use crate::node::environment::{Environment, NETNS};
use crate::node::nats::config::Settings;
use crate::node::sidecars;
use crate::state::{Backend, Disk, Keys, NetworkFile, PeersFile};
use ipnet::IpNet;
use ployz_core::config::{BackendChoice, Config};
use ployz_core::id::NetworkId;
use ployz_core::key::PublicKey;
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::spec::wireguard::{KEEPALIVE_SECONDS, tunnel_mtu};
use ployz_core::spec::{
    FirewallSpec, LinkSpec, NatsRole, NetnsSpec, NodeSpec, PeerSpec, TunnelBackend, UnitName, UnitSpec,
    WireguardSpec,
};
use ployz_core::wire::v1::record::{InviteRecord, MachineMembership};
use ployz_netns::namespace;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Who runs the tunnel of a network: as configured, else as it was when the network first started, so that a kernel which learns
/// WireGuard later does not recreate the tunnel.
pub async fn backend(config: &Config, stored: Option<Backend>) -> Backend {
    match (config.wireguard_backend, stored) {
        (BackendChoice::Kernel, _) => Backend::Kernel,
        (BackendChoice::Userspace, _) => Backend::Userspace,
        (BackendChoice::Auto, Some(stored)) => stored,
        (BackendChoice::Auto, None) if ployz_netns::wireguard::supported().await => Backend::Kernel,
        (BackendChoice::Auto, None) => Backend::Userspace,
    }
}

/// The whole node.
pub fn node(
    around: &Environment,
    disk: &Disk,
    network: &NetworkFile,
    keys: &Keys,
    peers: &PeersFile,
    now: u64,
) -> NodeSpec {
    let prefix = network.prefix();
    let mtu = tunnel_mtu(around.underlay_mtu);
    let backend: TunnelBackend = network.backend.map_or(TunnelBackend::Kernel, Into::into);
    let own = &network.machine;
    NodeSpec {
        netns: NetnsSpec {
            name: NETNS.to_owned(),
            network: network.id.clone(),
            siblings: siblings(disk, network),
        },
        tunnel: (backend == TunnelBackend::Userspace).then(|| tunnel_unit(&around.libexec)),
        wireguard: WireguardSpec {
            name: WG_DEVICE.to_owned(),
            network: network.id.clone(),
            backend,
            private_key: keys.wireguard.clone(),
            listen_port: around.config.wireguard_listen_port,
            mtu,
            addresses: BTreeSet::from([
                IpNet::from(IpAddr::V6(own.overlay_ip)),
                IpNet::from(IpAddr::V4(own.subnet.service())),
            ]),
            peers: peer_specs(network, peers, now),
        },
        link: LinkSpec::of(&network.id, prefix, own.subnet, network.plan.cluster_cidr, mtu),
        firewall: FirewallSpec::of(prefix, own.overlay_ip, own.subnet, &network.plan),
        nats: nats(around, disk, network, keys, peers).spec(),
        gateway: sidecars::gateway(around, disk, network),
        dns: sidecars::dns(around, disk, network),
    }
}

/// Ids of the other networks on this disk. One that cannot be read is simply not named: then it is held, not replaced.
fn siblings(disk: &Disk, network: &NetworkFile) -> Vec<NetworkId> {
    let names = disk.networks().unwrap_or_default();
    let files = names
        .iter()
        .filter(|name| **name != network.name)
        .filter_map(|name| disk.network(name).ok().flatten());
    files.map(|file| file.id).collect()
}

/// The store's settings.
pub fn nats<'a>(
    around: &Environment,
    disk: &Disk,
    network: &'a NetworkFile,
    keys: &'a Keys,
    peers: &'a PeersFile,
) -> Settings<'a> {
    let founder = network.founder.overlay_ip;
    Settings {
        network: &network.id,
        machine: &network.machine,
        role: if network.is_founder() { NatsRole::Founder } else { NatsRole::Leaf { founder } },
        machines: &peers.machines,
        dir: disk.nats_dir(&network.name),
        program: around.libexec.join("nats-server"),
        netns: namespace::path(NETNS),
        user: around.nats_user.clone(),
        seed: keys.nats_seed.expose(),
        sidecars: sidecar_keys(keys),
    }
}

fn sidecar_keys(keys: &Keys) -> Vec<(&'static str, String)> {
    let Some(seeds) = &keys.sidecars else { return Vec::new() };
    let named = [("gateway", &seeds.gateway), ("dns", &seeds.dns)];
    named.into_iter().filter_map(|(name, seed)| Some((name, crate::keys::public(seed)?))).collect()
}

/// The userspace tunnel's process: in the host namespace, where its UDP socket belongs.
pub fn tunnel_unit(libexec: &Path) -> UnitSpec {
    let program = libexec.join("ployz-wireguard").display().to_string();
    let netns = namespace::path(NETNS).display().to_string();
    let arguments = ["--interface", WG_DEVICE, "--netns", &netns, "--uapi-dir", UAPI_DIR];
    UnitSpec {
        name: UnitName::WIREGUARD,
        description: "Ployz tunnel (userspace WireGuard)".into(),
        exec: std::iter::once(program).chain(arguments.map(str::to_owned)).collect(),
        environment: BTreeMap::new(),
        user: None,
        netns: None,
        writable: vec![PathBuf::from("/run")],
        notifies: true,
        reload_signal: None,
        capabilities: vec!["CAP_DAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"],
        stop_seconds: 10,
    }
}

/// Members, and machines that are being let in by us.
fn peer_specs(network: &NetworkFile, peers: &PeersFile, now: u64) -> BTreeMap<PublicKey, PeerSpec> {
    let own = network.machine.public_key;
    let mut specs = BTreeMap::new();
    for invite in peers.invites.iter().filter(|invite| invite.issuer == network.machine.id) {
        // One that is over is forgotten by `issue::tidy`, on disk first; this is for when nobody got to do that.
        if now < invite.ends().saturating_add(PEER_GRACE_SECS) {
            specs.insert(invite.one_time_key, one_time(network, invite));
        }
        if let Some(joiner) = invite.joiner() {
            specs.insert(joiner.public_key, member(joiner));
        }
    }
    specs.extend(peers.machines.iter().map(|machine| (machine.public_key, member(machine))));
    specs.remove(&own);
    specs
}

fn member(machine: &MachineMembership) -> PeerSpec {
    PeerSpec {
        name: machine.id.clone(),
        allowed_ips: BTreeSet::from([
            IpNet::from(IpAddr::V6(machine.overlay_ip)),
            IpNet::V4(machine.subnet.net()),
        ]),
        keepalive: KEEPALIVE_SECONDS,
        endpoints: machine.endpoints.clone(),
    }
}

fn one_time(network: &NetworkFile, invite: &InviteRecord) -> PeerSpec {
    let address: Ipv6Addr = network.prefix().guest(&invite.one_time_key);
    let name = format!("invite-{}", invite.id);
    PeerSpec {
        name: name.parse().expect("an invite id is hexadecimal"),
        allowed_ips: BTreeSet::from([IpNet::from(IpAddr::V6(address))]),
        keepalive: 0,
        endpoints: Vec::new(),
    }
}

/// Seconds the one-time peer of an invite outlives it.
const PEER_GRACE_SECS: u64 = 30;
const UAPI_DIR: &str = "/run/wireguard";
