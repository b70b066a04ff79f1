//! What machines still owe of deploys that are over. A debt is settled by its machine, or overtaken by a later deploy; until
//! then every status of the namespace carries it on.

use crate::deploy::plan::{DeployPlan, World};
use crate::wire::v1::deploy::{Debt, Owed, Placed};

/// The debts that are left beside a plan made from what was found.
pub fn carried(debts: &[Debt], plan: &DeployPlan, world: &World<'_>) -> Vec<Debt> {
    debts.iter().filter(|debt| stands(debt, plan, world)).cloned().collect()
}

fn stands(debt: &Debt, plan: &DeployPlan, world: &World<'_>) -> bool {
    let placed = &debt.placed;
    // A machine that left took its containers with it, and what this plan removes is its own business.
    let member = world.machines.iter().any(|machine| machine.id == placed.machine);
    if !member || plan.retired.iter().any(|old| old.placed == *placed) {
        return false;
    }
    if debt.owed == Owed::Restore && !is_current(placed, world) {
        return false;
    }
    // Of a machine that did not answer, nothing is known: unknown is not settled.
    let Some(found) = world.found.get(&placed.machine) else { return true };
    let here = found.iter().find(|found| found.instance == placed.instance);
    match debt.owed {
        Owed::Remove => here.is_some(),
        Owed::Restore => here.is_some_and(|found| !found.runs),
    }
}

fn is_current(placed: &Placed, world: &World<'_>) -> bool {
    let services = world.current.iter().flat_map(|current| current.services.values());
    services.flat_map(|service| service.slots.values()).any(|current| current == placed)
}
