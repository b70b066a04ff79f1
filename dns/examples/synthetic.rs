//! The server over a made-up network, to be looked at with dig and measured with dnsperf:
//! `synthetic ADDRESS SERVICES [UPSTREAM...]`. Prints one dnsperf query a line with `synthetic --queries SERVICES`.

use anyhow::{Context, bail};
use ployz_core::address::AddressPlan;
use ployz_core::routing::{
    Freshness, InstanceRoute, MachineRoute, ServicePort, ServiceRef, ServiceRoute, State,
};
use ployz_dns::answer::Answerer;
use ployz_dns::forward::Forwarder;
use ployz_dns::realm::Realm;
use ployz_dns::serve::{self, Server};
use ployz_dns::sockets::Sockets;
use ployz_dns::zone::Zone;
use ployz_nats::events::{Snapshot, View};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, services, upstreams @ ..] = arguments.as_slice() else {
        bail!("synthetic ADDRESS|--queries SERVICES [UPSTREAM...]")
    };
    let services: usize = services.parse()?;
    if first == "--queries" {
        for n in 0..services {
            println!("s{n}.shop.ployz.internal A\ns{n}.shop.ployz.internal AAAA");
            println!("_http._tcp.s{n}.shop.ployz.internal SRV");
        }
        return Ok(());
    }
    let address = first.parse()?;
    let start = Instant::now();
    let view = Arc::new(Zone::of(&state(services)?));
    eprintln!("view of {services} services: {:?}", start.elapsed());
    let snapshot = Snapshot { view, freshness: Freshness::Live, sequence: 1 };
    let (_keep, receiver) = watch::channel(Arc::new(snapshot));
    let realm = Realm::new("10.101.0.0/16".parse()?, "fda1:2826:9433::/48".parse()?);
    let parsed = upstreams.iter().map(|text| text.parse().map_err(anyhow::Error::msg));
    let forwarder = Arc::new(Forwarder::new(parsed.collect::<Result<_, _>>()?));
    let server = Arc::new(Server::new(Answerer::new(realm, &"m0".parse()?), forwarder, receiver));
    let sockets = Sockets::open(&[address], None)?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    for socket in sockets.udp.into_iter().map(Arc::new) {
        for _ in 0..std::thread::available_parallelism()?.get() {
            tokio::spawn(serve::udp::serve(socket.clone(), server.clone(), tasks.clone(), stop.clone()));
        }
    }
    for listener in sockets.tcp {
        tokio::spawn(serve::tcp::serve(listener, server.clone(), tasks.clone(), stop.clone()));
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn state(services: usize) -> anyhow::Result<State> {
    let mut state = State::default();
    let plan = AddressPlan::new("10.101.0.0/16".parse()?, 24)?;
    for n in 0..3 {
        let route = MachineRoute {
            overlay_ip: format!("fda1:2826:9433::{}", n + 16).parse()?,
            subnet: plan.slice(n).context("a slice")?,
        };
        state.machines.insert(format!("m{n}").parse()?, route);
    }
    for n in 0..services {
        let id = ServiceRef { namespace: "shop".parse()?, service: format!("s{n}").parse()? };
        let deploy: ployz_core::id::DeployId = "0123456789abcdef".parse()?;
        let mut instances = std::collections::BTreeSet::new();
        for machine in 0..3u8 {
            let instance: ployz_core::id::InstanceId = format!("s{n}-{machine}").parse()?;
            let address = Ipv4Addr::new(10, 101, machine, 3 + (n % 250) as u8);
            let route = InstanceRoute {
                address,
                revision: "r".into(),
                deploy: deploy.clone(),
                slot: u32::from(machine),
                ready: true,
                draining: false,
            };
            instances.insert(instance.clone());
            let of = state.instances.entry(id.clone()).or_default();
            of.insert((instance, format!("m{machine}").parse()?), route);
        }
        let ports = vec![ServicePort { name: "http".into(), port: 8080, protocol: "tcp".into() }];
        let service = ServiceRoute {
            deploy,
            revision: "r".into(),
            instances,
            ports,
            http: Vec::new(),
            tcp: Vec::new(),
        };
        state.services.insert(id, service);
    }
    Ok(state)
}
