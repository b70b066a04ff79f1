//! A deploy cut off anywhere: coordinators die, fall asleep and wake up, candidates fail, and in the end the namespace is
//! wholly what it was or wholly what was asked for. The machines here keep what `wire::v1::deploy` asks of them.

use crate::plan::{Cluster, manifest};
use ployz_core::deploy::operations::of_step;
use ployz_core::deploy::step::{Resume, Step, next, next_giving_up, resume};
use ployz_core::deploy::{DeployPlan, Scope};
use ployz_core::id::InstanceId;
use ployz_core::wire::v1::deploy::{
    Decision, DeployCommit, DeployPhase, DeployStatus, Operation, OperationKind,
};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;

/// Store and machines.
#[derive(Clone)]
struct World {
    plan: DeployPlan,
    status: DeployStatus,
    revision: u64,
    decision: Option<Decision>,
    /// Instances that are there, and whether they run.
    containers: BTreeMap<InstanceId, bool>,
    tombs: BTreeSet<InstanceId>,
    /// What gateways send requests to, and the sequence of that.
    routed: BTreeSet<InstanceId>,
    sequence: u64,
    clock: u64,
}

/// One coordinator.
struct Coordinator {
    /// The revision of the status it wrote last: its right to go on.
    revision: u64,
    /// The end of its lock.
    not_after: u64,
    gives_up: bool,
    todo: VecDeque<Op>,
    over: bool,
}

#[derive(Clone)]
enum Op {
    Start(InstanceId),
    Stop(InstanceId),
    Restore(InstanceId),
    Remove(InstanceId),
    ReadSequence,
    Publish(u64),
    Decide(Box<Decision>),
    Write(DeployPhase),
}

impl World {
    fn new() -> (Self, BTreeSet<InstanceId>, BTreeSet<InstanceId>) {
        let mut cluster = Cluster::of(3);
        let of = |image: &str| {
            json!([
                {"name": "a", "image": format!("a:{image}"), "placement": {"replicas": 2}},
                {"name": "b", "image": format!("b:{image}"), "ports": [{"port": 80, "publish": 80}],
                 "placement": {"replicas": 2}},
                {"name": format!("only-{image}"), "image": "c"},
            ])
        };
        let first = cluster.plan(&manifest(of("1")), &Scope::Namespace).unwrap();
        cluster.apply(&first);
        let plan = cluster.plan(&manifest(of("2")), &Scope::Namespace).unwrap();
        let (old, new) = (instances(&first), instances(&plan));
        let status = plan.status(&"node-1".parse().unwrap(), 0);
        let containers = old.iter().map(|id| (id.clone(), true)).collect();
        let world = Self {
            plan,
            status,
            revision: 1,
            decision: None,
            containers,
            tombs: BTreeSet::new(),
            routed: old.clone(),
            sequence: 1,
            clock: 0,
        };
        (world, old, new)
    }

    fn commit(&self) -> DeployCommit {
        self.plan.commit(&"node-1".parse().unwrap(), self.clock)
    }

    /// A new coordinator: the lock of the one before has run out, and the status is in its hands before all else.
    fn take_over(&mut self, gives_up: bool) -> Coordinator {
        self.clock += 100;
        self.status = self.status.taken_over(&"node-2".parse().unwrap(), self.clock);
        self.revision += 1;
        let found = resume(Some(&self.status), self.decision.as_ref());
        Coordinator {
            revision: self.revision,
            not_after: self.clock + 99,
            gives_up: gives_up || found == Resume::Undo,
            todo: VecDeque::new(),
            over: found == Resume::Nothing,
        }
    }

    fn tick(&mut self, actor: &mut Coordinator) {
        if actor.over {
            return;
        }
        match actor.todo.pop_front() {
            Some(op) => self.run(actor, op),
            None => self.think(actor),
        }
    }

