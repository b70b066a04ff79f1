//! Measures one changed peer among many: `peer_change kernel|userspace N` makes a namespace and a tunnel with N peers,
//! then times inspection, decision and the least change, the way a running ployzd does it. Needs root.

use ployz_core::adopt::{Seen, decide};
use ployz_core::id::NetworkId;
use ployz_core::key::{PrivateKey, PublicKey};
use ployz_core::live::WireguardLive;
use ployz_core::spec::{NetnsSpec, PeerSpec, TunnelBackend, WireguardSpec};
use ployz_netns::namespace;
use ployz_netns::wireguard::{self, DeviceChange};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, backend, count] = arguments.as_slice() else {
        return Err("usage: peer_change kernel|userspace N".into());
    };
    let backend = if backend == "kernel" { TunnelBackend::Kernel } else { TunnelBackend::Userspace };
    let network = NetworkId::from_bytes([0xbe; 16]);
    let netns = NetnsSpec { name: "ployz-bench".into(), network: network.clone(), siblings: Vec::new() };
    namespace::create(&netns).await?;
    let file = namespace::path(&netns.name);
    let mut tunnel = match backend {
        TunnelBackend::Kernel => None,
        TunnelBackend::Userspace => Some(start_userspace(&file)?),
    };
    let result = measure(backend, count.parse()?, network, &file).await;
    if let Some(process) = &mut tunnel {
        process.kill()?;
        process.wait()?;
    }
    namespace::remove(&netns.name)?;
    result
}

async fn measure(
    backend: TunnelBackend,
    count: u32,
    network: NetworkId,
    file: &Path,
) -> Result<(), AnyError> {
    let mut spec = WireguardSpec {
        name: "wgb0".into(),
        network,
        backend,
        private_key: PrivateKey::from_random([1; 32]),
        listen_port: 51999,
        mtu: 1420,
        addresses: BTreeSet::new(),
        peers: (0..count).map(peer).collect(),
    };
    wireguard::create(&spec, file).await?;
    let started = Instant::now();
    set(&spec, &live(&spec, file).await?, file).await?;
    println!("{count} peers set in {}", millis(started.elapsed()));
    let mut times = Vec::new();
    for round in 0..7u16 {
        if let Some((_, peer)) = spec.peers.iter_mut().next() {
            peer.keepalive = 20 + round;
        }
        let started = Instant::now();
        let found = live(&spec, file).await?;
        let looked = started.elapsed();
        let verdict = decide::wireguard(&spec, &found);
        assert_eq!(verdict.word(), "converge");
        set(&spec, &found, file).await?;
        times.push((started.elapsed(), looked));
    }
    times.sort();
    let (whole, looked) = times[times.len() / 2];
    println!(
        "one peer changed among {count}: median {} (of which inspection {})",
        millis(whole),
        millis(looked)
    );
    Ok(())
}

async fn set(spec: &WireguardSpec, found: &WireguardLive, file: &Path) -> Result<(), AnyError> {
    let change = DeviceChange::between(spec, found);
    Ok(wireguard::configure(spec.backend, &spec.name, file, &change).await?)
}

async fn live(spec: &WireguardSpec, file: &Path) -> Result<WireguardLive, AnyError> {
    match wireguard::inspect(&spec.name, file).await {
        Seen::Present(live) => Ok(live),
        other => Err(format!("the device is {other:?}").into()),
    }
}

fn peer(n: u32) -> (PublicKey, PeerSpec) {
    let mut bytes = [0u8; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes[4] = 9;
    let address = Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, (n >> 16) as u16, n as u16);
    let allowed_ips = BTreeSet::from([IpAddr::V6(address).into()]);
    let name = format!("p{n}").parse().expect("a letter and digits");
    (PublicKey::from_bytes(bytes), PeerSpec { name, allowed_ips, keepalive: 0, endpoints: Vec::new() })
}

fn start_userspace(file: &Path) -> Result<std::process::Child, AnyError> {
    let program = std::env::current_exe()?.with_file_name("ployz-wireguard");
    let arguments = ["--interface", "wgb0", "--uapi-dir", "/run/wireguard", "--netns"];
    let child = std::process::Command::new(program).args(arguments).arg(file).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !wireguard::socket_path("wgb0").exists() {
        if Instant::now() > deadline {
            return Err("ployz-wireguard did not come up".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
