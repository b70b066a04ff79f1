//! The composition root: picks what runs on this machine and hands the rooms to each other.

use crate::args::ServiceMode;
use crate::network::Shared;
use crate::node::reconcile::Reconciler;
use crate::node::spec::Surroundings;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::process::Processes;
use crate::node::supervisor::systemd::Systemd;
use crate::state::Disk;
use ployz_core::address::Observed;
use ployz_core::config::Config;
use std::path::{Path, PathBuf};

/// What all networks of a daemon share.
pub fn shared(mode: ServiceMode, config: Config, disk: Disk, seen: &[Observed]) -> Shared {
    Shared {
        disk,
        reconciler: Reconciler::new(supervisor(mode, &config.data_dir)),
        around: surroundings(mode, config, seen),
        identities: Default::default(),
    }
}

fn surroundings(mode: ServiceMode, config: Config, seen: &[Observed]) -> Surroundings {
    let offered = ployz_core::address::candidates(seen, &[], config.wireguard_listen_port, |_| false);
    Surroundings {
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