    fn think(&mut self, actor: &mut Coordinator) {
        if actor.revision != self.revision {
            actor.over = true;
            return;
        }
        let decision = self.decision.as_ref();
        let step = if actor.gives_up {
            next_giving_up(&self.status, decision)
        } else {
            next(&self.status, decision)
        };
        match step {
            Step::Nothing => actor.over = true,
            Step::Hold(why) => panic!("records contradict each other: {why}"),
            Step::Commit => {
                actor.todo.push_back(Op::Decide(Box::new(Decision::Committed(Box::new(self.commit())))))
            }
            Step::Abandon => actor.todo.push_back(Op::Decide(Box::new(Decision::Abandoned {
                version: 1,
                namespace: self.status.namespace.clone(),
                deploy: self.status.deploy.clone(),
                by: self.status.coordinator.clone(),
                at: self.clock,
            }))),
            Step::Route => actor.todo.push_back(Op::ReadSequence),
            _ => {
                let operations = of_step(step, Some(&self.plan), &self.status, decision);
                actor.todo.extend(operations.iter().flat_map(ops));
            }
        }
        actor.todo.extend(step.reaches().filter(|_| step != Step::Route).map(Op::Write));
    }

    fn run(&mut self, actor: &mut Coordinator, op: Op) {
        let too_late = self.clock > actor.not_after;
        match op {
            // What a participant refuses ends the one who asked.
            Op::Start(_) | Op::Stop(_) | Op::Restore(_) | Op::Remove(_) if too_late => actor.over = true,
            Op::Start(id) if self.tombs.contains(&id) => actor.over = true,
            Op::Start(id) => {
                self.containers.entry(id).or_insert(true);
            }
            Op::Stop(id) => {
                self.containers.entry(id).and_modify(|runs| *runs = false);
            }
            Op::Restore(id) => {
                self.containers.entry(id).and_modify(|runs| *runs = true);
            }
            Op::Remove(id) => {
                self.containers.remove(&id);
                self.tombs.insert(id);
            }
            Op::ReadSequence => {
                let sequence = self.sequence;
                if actor.revision == self.revision {
                    actor.todo.extend([Op::Publish(sequence), Op::Write(DeployPhase::Routed)]);
                } else {
                    actor.over = true;
                }
            }
            Op::Publish(sequence) if sequence != self.sequence => actor.over = true,
            Op::Publish(_) => {
                self.routed = instances(&self.plan);
                self.sequence += 1;
            }
            // Created, never overwritten: whoever comes second reads the first.
            Op::Decide(decision) => {
                self.decision.get_or_insert(*decision);
            }
            Op::Write(_) if actor.revision != self.revision => actor.over = true,
            Op::Write(phase) => {
                self.status = self.status.at(phase, self.clock);
                self.revision += 1;
                actor.revision = self.revision;
            }
        }
    }

    /// Whoever is sent requests runs, but for those that stop first.
    fn nobody_is_sent_into_the_void(&self) {
        let runs = |id: &&InstanceId| self.containers.get(*id) == Some(&true);
        let void: Vec<&InstanceId> =
            self.routed.iter().filter(|id| !id.as_str().starts_with("b-")).filter(|id| !runs(id)).collect();
        assert!(void.is_empty(), "{void:?} at {:?} {:?}", self.status.phase, self.decision.is_some());
    }
}

/// What an operation does to each of its instances here; what only waits does nothing.
fn ops(operation: &Operation) -> Vec<Op> {
    let op = match operation.command {
        OperationKind::Stop => Op::Stop,
        OperationKind::Start => Op::Start,
        OperationKind::Remove => Op::Remove,
        OperationKind::Restore => Op::Restore,
        OperationKind::Probe | OperationKind::AwaitReady | OperationKind::Drain => return Vec::new(),
        OperationKind::Commit | OperationKind::Route => panic!("{operation} is the store's"),
    };
    operation.instances().cloned().map(op).collect()
}

