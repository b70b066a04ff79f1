//! Looking at what a running network relies on in the host and does not own (docs/host.md). Reads only; what it means is
//! judged by `ployz_core::host::judge`.

use ipnet::IpNet;
use nix::sys::statvfs::statvfs;
use ployz_core::adopt::Seen;
use ployz_core::host::{Free, Room, Usage, judge};
use ployz_core::id::MachineId;
use ployz_core::live::{LinkLive, NodeLive};
use ployz_core::spec::NodeSpec;
use ployz_core::wire::v1::doctor::Check;
use ployz_core::wire::v1::record::MachineMembership;
use ployz_netns::netlink::Rtnl;
use ployz_netns::{host, sysctl};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// What is looked at.
pub struct Scene<'a> {
    /// The network as it should be.
    pub spec: &'a NodeSpec,
    /// And as it was found.
    pub live: &'a NodeLive,
    /// Its members.
    pub machines: &'a [MachineMembership],
    /// Where the state is.
    pub data_dir: &'a Path,
}

/// Every check of the host, with a running network.
pub async fn look(scene: &Scene<'_>) -> Vec<Check> {
    let mut checks = vec![judge::ipv6(sysctl::kernel_has_ipv6())];
    match routing(scene).await {
        Ok(found) => checks.extend(found),
        Err(error) => {
            let advice = "as root: `ip rule`, `ip route`";
            checks.push(Check::warn("policy-rules", ployz_core::text::chain(&error), advice));
        }
    }
    checks.extend(forwarding(scene.live));
    checks.extend(counters(scene.live));
    checks.push(room("disk", scene.data_dir));
    checks
}

/// Rules of others, and the ways that packets really take.
async fn routing(scene: &Scene<'_>) -> ployz_netns::Result<Vec<Check>> {
    let host = Rtnl::here()?;
    let ranges: Vec<IpNet> = scene.spec.link.rules.iter().filter_map(|rule| rule.to).collect();
    let mut checks = vec![judge::policy_rules(&host.foreign_rules().await?, &ranges)];
    // While our own route is not there, `link` says so, and asking for the way would only repeat it.
    let there = scene.live.link.present().is_some_and(|link| has_routes(scene.spec, link));
    if there {
        let (ranges, addresses): (Vec<IpNet>, Vec<IpAddr>) = probes(scene).into_iter().unzip();
        let ways = host.ways_to(&addresses).await?;
        checks.push(judge::overlay_route(&ranges.into_iter().zip(ways).collect::<Vec<_>>()));
    }
    let endpoints = endpoints(scene);
    let addresses: Vec<IpAddr> = endpoints.iter().map(|(_, at)| at.ip()).collect();
    let ways = endpoints.into_iter().zip(host.ways_to(&addresses).await?);
    let ways: Vec<_> = ways.map(|((peer, at), way)| (peer, at, way)).collect();
    checks.push(judge::underlay_route(&ways));
    Ok(checks)
}

fn has_routes(spec: &NodeSpec, live: &LinkLive) -> bool {
    live.routes.is_superset(&spec.link.routes)
}

/// Addresses of the overlay that are not this machine's: every peer's.
fn probes(scene: &Scene<'_>) -> Vec<(IpNet, IpAddr)> {
    let own = scene.spec.wireguard.private_key.public();
    let mut probes: Vec<(IpNet, IpAddr)> = Vec::new();
    for machine in scene.machines.iter().filter(|machine| machine.public_key != own) {
        let subnet = machine.subnet;
        probes.push((IpNet::from(IpAddr::V6(machine.overlay_ip)), IpAddr::V6(machine.overlay_ip)));
        probes.push((IpNet::V4(subnet.net()), IpAddr::V4(subnet.service())));
    }
    probes
}

/// Where the tunnel sends to, by peer.
fn endpoints(scene: &Scene<'_>) -> Vec<(MachineId, SocketAddr)> {
    let Some(device) = scene.live.wireguard.present() else { return Vec::new() };
    let named = scene.machines.iter().filter_map(|machine| {
        let endpoint = device.peers.get(&machine.public_key)?.stats.endpoint?;
        Some((machine.id.clone(), unmapped(endpoint)))
    });
    named.collect()
}

fn unmapped(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

fn forwarding(live: &NodeLive) -> Option<Check> {
    let attached = live.link.present()?.bridge.as_ref()?.ports;
    Some(judge::forwarding(host::forwards()?, attached))
}

fn counters(live: &NodeLive) -> Vec<Check> {
    let named = |check, what, usage: Option<Usage>, advice| Some(judge::usage(check, what, usage?, advice));
    let neighbours = "raise net.ipv4.neigh.default.gc_thresh3 and net.ipv6.neigh.default.gc_thresh3 (and gc_thresh2): \
                      new neighbours are rejected when the table is full";
    let conntrack =
        "raise net.netfilter.nf_conntrack_max: new connections are dropped when the table is full";
    [
        Some(descriptors(live)),
        named("conntrack", "tracked connections", host::conntrack(), conntrack),
        named("neighbours-ipv4", "neighbours", host::neighbours(false), neighbours),
        named("neighbours-ipv6", "neighbours", host::neighbours(true), neighbours),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Of the machine and of our processes, the one that is nearest to its end.
fn descriptors(live: &NodeLive) -> Check {
    let sidecar = |seen: &Seen<ployz_core::live::SidecarLive>| Some(seen.present()?.unit.as_ref()?.pid);
    let pids = [
        ("ployzd", Some(std::process::id())),
        ("ployz-wireguard", live.tunnel.present().map(|unit| unit.pid)),
        ("ployz-nats", live.nats.present().map(|nats| nats.unit.pid)),
        ("ployz-gateway", sidecar(&live.gateway)),
        ("ployz-dns", sidecar(&live.dns)),
    ];
    let ours = pids
        .into_iter()
        .filter_map(|(name, pid)| Some((format!("open files of {name}"), host::files_of(pid?)?)));
    let all = host::files().map(|usage| ("open files of the machine".to_owned(), usage));
    let nearest = ours
        .chain(all)
        .max_by_key(|(_, usage)| u128::from(usage.used) * 1000 / u128::from(usage.limit.max(1)));
    let advice =
        "raise the limit (LimitNOFILE= in a drop-in, fs.file-max), or find the leak: `ls /proc/PID/fd`";
    match nearest {
        Some((what, usage)) => judge::usage("descriptors", &what, usage, advice),
        None => Check::ok("descriptors", "not available"),
    }
}

/// Room on the file system of a directory.
pub fn room(check: &str, path: &Path) -> Check {
    match statvfs(path) {
        Ok(found) => {
            let unit = found.fragment_size();
            let bytes = Free { free: found.blocks_available() * unit, size: found.blocks() * unit };
            let inodes = Free { free: found.files_available(), size: found.files() };
            judge::room(check, path, Room { bytes, inodes })
        }
        Err(nix::errno::Errno::ENOENT) => Check::ok(check, format!("{} is not there yet", path.display())),
        Err(errno) => Check::warn(check, format!("{}: {errno}", path.display()), "run this as root"),
    }
}
