//! The gateway and the DNS server as they should be, and the files they need before their first start.
//!
//! With systemd they run in the namespace behind `ployz-front`, on sockets of their own units; without, they listen by
//! themselves, the gateway in the host's namespace, where its addresses belong.

use crate::node::environment::{Environment, NETNS};
use crate::node::nats::config::{DATA, prepare, put};
use crate::state::{Disk, DiskError, Keys, NetworkFile, Secret};
use ployz_core::spec::{Listen, RouteSockets, SidecarSpec, SocketSpec, UnitName, UnitSpec};
use ployz_core::wire::v1::subject::CLIENT_PORT;
use ployz_netns::namespace;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The gateway, without the sockets that routes ask for: those are not on disk.
pub fn gateway(around: &Environment, disk: &Disk, network: &NetworkFile) -> SidecarSpec {
    let config = &around.config;
    let dir = dir(disk, network, &GATEWAY);
    let listens = [
        ("http", Some(config.gateway_listen_addr), "PLOYZ_GATEWAY_HTTP"),
        ("https", config.gateway_https_listen_addr, "PLOYZ_GATEWAY_HTTPS"),
        ("metrics", config.gateway_metrics_listen_addr, "PLOYZ_GATEWAY_METRICS"),
    ];
    let mut sockets = Vec::new();
    let mut environment = texts([
        ("PLOYZ_GATEWAY_CLUSTER_CIDR", network.plan.cluster_cidr.to_string()),
        ("PLOYZ_GATEWAY_DRAIN_SECS", GATEWAY_DRAIN_SECONDS.to_string()),
        ("PLOYZ_GATEWAY_MACHINE", network.machine.id.to_string()),
        ("PLOYZ_GATEWAY_NATS", nats(network)),
        ("PLOYZ_GATEWAY_NETWORK", network.id.to_string()),
        ("PLOYZ_GATEWAY_SEED", dir.join(SEED).display().to_string()),
        ("PLOYZ_GATEWAY_SNAPSHOT", dir.join(DATA).join(SNAPSHOT).display().to_string()),
        ("PLOYZ_GATEWAY_SUBNET_PREFIX_LEN", network.plan.subnet_prefix_len.to_string()),
        ("PLOYZ_GATEWAY_THREADS", config.gateway_threads.to_string()),
    ]);
    for (purpose, address, variable) in listens {
        let Some(address) = address else { continue };
        if around.is_system() {
            sockets.push(socket(&UnitName::GATEWAY, "http", purpose, vec![Listen::Stream(address)], None));
        } else {
            environment.insert(variable.to_owned(), address.to_string());
        }
    }
    // Of the daemon's own environment (a drop-in of ployzd.service): the pair for names without a certificate.
    for variable in ["PLOYZ_GATEWAY_TLS_CERT_PATH", "PLOYZ_GATEWAY_TLS_KEY_PATH"] {
        environment.extend(std::env::var(variable).ok().map(|value| (variable.to_owned(), value)));
    }
    let netns = around.is_system().then(|| namespace::path(NETNS));
    sidecar(&dir, UnitSpec { environment, netns, ..unit(around, &GATEWAY) }, sockets)
}

/// The DNS server.
pub fn dns(around: &Environment, disk: &Disk, network: &NetworkFile) -> SidecarSpec {
    let config = &around.config;
    let dir = dir(disk, network, &DNS);
    let own = &network.machine;
    let addresses = [IpAddr::V6(own.overlay_ip), IpAddr::V4(own.subnet.service())];
    let addresses = addresses.map(|address| SocketAddr::new(address, DNS_PORT));
    let mut environment = texts([
        ("PLOYZ_DNS_CLUSTER_CIDR", network.plan.cluster_cidr.to_string()),
        ("PLOYZ_DNS_MACHINE", own.id.to_string()),
        ("PLOYZ_DNS_NATS", nats(network)),
        ("PLOYZ_DNS_NATS_SEED_FILE", dir.join(SEED).display().to_string()),
        ("PLOYZ_DNS_NETWORK", network.id.to_string()),
        ("PLOYZ_DNS_SNAPSHOT", dir.join(DATA).join(SNAPSHOT).display().to_string()),
        ("PLOYZ_DNS_SUBNET_PREFIX_LEN", network.plan.subnet_prefix_len.to_string()),
    ]);
    let mut sockets = Vec::new();
    if around.is_system() {
        let listen = addresses.iter().flat_map(|at| [Listen::Datagram(*at), Listen::Stream(*at)]).collect();
        sockets.push(socket(&UnitName::DNS, "dns", "dns", listen, Some(namespace::path(NETNS))));
        // An address of the host, so a socket of the host, whatever namespace the process is in.
        let metrics = config.dns_metrics_listen_addr.map(Listen::Stream);
        sockets.extend(metrics.map(|at| socket(&UnitName::DNS, "dns", "metrics", vec![at], None)));
    } else {
        let listen = addresses.map(|address| address.to_string()).join(",");
        environment.insert("PLOYZ_DNS_LISTEN".to_owned(), listen);
        let metrics = config.dns_metrics_listen_addr.map(|at| at.to_string());
        environment.extend(metrics.map(|at| ("PLOYZ_DNS_METRICS_LISTEN_ADDR".to_owned(), at)));
    }
    let netns = Some(namespace::path(NETNS));
    sidecar(&dir, UnitSpec { environment, netns, ..unit(around, &DNS) }, sockets)
}

