//! The operations of deploys: golden lists of what operators do, and the order that holds for every plan.

use crate::plan::{Cluster, clusters, manifests};
use ployz_core::deploy::operations::{groups, of_step};
use ployz_core::deploy::{DeployPlan, Scope, Step, commit};
use ployz_core::id::{InstanceId, MachineId};
use ployz_core::routing::event::Key;
use ployz_core::wire::v1::deploy::{
    Decision, DeployPhase, DeployStatus, Operation, OperationKind, Owed, Placed, Preview,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::{Display, Write};

fn node() -> MachineId {
    "node-1".parse().unwrap()
}

fn service(name: &str, image: &str, replicas: u32, rollout: Value) -> Value {
    json!({"name": name, "image": image, "ports": [{"port": 80}], "rollout": rollout,
           "placement": {"replicas": replicas}})
}

fn web(image: &str, replicas: u32) -> Value {
    service("web", image, replicas, json!({}))
}

fn db(image: &str) -> Value {
    json!({"name": "db", "image": image, "ports": [{"port": 5432, "publish": 5432}],
           "placement": {"machines": ["node-1"]}})
}

/// Its status after the probes, and its commit.
fn records(plan: &DeployPlan) -> (DeployStatus, Decision) {
    let status = plan.status(&node(), 0).at(DeployPhase::Probed, 0);
    (status, Decision::Committed(Box::new(plan.commit(&node(), 0))))
}

/// What a coordinator without the plan does after the decision: finish it, or undo it.
fn from_records(plan: &DeployPlan) -> [Vec<Operation>; 4] {
    let (status, decision) = records(plan);
    let of = |step| of_step(step, None, &status, Some(&decision));
    [of(Step::Route), of(Step::Drain), of(Step::Clean), of_step(Step::Undo, None, &status, None)]
}

fn write<T: Display>(text: &mut String, what: &str, operations: impl IntoIterator<Item = T>) {
    writeln!(text, "# {what}").unwrap();
    operations.into_iter().for_each(|operation| writeln!(text, "{operation}").unwrap());
    writeln!(text).unwrap();
}

#[test]
fn golden_operations() {
    let mut text = String::new();
    let mut cluster = Cluster::of(3);
    let first = cluster.deploy(json!([web("web:1", 2), db("postgres:16")]));
    write(&mut text, "first deploy", &first.preview.operations);
    let same = cluster.deploy(json!([web("web:1", 2), db("postgres:16")]));
    write(&mut text, "nothing to do", &same.preview.operations);

    let rolling = cluster.deploy(json!([web("web:2", 3), db("postgres:16")]));
    write(&mut text, "rolling, and one replica more", &rolling.preview.operations);
    write(
        &mut text,
        "the same, carried on or undone from its records",
        from_records(&rolling).iter().flatten(),
    );

    let published = cluster.deploy(json!([web("web:2", 3), db("postgres:17")]));
    write(&mut text, "a published port is stopped first", &published.preview.operations);
    write(&mut text, "the same, from its records", from_records(&published).iter().flatten());

    let stop_first = json!({"order": "stop-first", "parallelism": 2});
    let recreated =
        cluster.deploy(json!([service("web", "web:3", 3, stop_first.clone()), db("postgres:17")]));
    write(&mut text, "stop-first, two at a time", &recreated.preview.operations);

    cluster.tell();
    let lost = cluster.current.clone().unwrap().services[&"web".parse().unwrap()].slots[&0].clone();
    cluster.find("web", &lost, false);
    cluster.find("web", &Placed { instance: "web-7-zzzzz".parse().unwrap(), ..lost }, true);
    let repaired = cluster.deploy(json!([service("web", "web:3", 3, stop_first.clone()), db("postgres:17")]));
    write(&mut text, "one was lost, and one belongs to no deploy", &repaired.preview.operations);

    cluster.tell();
    let mut moved = service("web", "web:3", 3, stop_first.clone());
    moved["placement"]["machines"] = json!(["node-3"]);
    let moved = cluster.deploy(json!([moved, db("postgres:17")]));
    write(&mut text, "another placement", &moved.preview.operations);

    cluster.tell();
    let mut fewer = service("web", "web:3", 1, stop_first);
    fewer["placement"]["machines"] = json!(["node-3"]);
    write(
        &mut text,
        "fewer replicas, one service removed",
        &cluster.deploy(json!([fewer])).preview.operations,
    );
    cluster.tell();
    write(&mut text, "everything goes", &cluster.deploy(json!([])).preview.operations);
    crate::same_as("deploy-operations.txt", &text);
}

#[test]
fn a_machine_that_owes_is_left_out_and_an_earlier_debt_is_not_its() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([web("web:1", 2)]));
    let plan = cluster.deploy(json!([web("web:2", 2)]));
    let (status, decision) = records(&plan);
    let machines = |status: &DeployStatus| -> Vec<String> {
        let removed = of_step(Step::Clean, Some(&plan), status, Some(&decision));
        removed.iter().filter_map(|operation| Some(operation.machine.as_ref()?.to_string())).collect()
    };
    assert_eq!(machines(&status), ["node-1", "node-2"]);
    let mut owing = status.owing(Owed::Remove, &plan.retired[0].placed);
    assert_eq!(machines(&owing), [plan.retired[1].placed.machine.to_string()]);
    owing.debts[0].deploy = "00000000000000aa".parse().unwrap();
    assert_eq!(machines(&owing), ["node-1", "node-2"]);
}

