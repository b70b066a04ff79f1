//! From a plan, or from the records of a deploy, to the operations of each step. The coordinator sends them and decides
//! nothing; a preview prints them.
//!
//! What comes before the decision follows from the plan, which only the coordinator that began the deploy has. What comes
//! after it follows from the records alone, so a coordinator that takes over computes the same operations.

use crate::deploy::plan::DeployPlan;
use crate::deploy::step::Step;
use crate::id::{DeployId, MachineId, ServiceName};
use crate::wire::v1::deploy::{
    Action, CommittedService, Decision, DeployPhase, DeployStatus, Operation, OperationKind, Placed, Retired,
    ServiceChange, SlotChange, SlotWork, Target, Wave,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a plan does if nothing fails; nothing where there is nothing to do.
pub fn of_plan(plan: &DeployPlan) -> Vec<Operation> {
    if plan.preview.is_empty() {
        return Vec::new();
    }
    let (mut list, work) = (List::default(), plan.work());
    let asked = plan.preview.participants.iter().map(|machine| (machine.clone(), Vec::new()));
    list.group(DeployPhase::Probed, None, [(OperationKind::Probe, asked.collect())]);
    list.waves(plan, &work);
    let candidates = work.iter().filter_map(|work| target(work, work.start.as_ref(), "before the commit"));
    list.group(DeployPhase::Ready, None, [(OperationKind::AwaitReady, by_machine(candidates))]);
    list.store(DeployPhase::Committed, OperationKind::Commit, Vec::new());
    let routes = routes(&plan.services, &plan.removed, &plan.deploy);
    list.store(DeployPhase::Routed, OperationKind::Route, routes);
    let old = retired(&work, plan.retired.iter());
    list.group(DeployPhase::Drained, None, [(OperationKind::Drain, old.clone())]);
    list.group(DeployPhase::Cleaned, None, [(OperationKind::Remove, old)]);
    list.operations
}

/// What one step does. Before the decision it is a part of the plan's list, after it it is made from the records; its
/// steps are numbered from 1 then. A machine that owes something of this deploy is left out: it does that when it reads so.
pub fn of_step(
    step: Step,
    plan: Option<&DeployPlan>,
    status: &DeployStatus,
    decision: Option<&Decision>,
) -> Vec<Operation> {
    let mut list = List::default();
    match step {
        Step::Probe | Step::Start | Step::AwaitReady => {
            let planned = plan.iter().flat_map(|plan| &plan.preview.operations);
            return planned.filter(|operation| Some(operation.phase) == step.reaches()).cloned().collect();
        }
        Step::Route => {
            if let Some(commit) = decision.and_then(Decision::commit) {
                let routes = routes(&commit.services, &commit.removed, &commit.deploy);
                list.store(DeployPhase::Routed, OperationKind::Route, routes);
            }
        }
        Step::Drain => {
            let old = still_retired(status, decision);
            list.group(DeployPhase::Drained, None, [(OperationKind::Drain, old)]);
        }
        Step::Clean => {
            let old = still_retired(status, decision);
            list.group(DeployPhase::Cleaned, None, [(OperationKind::Remove, old)]);
        }
        Step::Undo => list.undo(status),
        Step::Commit | Step::Abandon | Step::Nothing | Step::Hold(_) => {}
    }
    list.operations
}

/// The operations of each step: one after the other, each to all its machines at once.
pub fn groups(operations: &[Operation]) -> impl Iterator<Item = &[Operation]> {
    operations.chunk_by(|a, b| a.step == b.step)
}

/// What one command is sent about, by the machine it goes to.
type ByMachine = BTreeMap<MachineId, Vec<Target>>;

/// A list in the making.
#[derive(Default)]
struct List {
    operations: Vec<Operation>,
    steps: u32,
}

impl List {
    /// Adds one step, if there is something in it.
    fn group<const N: usize>(
        &mut self,
        phase: DeployPhase,
        wave: Option<u32>,
        commands: [(OperationKind, ByMachine); N],
    ) {
        if commands.iter().all(|(_, machines)| machines.is_empty()) {
            return;
        }
        self.steps += 1;
        for (command, machines) in commands {
            let operation = |(machine, targets)| Operation {
                step: self.steps,
                phase,
                machine: Some(machine),
                command,
                wave,
                targets,
            };
            self.operations.extend(machines.into_iter().map(operation));
        }
    }

    fn store(&mut self, phase: DeployPhase, command: OperationKind, targets: Vec<Target>) {
        self.steps += 1;
        self.operations.push(Operation {
            step: self.steps,
            phase,
            machine: None,
            command,
            wave: None,
            targets,
        });
    }

    /// Wave by wave: stop-first stops what is in the way, then candidates are started and waited for.
    fn waves(&mut self, plan: &DeployPlan, work: &[SlotWork]) {
        let causes = causes(plan);
        for (number, group) in (1u32..).zip(&plan.preview.waves) {
            let work: Vec<&SlotWork> = work.iter().filter(|work| is_in(group, work)).collect();
            let stops = work.iter().filter(|work| work.stops_first());
            let stops = by_machine(stops.filter_map(|work| target(work, work.stop.as_ref(), "stop-first")));
            let starts = by_machine(work.iter().filter_map(|work| {
                let cause = causes.get(&(&work.service, work.slot)).map_or(NEW, String::as_str);
                target(work, work.start.as_ref(), cause)
            }));
            let wave = format!("wave {number}");
            let awaited = by_machine(work.iter().filter_map(|work| target(work, work.start.as_ref(), &wave)));
            let (phase, wave) = (DeployPhase::Started, Some(number));
            self.group(phase, wave, [(OperationKind::Stop, stops)]);
            self.group(phase, wave, [(OperationKind::Start, starts)]);
            self.group(phase, wave, [(OperationKind::AwaitReady, awaited)]);
        }
    }

    /// One step: a machine that removed its candidates starts what was stopped without waiting for others.
    fn undo(&mut self, status: &DeployStatus) {
        // Before the probes were answered no machine was asked for anything.
        if status.phase == DeployPhase::Locked {
            return;
        }
        let work = &status.work;
        let candidates = work.iter().filter_map(|work| target(work, work.start.as_ref(), "undo"));
        let stopped = work.iter().filter(|work| work.stops_first());
        let stopped = stopped.filter_map(|work| target(work, work.stop.as_ref(), "undo"));
        let commands =
            [(OperationKind::Remove, by_machine(candidates)), (OperationKind::Restore, by_machine(stopped))];
        self.group(DeployPhase::Undone, None, commands);
    }
}

/// What a commit takes out, on machines that do not owe it already.
fn still_retired(status: &DeployStatus, decision: Option<&Decision>) -> ByMachine {
    let old = decision.and_then(Decision::commit).into_iter().flat_map(|commit| &commit.retired);
    retired(&status.work, old.filter(|old| !status.owes(&old.placed.machine)))
}

fn retired<'a>(work: &[SlotWork], old: impl Iterator<Item = &'a Retired>) -> ByMachine {
    let slots: BTreeMap<&Placed, &SlotWork> =
        work.iter().filter_map(|work| Some((work.stop.as_ref()?, work))).collect();
    by_machine(old.map(|Retired { service, placed }| {
        let work = slots.get(placed);
        let cause = match work {
            Some(work) if work.start.is_some() => "replaced",
            Some(_) => "removed",
            None => "orphan",
        };
        let target = Target {
            service: service.clone(),
            slot: work.map(|work| work.slot),
            instance: Some(placed.instance.clone()),
            cause: cause.to_owned(),
        };
        (placed.machine.clone(), target)
    }))
}