/// Makes the directories and writes the seeds, unless they are there as they should be.
pub fn install(
    around: &Environment,
    disk: &Disk,
    network: &NetworkFile,
    keys: &Keys,
) -> Result<(), DiskError> {
    let Some(seeds) = &keys.sidecars else { return Ok(()) };
    for (kind, seed) in [(&GATEWAY, &seeds.gateway), (&DNS, &seeds.dns)] {
        let dir = dir(disk, network, kind);
        let user = around.is_system().then_some(kind.user);
        prepare(&dir, user)?;
        write_seed(&dir.join(SEED), seed, user)?;
    }
    Ok(())
}

fn write_seed(path: &Path, seed: &Secret, user: Option<&str>) -> Result<(), DiskError> {
    let text = zeroize::Zeroizing::new(format!("{}\n", seed.expose()));
    if std::fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    put(path, &text, user)
}

/// What differs between the two besides their settings.
struct Kind {
    name: UnitName,
    short: &'static str,
    user: &'static str,
    description: &'static str,
}

fn unit(around: &Environment, kind: &Kind) -> UnitSpec {
    let program = |name: &str| around.libexec.join(name).display().to_string();
    let own = program(kind.name.as_str());
    UnitSpec {
        name: kind.name.clone(),
        description: kind.description.into(),
        exec: if around.is_system() { vec![program("ployz-front"), own] } else { vec![own] },
        environment: BTreeMap::new(),
        user: around.is_system().then(|| kind.user.to_owned()),
        netns: None,
        writable: Vec::new(),
        notifies: true,
        reload_signal: None,
        // The sockets are handed over, so not even ports below 1024 need one.
        capabilities: Vec::new(),
        stop_seconds: 10,
    }
}

fn sidecar(dir: &Path, unit: UnitSpec, sockets: Vec<SocketSpec>) -> SidecarSpec {
    let unit = UnitSpec { writable: vec![dir.join(DATA)], ..unit };
    SidecarSpec { unit, settings: dir.join(SETTINGS), sockets, routes: RouteSockets::default() }
}

/// The socket unit of the main purpose has the service's name; the others append their own.
fn socket(
    unit: &UnitName,
    main: &str,
    purpose: &str,
    listen: Vec<Listen>,
    netns: Option<PathBuf>,
) -> SocketSpec {
    let name = if purpose == main { unit.to_string() } else { format!("{unit}-{purpose}") };
    SocketSpec { name, purpose: purpose.to_owned(), listen, netns, v6_only: false }
}

fn dir(disk: &Disk, network: &NetworkFile, kind: &Kind) -> PathBuf {
    disk.network_dir(&network.name).join(kind.short)
}

fn nats(network: &NetworkFile) -> String {
    SocketAddr::new(IpAddr::V6(network.machine.overlay_ip), CLIENT_PORT).to_string()
}

fn texts<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

const GATEWAY: Kind = Kind {
    name: UnitName::GATEWAY,
    short: "gateway",
    user: "ployz-gateway",
    description: "Ployz gateway (HTTP and TCP from outside)",
};
const DNS: Kind =
    Kind { name: UnitName::DNS, short: "dns", user: "ployz-dns", description: "Ployz DNS server" };
const DNS_PORT: u16 = 53;
/// What a replaced gateway still serves may take this long, a WebSocket or a download for example; it ends as soon as there
/// is nothing left. Each replacement while something lives that long is one more process meanwhile.
const GATEWAY_DRAIN_SECONDS: u32 = 3_600;
const SETTINGS: &str = "settings.env";
const SEED: &str = "nats-seed";
const SNAPSHOT: &str = "routes.json";