fn instances(plan: &DeployPlan) -> BTreeSet<InstanceId> {
    plan.services
        .values()
        .flat_map(|service| service.slots.values())
        .map(|placed| placed.instance.clone())
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    /// The coordinator goes on a little.
    Tick,
    /// It dies; another takes over.
    Kill,
    /// It falls asleep; another takes over.
    Sleep,
    /// A sleeper goes on a little.
    Wake(usize),
    /// A candidate fails: it is given up.
    Fail,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        30 => Just(Fate::Tick),
        1 => Just(Fate::Kill),
        1 => Just(Fate::Sleep),
        5 => (0usize..4).prop_map(Fate::Wake),
        1 => Just(Fate::Fail),
    ];
    prop::collection::vec(fate, 0..160)
}

fn to_the_end(world: &mut World, actor: &mut Coordinator) {
    for _ in 0..200 {
        if actor.over {
            return;
        }
        world.tick(actor);
        world.nobody_is_sent_into_the_void();
    }
    panic!("it comes to no end");
}

/// Plays it; whether the deploy happened.
fn play(fates: &[Fate]) -> bool {
    static START: OnceLock<(World, BTreeSet<InstanceId>, BTreeSet<InstanceId>)> = OnceLock::new();
    let (start, old, new) = START.get_or_init(World::new);
    let mut world = start.clone();
    let mut actor =
        Coordinator { revision: 1, not_after: 99, gives_up: false, todo: VecDeque::new(), over: false };
    let mut sleepers: Vec<Coordinator> = Vec::new();
    for fate in fates {
        match *fate {
            Fate::Tick => world.tick(&mut actor),
            Fate::Kill => actor = world.take_over(false),
            Fate::Sleep => {
                let next = world.take_over(false);
                sleepers.push(std::mem::replace(&mut actor, next));
            }
            Fate::Wake(index) => {
                if let Some(sleeper) = sleepers.get_mut(index) {
                    world.tick(sleeper);
                }
            }
            Fate::Fail => actor.gives_up = true,
        }
        world.nobody_is_sent_into_the_void();
    }
    to_the_end(&mut world, &mut actor);
    let mut last = world.take_over(false);
    to_the_end(&mut world, &mut last);
    sleepers.iter_mut().for_each(|sleeper| to_the_end(&mut world, sleeper));

    let happened = world.decision.as_ref().and_then(Decision::commit).is_some();
    let want = if happened { new } else { old };
    assert_eq!(world.routed, *want, "routes are of one of the two");
    let running: BTreeSet<InstanceId> =
        world.containers.iter().filter(|(_, runs)| **runs).map(|(id, _)| id.clone()).collect();
    assert_eq!(running, *want, "all of it runs");
    assert_eq!(world.containers.len(), want.len(), "and nothing else is there");
    assert!(world.status.phase.is_final());
    assert_eq!(resume(Some(&world.status), world.decision.as_ref()), Resume::Nothing);
    happened
}

#[test]
fn undisturbed_it_happens() {
    assert!(play(&[Fate::Tick; 100]));
}

#[test]
fn killed_at_every_point_it_ends_whole() {
    let (mut happened, mut undone) = (0, 0);
    for point in 0..60 {
        for last in [Fate::Kill, Fate::Sleep, Fate::Fail] {
            let mut fates = vec![Fate::Tick; point];
            fates.push(last);
            if play(&fates) {
                happened += 1
            } else {
                undone += 1
            }
            // Killed again while the first is being mended.
            for second in 0..25 {
                let mut fates = fates.clone();
                fates.extend(vec![Fate::Tick; second]);
                fates.extend([Fate::Kill, Fate::Wake(0), Fate::Wake(0)]);
                play(&fates);
            }
        }
    }
    assert!(happened > 20 && undone > 20, "{happened} happened, {undone} undone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_befalls_coordinators_it_ends_whole(fates in fates()) {
        play(&fates);
    }
}