/// The services whose routing events a commit publishes.
fn routes(
    services: &BTreeMap<ServiceName, CommittedService>,
    removed: &BTreeSet<ServiceName>,
    deploy: &DeployId,
) -> Vec<Target> {
    let target = |service: &ServiceName, cause: &str| Target {
        service: service.clone(),
        slot: None,
        instance: None,
        cause: cause.to_owned(),
    };
    let changed = services.iter().filter(|(_, committed)| committed.deploy == *deploy);
    let changed = changed.map(|(service, _)| target(service, "changed"));
    changed.chain(removed.iter().map(|service| target(service, "removed"))).collect()
}

/// Why candidates are started, by service and slot.
fn causes(plan: &DeployPlan) -> BTreeMap<(&ServiceName, u32), String> {
    let starts = plan.preview.changes().filter(|(_, slot)| slot.next.is_some());
    starts.map(|(change, slot)| ((&change.service, slot.slot), cause(change, slot))).collect()
}

fn cause(change: &ServiceChange, slot: &SlotChange) -> String {
    match (&slot.current, &slot.next) {
        (Some(_), _) if change.action == Action::Replace => "new revision".to_owned(),
        (Some(old), Some(new)) if old.machine != new.machine => format!("moved from {}", old.machine),
        (Some(_), _) => "was not running".to_owned(),
        (None, _) => NEW.to_owned(),
    }
}

fn target(work: &SlotWork, placed: Option<&Placed>, cause: &str) -> Option<(MachineId, Target)> {
    let Placed { machine, instance } = placed?.clone();
    let (service, slot, cause) = (work.service.clone(), Some(work.slot), cause.to_owned());
    Some((machine, Target { service, slot, instance: Some(instance), cause }))
}

fn by_machine(targets: impl Iterator<Item = (MachineId, Target)>) -> ByMachine {
    let mut machines = ByMachine::new();
    for (machine, target) in targets {
        machines.entry(machine).or_default().push(target);
    }
    machines
}

fn is_in(group: &[Wave], work: &SlotWork) -> bool {
    work.start.is_some()
        && group.iter().any(|wave| wave.service == work.service && wave.slots.contains(&work.slot))
}

const NEW: &str = "new";
