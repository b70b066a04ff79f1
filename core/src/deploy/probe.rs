//! The question to each participant before anything is changed, and what its answer means.

use crate::deploy::plan::DeployPlan;
use crate::id::{MachineId, NetworkId};
use crate::wire::v1::api::ErrorCode;
use crate::wire::v1::deploy::{CommittedService, DeployFailure, Placed, Probe, Probed, SlotChange};
use crate::wire::v1::manifest::Order;
use std::collections::BTreeSet;

/// What a machine is asked.
pub fn question(plan: &DeployPlan, network: &NetworkId, machine: &MachineId) -> Probe {
    let mut probe = Probe {
        network: network.clone(),
        namespace: plan.preview.namespace.clone(),
        images: BTreeSet::new(),
        publish: BTreeSet::new(),
        releases: BTreeSet::new(),
        starts: 0,
    };
    let here = |placed: &Option<Placed>| placed.clone().filter(|placed| placed.machine == *machine);
    for (committed, slot) in starts(plan) {
        if let (Order::StopFirst, Some(old)) = (committed.service.rollout.order, here(&slot.current)) {
            probe.releases.insert(old.instance);
        }
        if here(&slot.next).is_some() {
            probe.images.insert(committed.service.image.clone());
            probe.publish.extend(committed.service.published());
            probe.starts += 1;
        }
    }
    probe
}

/// Everything that stands against a machine's part, in the order an operator would look at it.
pub fn judge(plan: &DeployPlan, machine: &MachineId, asked: &Probe, probed: &Probed) -> Vec<DeployFailure> {
    let mut failures = Vec::new();
    for (committed, slot) in starts(plan) {
        if slot.next.as_ref().is_none_or(|placed| placed.machine != *machine) {
            continue;
        }
        let failure =
            |code, what: String| DeployFailure::new(code, what).on(machine).of(&committed.service.name);
        let image = &committed.service.image;
        match (probed.images.get(image), &committed.content) {
            (None, _) => {
                failures.push(failure(ErrorCode::ImageMissing, format!("the image {image} is missing")));
            }
            (Some(seen), Some(content)) if seen.content != *content => failures.push(failure(
                ErrorCode::ImageMissing,
                format!("its image {image} differs from the other machines'"),
            )),
            _ => {}
        }
        for (protocol, port) in committed.service.published().filter(|port| probed.taken.contains(port)) {
            failures.push(failure(ErrorCode::PortTaken, format!("port {port}/{protocol} is in use")));
        }
    }
    // Two slots of one service say it once.
    failures.dedup();
    if probed.free_addresses < asked.starts {
        let what = format!("{} addresses left for {} new instances", probed.free_addresses, asked.starts);
        failures.push(DeployFailure::new(ErrorCode::NoEligibleMachine, what).on(machine));
    }
    if asked.starts > 0 && probed.free_disk.is_some_and(|free| free < MIN_DISK) {
        let what = "less than 64M free where the engine stores containers".to_owned();
        failures.push(DeployFailure::new(ErrorCode::DiskFull, what).on(machine));
    }
    failures
}

fn starts(plan: &DeployPlan) -> impl Iterator<Item = (&CommittedService, &SlotChange)> {
    plan.preview
        .changes()
        .filter(|(_, slot)| slot.next.is_some())
        .filter_map(|(change, slot)| plan.services.get(&change.service).map(|committed| (committed, slot)))
}

/// A container without a byte of its own still needs room for its layers' metadata and its log.
const MIN_DISK: u64 = 64 << 20;
