//! What machines owe after a deploy: carried on while it stands, dropped once it is settled or overtaken.

use crate::plan::{Cluster, manifest};
use ployz_core::deploy::debt::carried;
use ployz_core::deploy::{DeployPlan, Scope};
use ployz_core::wire::v1::deploy::{Debt, DeployStatus, Owed, Placed};
use serde_json::{Value, json};

fn services(image: &str) -> Value {
    json!([{"name": "web", "image": image, "placement": {"replicas": 2}}])
}

/// Two machines with an instance each, and the status of the deploy that made them.
fn deployed() -> (Cluster, DeployStatus, [Placed; 2]) {
    let mut cluster = Cluster::of(2);
    let plan = cluster.plan(&manifest(services("web:1")), &Scope::Namespace).unwrap();
    cluster.apply(&plan);
    let slots = &plan.services.values().next().unwrap().slots;
    let placed = [slots[&0].clone(), slots[&1].clone()];
    (cluster, plan.status(&"node-1".parse().unwrap(), 1), placed)
}

fn left(placed: &Placed) -> Placed {
    Placed { machine: placed.machine.clone(), instance: "web-0-zzzzz".parse().unwrap() }
}

fn again(cluster: &mut Cluster, image: &str) -> DeployPlan {
    cluster.plan(&manifest(services(image)), &Scope::Namespace).unwrap()
}

#[test]
fn what_is_owed_is_written_once_and_removal_wins() {
    let (_, status, [one, _]) = deployed();
    let status = status.owing(Owed::Restore, &one).owing(Owed::Remove, &one).owing(Owed::Remove, &one);
    let debt = Debt { deploy: status.deploy.clone(), owed: Owed::Remove, placed: one.clone() };
    assert_eq!(status.debts, [debt]);
    assert!(status.owes(&one.machine) && !status.owes(&"node-9".parse().unwrap()));
}

#[test]
fn a_machine_that_does_not_tell_still_owes() {
    let (mut cluster, status, [one, two]) = deployed();
    let status = status.owing(Owed::Remove, &left(&one)).owing(Owed::Restore, &two);
    cluster.machines[0].reachable = false;
    let plan = again(&mut cluster, "web:1");
    assert_eq!(carried(&status.debts, &plan, &cluster.world()), status.debts);
    cluster.machines.clear();
    assert_eq!(carried(&status.debts, &plan, &cluster.world()), [], "a machine that left owes nothing");
}

#[test]
fn what_is_settled_or_done_by_the_next_deploy_is_owed_no_more() {
    let (mut cluster, status, [one, two]) = deployed();
    let debts = status.owing(Owed::Remove, &left(&one)).owing(Owed::Restore, &two).debts;
    cluster.tell();
    let plan = again(&mut cluster, "web:1");
    assert_eq!(carried(&debts, &plan, &cluster.world()), [], "it is gone, and the other one runs");

    cluster.find("web", &left(&one), true);
    cluster.find("web", &two, false);
    let plan = again(&mut cluster, "web:1");
    assert_eq!(carried(&debts, &plan, &cluster.world()), [], "this deploy removes both");

    let other = Scope::Service("db".parse().unwrap());
    let plan = cluster.plan(&manifest(json!([{"name": "db", "image": "db:1"}])), &other).unwrap();
    assert_eq!(carried(&debts, &plan, &cluster.world()), debts, "it does not speak for them");
}
