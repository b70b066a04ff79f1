//! The composition root: picks what runs on this machine and hands the rooms to each other.

use crate::args::ServiceMode;
use crate::deploy::context::Deploys;
use crate::deploy::{agent, coordinator};
use crate::image;
use crate::image::context::Images;
use crate::lifecycle::{self, Rooms};
use crate::membership;
use crate::network::context::{Network, Parts, Shared};
use crate::network::gate;
use crate::node::environment::Environment;
use crate::node::reconcile::Reconciler;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::process::Processes;
use crate::node::supervisor::systemd::Systemd;
use crate::pull;
use crate::pull::context::Pulls;
use crate::state::Disk;
use crate::transfer;
use futures_util::future::BoxFuture;
use ployz_core::address::Observed;
use ployz_core::config::Config;
use ployz_nats::rpc::Router;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What all networks of a daemon share.
pub fn shared(mode: ServiceMode, config: Config, disk: Disk, seen: &[Observed]) -> Shared {
    Shared {
        disk,
        reconciler: Reconciler::new(supervisor(mode, &config.data_dir)),
        around: surroundings(mode, config, seen),
        identities: Default::default(),
        doubts: Default::default(),
    }
}

/// The rooms of a network, and what they add to it: who answers which commands, what is served on its overlay address, and every
/// task that is not its own.
pub fn rooms(network: &Arc<Network>) -> (Rooms, Parts) {
    let deploys = Deploys::open(network.clone());
    let images = Images::new(network.clone());
    let pulls = Pulls::new(images.clone());
    let tasks: Vec<BoxFuture<'static, ()>> = vec![
        Box::pin(transfer::listener::run(network.clone(), images.transfers.clone())),
        Box::pin(agent::bridge::run(deploys.clone())),
        Box::pin(agent::publish::run(deploys.clone())),
        Box::pin(agent::follow::run(deploys.clone())),
        Box::pin(coordinator::gc::run(network.clone())),
        Box::pin(membership::issue::lapse_loop(network.clone())),
    ];
    let rooms = Rooms { network: network.clone(), deploys: deploys.clone(), images: images.clone() };
    let own = network.clone();
    let parts = Parts {
        session: Box::new(move || router(&own, &deploys, &images, &pulls)),
        membership: membership::serve::router(network.clone()),
        tasks,
    };
    (rooms, parts)
}

/// Who answers which commands of other machines, in one session with the store.
fn router(
    network: &Arc<Network>,
    deploys: &Arc<Deploys>,
    images: &Arc<Images>,
    pulls: &Arc<Pulls>,
) -> Router {
    let run = format!("{:032x}", u128::from_ne_bytes(ployz_host::random::bytes()));
    let (deploys, images, pulls) = (deploys.clone(), images.clone(), pulls.clone());
    let (peers, pings, again) = (network.clone(), network.clone(), run.clone());
    let judge = network.clone();
    Router::new(move |incoming| gate::judge(&judge, incoming))
        .on("deploy", move |request| agent::commands::take(&deploys, request))
        .on("image", move |request| image::fetch::take(&images, request))
        .on("pull", move |request| pull::commands::take(&pulls, request))
        .on("mesh", move |request| lifecycle::peer::take(&peers, &run, request))
        .on("ping", move |request| lifecycle::peer::take(&pings, &again, request))
}

fn surroundings(mode: ServiceMode, config: Config, seen: &[Observed]) -> Environment {
    let offered = ployz_core::address::candidates(seen, &[], config.wireguard_listen_port, |_| false);
    Environment {
        libexec: libexec(),
        nats_user: is_system(mode).then(|| NATS_USER.to_owned()),
        underlay_mtu: ployz_netns::underlay::smallest_mtu(seen, &offered),
        config,
    }
}

fn is_system(mode: ServiceMode) -> bool {
    match mode {
        ServiceMode::System => true,
        ServiceMode::User => false,
        ServiceMode::Auto => Systemd::is_init(),
    }
}

fn supervisor(mode: ServiceMode, data_dir: &Path) -> Supervisor {
    if is_system(mode) {
        Supervisor::Systemd(Systemd::default())
    } else {
        Supervisor::Process(Processes::new(data_dir))
    }
}

/// Where `nats-server` and `ployz-wireguard` are: `PLOYZ_LIBEXEC_DIR`, the package's directory, or beside us.
fn libexec() -> PathBuf {
    if let Some(dir) = std::env::var_os("PLOYZ_LIBEXEC_DIR") {
        return PathBuf::from(dir);
    }
    let packaged = PathBuf::from("/usr/lib/ployz");
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    match beside {
        Some(dir) if !packaged.join("nats-server").exists() => dir,
        _ => packaged,
    }
}

const NATS_USER: &str = "ployz-nats";