#[test]
fn before_the_probes_there_is_nothing_to_undo() {
    let plan = Cluster::of(1).deploy(json!([web("web:1", 1)]));
    let status = plan.status(&node(), 0);
    assert_eq!(status.phase, DeployPhase::Locked);
    assert!(of_step(Step::Undo, Some(&plan), &status, None).is_empty());
    assert_eq!(of_step(Step::Undo, None, &records(&plan).0, None).len(), 1);
}

/// The places at which a command is given for each instance, in the list's order.
fn places(operations: &[Operation], wanted: OperationKind) -> Vec<(usize, InstanceId)> {
    let of = operations.iter().enumerate().filter(|(_, operation)| operation.command == wanted);
    of.flat_map(|(place, operation)| operation.instances().map(move |id| (place, id.clone()))).collect()
}

fn ids<'a>(placed: impl Iterator<Item = &'a Placed>) -> Vec<InstanceId> {
    let mut ids: Vec<InstanceId> = placed.map(|placed| placed.instance.clone()).collect();
    ids.sort();
    ids
}

fn check(plan: &DeployPlan) -> Result<(), TestCaseError> {
    let operations = &plan.preview.operations;
    let (status, decision) = records(plan);
    let commits: Vec<usize> = operations
        .iter()
        .enumerate()
        .filter(|(_, operation)| operation.command == OperationKind::Commit)
        .map(|(place, _)| place)
        .collect();
    prop_assert_eq!(commits.len(), 1, "it is committed once");
    let commit = commits[0];
    let sorted = |command| {
        let mut found: Vec<InstanceId> = places(operations, command).into_iter().map(|(_, id)| id).collect();
        found.sort();
        found
    };
    let old = ids(plan.retired.iter().map(|old| &old.placed));
    for command in [OperationKind::Drain, OperationKind::Remove] {
        prop_assert_eq!(&sorted(command), &old, "each instance that goes, once");
        prop_assert!(places(operations, command).iter().all(|(place, _)| *place > commit));
    }
    prop_assert_eq!(sorted(OperationKind::Start), ids(status.candidates()), "each candidate once");
    prop_assert_eq!(sorted(OperationKind::Stop), ids(status.stopped()));
    for command in [OperationKind::Stop, OperationKind::Start, OperationKind::AwaitReady] {
        prop_assert!(places(operations, command).iter().all(|(place, _)| *place < commit));
    }
    for work in status.work.iter().filter(|work| work.stops_first()) {
        let (Some(start), Some(stop)) = (&work.start, &work.stop) else { continue };
        let step = |command, id: &InstanceId| {
            let place = places(operations, command).into_iter().find(|(_, found)| found == id);
            place.map(|(place, _)| operations[place].step)
        };
        let stopped = step(OperationKind::Stop, &stop.instance);
        prop_assert!(stopped.is_some() && stopped < step(OperationKind::Start, &start.instance));
    }
    check_steps(operations)?;
    check_records(plan, &status, &decision)
}

