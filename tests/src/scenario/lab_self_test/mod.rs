//! Proves the lab itself: what every later scenario takes for granted about nodes, networks, cuts and disks.

mod disks;
mod lifecycle;
mod network;
mod package;
mod systemd;

use super::{Need, Scenario};

pub(super) const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "lab-self-test-systemd",
        needs: &[Need::Systemd],
        nodes: 3,
        underlays: 2,
        run: systemd::units,
    },
    Scenario {
        name: "lab-self-test-netns",
        needs: &[Need::Systemd],
        nodes: 3,
        underlays: 2,
        run: systemd::netns,
    },
    Scenario { name: "lab-self-test-cuts", needs: &[], nodes: 3, underlays: 2, run: network::cuts },
    Scenario { name: "lab-self-test-capture", needs: &[], nodes: 3, underlays: 2, run: network::capture },
    Scenario { name: "lab-self-test-lifecycle", needs: &[], nodes: 3, underlays: 2, run: lifecycle::all },
    Scenario {
        name: "lab-self-test-package",
        needs: &[Need::Package],
        nodes: 1,
        underlays: 1,
        run: package::installs_and_purges,
    },
    Scenario {
        name: "lab-self-test-wireguard",
        needs: &[Need::KernelWireguard],
        nodes: 3,
        underlays: 2,
        run: network::wireguard,
    },
    Scenario {
        name: "lab-self-test-snapshot",
        needs: &[Need::Snapshot],
        nodes: 3,
        underlays: 2,
        run: disks::snapshot,
    },
    Scenario {
        name: "lab-self-test-docker",
        needs: &[Need::Docker],
        nodes: 1,
        underlays: 1,
        run: systemd::docker,
    },
    Scenario {
        name: "lab-self-test-power-cut",
        needs: &[Need::PowerCut],
        nodes: 1,
        underlays: 1,
        run: disks::power_cut,
    },
];
