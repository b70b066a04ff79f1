//! Which numbers a service's slots have after a deploy, and which of them something fills already.

use crate::deploy::place::Places;
use crate::id::MachineId;
use crate::wire::v1::deploy::{CommittedService, Placed};
use crate::wire::v1::manifest::{Mode, Service};
use std::collections::{BTreeMap, BTreeSet};

/// Which slots a service has after the deploy, and which of them nothing fills yet.
pub(super) enum Open {
    /// Numbers below this.
    Replicated { count: u32, filled: BTreeSet<u32> },
    /// One for each of these machines.
    Global { left: BTreeSet<MachineId>, used: BTreeSet<u32>, assigned: BTreeMap<u32, MachineId> },
}

impl Open {
    pub(super) fn of(service: &Service, places: &Places<'_>, current: Option<&CommittedService>) -> Self {
        match service.placement.mode {
            Mode::Replicated { replicas } => Self::Replicated { count: replicas, filled: BTreeSet::new() },
            Mode::Global => Self::Global {
                left: places.for_global(service).into_iter().collect(),
                used: current.iter().flat_map(|current| current.slots.keys().copied()).collect(),
                assigned: BTreeMap::new(),
            },
        }
    }

    /// Whether a slot that could go on as it is does.
    pub(super) fn keeps(&mut self, slot: u32, placed: &Placed) -> bool {
        match self {
            Self::Replicated { count, filled } => slot < *count && filled.insert(slot),
            // One that is left on a draining machine runs on; a second one on a machine (the service was replicated
            // before) does not.
            Self::Global { left, assigned, .. } => {
                let twice = assigned.values().any(|machine| *machine == placed.machine);
                left.remove(&placed.machine);
                !twice && assigned.insert(slot, placed.machine.clone()).is_none()
            }
        }
    }

    /// Whether a slot that cannot go on as it is gets a successor.
    pub(super) fn replaces(&mut self, slot: u32, placed: &Placed) -> bool {
        match self {
            Self::Replicated { count, filled } => slot < *count && filled.insert(slot),
            Self::Global { left, assigned, .. } => {
                left.remove(&placed.machine) && assigned.insert(slot, placed.machine.clone()).is_none()
            }
        }
    }

    /// Slots without an instance so far.
    pub(super) fn new_slots(&mut self) -> Vec<u32> {
        match self {
            Self::Replicated { count, filled } => (0..*count).filter(|slot| !filled.contains(slot)).collect(),
            Self::Global { left, used, assigned } => {
                let free = (0u32..).filter(|slot| !used.contains(slot));
                let new: Vec<(u32, MachineId)> = free.zip(std::mem::take(left)).collect();
                assigned.extend(new.iter().cloned());
                new.into_iter().map(|(slot, _)| slot).collect()
            }
        }
    }

    /// The one machine a slot can be on, where there is only one.
    pub(super) fn assigned(&self, slot: u32, placed: Option<&Placed>) -> Option<MachineId> {
        match self {
            Self::Replicated { .. } => None,
            Self::Global { assigned, .. } => {
                assigned.get(&slot).cloned().or_else(|| placed.map(|placed| placed.machine.clone()))
            }
        }
    }
}