/// Steps are numbered without a gap, are of one command, and give no machine two operations.
fn check_steps(operations: &[Operation]) -> Result<(), TestCaseError> {
    for (number, group) in (1u32..).zip(groups(operations)) {
        prop_assert!(group.iter().all(|operation| operation.step == number));
        prop_assert!(group.iter().all(|operation| operation.command == group[0].command));
        let machines: BTreeSet<_> = group.iter().map(|operation| &operation.machine).collect();
        prop_assert_eq!(machines.len(), group.len());
    }
    prop_assert!(operations.is_sorted_by_key(|operation| operation.phase));
    Ok(())
}

/// The records give what the plan shows, routes are the events of the commit, and a failure is followed by undo alone.
fn check_records(plan: &DeployPlan, status: &DeployStatus, decision: &Decision) -> Result<(), TestCaseError> {
    let without_step = |operation: &Operation| Operation { step: 0, ..operation.clone() };
    for step in [Step::Route, Step::Drain, Step::Clean] {
        let shown = plan.preview.operations.iter().filter(|one| Some(one.phase) == step.reaches());
        let shown: Vec<Operation> = shown.map(without_step).collect();
        let found = of_step(step, None, status, Some(decision));
        prop_assert_eq!(found.iter().map(without_step).collect::<Vec<_>>(), shown);
    }
    let routed = of_step(Step::Route, None, status, Some(decision));
    let events = commit::events(decision.commit().unwrap());
    let keys = events.iter().map(|event| match &event.key {
        Key::Service(service) => service.service.to_string(),
        other => other.to_string(),
    });
    let targets = routed.iter().flat_map(|operation| &operation.targets).map(ToString::to_string);
    prop_assert_eq!(targets.collect::<Vec<_>>(), keys.collect::<Vec<_>>());
    let undo = of_step(Step::Undo, Some(plan), status, None);
    let undone: BTreeSet<InstanceId> =
        places(&undo, OperationKind::Remove).into_iter().map(|(_, id)| id).collect();
    prop_assert_eq!(undone.into_iter().collect::<Vec<_>>(), ids(status.candidates()));
    let restored = places(&undo, OperationKind::Restore).into_iter().map(|(_, id)| id);
    prop_assert_eq!(restored.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), ids(status.stopped()));
    let only = |one: &Operation| matches!(one.command, OperationKind::Remove | OperationKind::Restore);
    prop_assert!(undo.iter().all(only), "after a failure there is nothing but undo");
    prop_assert!(undo.iter().all(|one| one.step == 1 && one.phase == DeployPhase::Undone));
    let order: Vec<OperationKind> = undo.iter().map(|one| one.command).collect();
    prop_assert!(order.is_sorted_by_key(|command| *command == OperationKind::Restore), "candidates go first");
    Ok(())
}

proptest! {
    #[test]
    fn operations_keep_the_order(cluster in clusters(), steps in prop::collection::vec(manifests(), 1..5)) {
        let mut cluster = cluster;
        for manifest in steps {
            let Ok(plan) = cluster.plan(&manifest, &Scope::Namespace) else { continue };
            if plan.preview.is_empty() {
                prop_assert!(plan.preview.operations.is_empty());
                continue;
            }
            check(&plan)?;
            cluster.apply(&plan);
        }
    }
}

#[test]
fn an_older_version_sends_no_operations_and_a_list_reads_back_as_it_was() {
    let plan = Cluster::of(2).deploy(json!([web("web:1", 2)]));
    let mut sent = serde_json::to_value(&plan.preview).unwrap();
    assert_eq!(
        sent["operations"][1],
        json!({"step": 1, "phase": "probed", "machine": "node-2", "command": "probe"})
    );
    assert_eq!(
        sent["operations"][2]["targets"][0],
        json!({"service": "web", "slot": 0, "instance": plan.services[&"web".parse().unwrap()].slots[&0].instance,
               "cause": "new"})
    );
    assert_eq!(serde_json::from_value::<Preview>(sent.clone()).unwrap(), plan.preview);
    sent.as_object_mut().unwrap().remove("operations").unwrap();
    let old: Preview = serde_json::from_value(sent).unwrap();
    assert!(old.operations.is_empty() && !old.is_empty());
}
