//! Scenarios: texts that say what they need and run in every lane that has it.
//!
//! A scenario is a function in a file of this directory and an entry in [`all`].

mod bad_input;
mod certificates;
mod clone;
mod containers;
mod cut_short;
mod deploy;
mod deploy_away;
mod deploy_failures;
mod dns_conformance;
mod doctor;
mod drift_network;
mod drift_units;
mod external_names;
mod families;
mod held;
mod host;
mod hostile_member;
mod images;
mod images_pulled;
mod interrupted;
mod joins;
mod killed;
mod lab_self_test;
mod lifecycle;
mod metrics;
mod package;
mod pings;
mod power;
mod product;
mod registry;
mod right_after;
mod secured;
mod served;
mod service;
mod services_under_load;
mod sidecars;
mod store_away;
mod tcp_routes;
mod three;
mod tokens;
mod underlays;
mod upgrade;
mod upstream;
mod workload;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, Lane, Node, poll};

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it proves, in words joined by hyphens.
    pub name: &'static str,
    /// What must be there; a lane or a run without it skips the scenario.
    pub needs: &'static [Need],
    /// How many nodes, 1 to 5.
    pub nodes: usize,
    /// How many underlays, 1 or 2.
    pub underlays: usize,
    /// The text.
    pub run: fn(&mut Ctx) -> Result<()>,
}

impl Scenario {
    /// Five minutes in lane `ns`, fifteen in lane `vm`; an hour and three with full counts. The boot is not counted.
    pub fn deadline(&self, lane: Lane) -> Duration {
        lane.scale(Duration::from_secs(if served::full() { 3600 } else { 300 }))
    }

    /// The first need that is not met, if any.
    pub fn unmet(&self, lane: Lane, deb: Option<&Path>) -> Option<Need> {
        self.needs.iter().copied().find(|need| match need {
            Need::KernelWireguard | Need::PowerCut | Need::Snapshot => lane != Lane::Vm,
            Need::Native => lane != Lane::Ns,
            Need::Package | Need::PackageFile => deb.is_none(),
            Need::Systemd | Need::Docker => false,
        })
    }
}

/// What a scenario may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The kernel's own WireGuard (`vm`).
    KernelWireguard,
    /// systemd as PID 1 (both lanes).
    Systemd,
    /// A Docker daemon that runs when the scenario starts (both lanes).
    Docker,
    /// Power cuts that lose what was not fsynced (`vm`).
    PowerCut,
    /// Snapshots of memory and disk (`vm`).
    Snapshot,
    /// Native speed, and programs of the build machine (`ns`).
    Native,
    /// Our package, installed in every node before the scenario starts (`lab run --deb FILE`).
    Package,
    /// Our package as a file, not installed (`lab run --deb FILE`).
    PackageFile,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelWireguard => "kernel-wireguard",
            Self::Systemd => "systemd",
            Self::Docker => "docker",
            Self::PowerCut => "power-cut",
            Self::Snapshot => "snapshot",
            Self::Native => "native",
            Self::Package => "package",
            Self::PackageFile => "package-file",
        })
    }
}

/// What a scenario is given.
pub struct Ctx {
    /// The running lab.
    pub lab: Lab,
    /// Our package, if the run was given one.
    pub deb: Option<PathBuf>,
    pub(crate) scenario: &'static str,
}

impl Ctx {
    /// Node `i`, counted from 1.
    pub fn node(&self, i: usize) -> &Node {
        self.lab.node(i)
    }

    /// The lane of the lab.
    pub fn lane(&self) -> Lane {
        self.lab.lane()
    }

    /// [`poll`] for `seconds`, made longer in lane `vm`.
    pub fn wait<T>(&self, seconds: u64, what: &str, f: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        poll(self.lab.secs(seconds), what, f)
    }

    /// A line for whoever watches.
    pub fn say(&self, text: impl fmt::Display) {
        println!("    {}: {text}", self.scenario);
    }
}

/// Every scenario, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    THEMES.iter().copied().flatten().copied().collect()
}

const THEMES: &[&[Scenario]] = &[
    &lab_self_test::SCENARIOS,
    &three::SCENARIOS,
    &killed::SCENARIOS,
    &drift_network::SCENARIOS,
    &drift_units::SCENARIOS,
    &held::SCENARIOS,
    &host::SCENARIOS,
    &clone::SCENARIOS,
    &tokens::SCENARIOS,
    &joins::SCENARIOS,
    &service::SCENARIOS,
    &lifecycle::SCENARIOS,
    &cut_short::SCENARIOS,
    &metrics::SCENARIOS,
    &dns_conformance::SCENARIOS,
    &sidecars::SCENARIOS,
    &families::SCENARIOS,
    &tcp_routes::SCENARIOS,
    &certificates::SCENARIOS,
    &package::SCENARIOS,
    &power::SCENARIOS,
    &underlays::SCENARIOS,
    &bad_input::SCENARIOS,
    &workload::SCENARIOS,
    &external_names::SCENARIOS,
    &deploy::SCENARIOS,
    &doctor::SCENARIOS,
    &deploy_away::SCENARIOS,
    &right_after::SCENARIOS,
    &interrupted::SCENARIOS,
    &services_under_load::SCENARIOS,
    &store_away::SCENARIOS,
    &hostile_member::SCENARIOS,
    &images::SCENARIOS,
    &images_pulled::SCENARIOS,
    &containers::SCENARIOS,
    &deploy_failures::SCENARIOS,
    &upgrade::SCENARIOS,
];
