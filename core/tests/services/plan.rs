//! Plans: golden previews of what operators do, and the rules that hold for every plan.

use ployz_core::address::AddressPlan;
use ployz_core::deploy::claim::Claims;
use ployz_core::deploy::image::Agreement;
use ployz_core::deploy::plan::{DeployPlan, Found, Machine, PlanError, Scope, World, plan};
use ployz_core::deploy::{commit, probe, pull};
use ployz_core::id::{DeployId, MachineId, ServiceName};
use ployz_core::routing::ServiceRef;
use ployz_core::wire::v1::deploy::{Action, DeployCommit, ImageContent, ImageSeen, Placed, Probed};
use ployz_core::wire::v1::manifest::{ImageDigest, ImageRef, Manifest, Pull};
use ployz_core::wire::v1::record::Lifecycle;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A cluster to plan for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) machines: Vec<Machine>,
    pub(crate) current: Option<DeployCommit>,
    claims: Claims,
    reserved: BTreeMap<u16, String>,
    images: BTreeMap<ImageRef, Agreement>,
    pub(crate) found: BTreeMap<MachineId, Vec<Found>>,
    deploys: u8,
}

impl Cluster {
    pub(crate) fn of(machines: usize) -> Self {
        let subnets = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
        let machine = |index: usize| Machine {
            id: format!("node-{}", index + 1).parse().unwrap(),
            lifecycle: Lifecycle::Active,
            labels: BTreeMap::from([("disk".to_owned(), if index == 0 { "ssd" } else { "hdd" }.to_owned())]),
            subnet: subnets.slice(index).unwrap(),
            reachable: true,
            instances: 0,
            published: BTreeSet::new(),
        };
        Self { machines: (0..machines).map(machine).collect(), ..Self::default() }
    }

    pub(crate) fn plan(&mut self, manifest: &Manifest, scope: &Scope) -> Result<DeployPlan, PlanError> {
        self.deploys += 1;
        let mut number = u64::from(self.deploys) << 20;
        let deploy = DeployId::from_bytes([self.deploys; 8]);
        plan(manifest, scope, &self.world(), &deploy, &mut || {
            number += 1;
            number
        })
    }

    pub(crate) fn world(&self) -> World<'_> {
        World {
            machines: &self.machines,
            current: self.current.as_ref(),
            claims: &self.claims,
            reserved: &self.reserved,
            images: &self.images,
            found: &self.found,
        }
    }

    /// Every machine tells that what is committed for it is there and runs.
    pub(crate) fn tell(&mut self) {
        self.found = self.machines.iter().map(|machine| (machine.id.clone(), Vec::new())).collect();
        let current = self.current.clone();
        for (name, service) in current.iter().flat_map(|current| &current.services) {
            for placed in service.slots.values() {
                self.find(name.as_str(), placed, true);
            }
        }
    }

    /// A machine tells of one container more.
    pub(crate) fn find(&mut self, service: &str, placed: &Placed, runs: bool) {
        let found = self.found.entry(placed.machine.clone()).or_default();
        found.retain(|found| found.instance != placed.instance);
        let instance = placed.instance.clone();
        found.push(Found { service: service.parse().unwrap(), instance, runs });
    }

    /// Carries a plan out: what it committed is current, and runs.
    pub(crate) fn apply(&mut self, plan: &DeployPlan) {
        let node = self.machines[0].id.clone();
        self.current = Some(plan.commit(&node, 1_000));
        let placed: Vec<Placed> =
            plan.services.values().flat_map(|service| service.slots.values().cloned()).collect();
        for machine in &mut self.machines {
            machine.instances = placed.iter().filter(|placed| placed.machine == machine.id).count();
        }
    }

    pub(crate) fn deploy(&mut self, services: Value) -> DeployPlan {
        let plan = self.plan(&manifest(services), &Scope::Namespace).unwrap();
        self.apply(&plan);
        plan
    }

    fn lifecycle(&mut self, index: usize, lifecycle: Lifecycle) {
        self.machines[index].lifecycle = lifecycle;
    }
}

pub(crate) fn manifest(services: Value) -> Manifest {
    serde_json::from_value(json!({"version": 1, "namespace": "shop", "services": services})).unwrap()
}

fn web(image: &str, replicas: u32) -> Value {
    json!({"name": "web", "image": image, "ports": [{"name": "http", "port": 80}],
           "routes": [{"host": "shop.example.org"}], "placement": {"replicas": replicas}})
}

fn db() -> Value {
    json!({"name": "db", "image": "postgres:16", "ports": [{"port": 5432, "publish": 5432}],
           "placement": {"labels": {"disk": "ssd"}}})
}

fn agent(image: &str) -> Value {
    json!({"name": "agent", "image": image, "placement": {"mode": "global"}})
}

#[test]
fn golden_previews() {
    let mut text = String::new();
    let mut say = |what: &str, plan: &DeployPlan| write!(text, "# {what}\n{}\n", plan.preview).unwrap();
    let mut cluster = Cluster::of(3);
    say("first deploy", &cluster.deploy(json!([web("web:1", 3), db(), agent("agent:1")])));
    say("the same again", &cluster.deploy(json!([web("web:1", 3), db(), agent("agent:1")])));
    let mut slow = web("web:2", 4);
    slow["rollout"] = json!({"parallelism": 2});
    say(
        "another image, one more replica, two at a time",
        &cluster.deploy(json!([slow.clone(), db(), agent("agent:1")])),
    );
    let mut routes = slow.clone();
    routes["routes"] = json!([{"host": "shop.example.com"}]);
    routes["placement"]["replicas"] = json!(2);
    say("another route, fewer replicas", &cluster.deploy(json!([routes.clone(), db(), agent("agent:1")])));
    let mut later = db();
    later["image"] = json!("postgres:17");
    say(
        "a published port is stopped first",
        &cluster.deploy(json!([routes.clone(), later.clone(), agent("agent:1")])),
    );
    cluster.lifecycle(1, Lifecycle::Draining);
    say(
        "node-2 drains, another agent",
        &cluster.deploy(json!([routes.clone(), later.clone(), agent("agent:2")])),
    );
    cluster.lifecycle(1, Lifecycle::Active);
    say("node-2 is active again", &cluster.deploy(json!([routes, later.clone(), agent("agent:2")])));
    cluster.machines[2].reachable = false;
    say("node-3 away, another web", &cluster.deploy(json!([web("web:2", 3), later, agent("agent:2")])));
    cluster.machines[2].reachable = true;
    let only = cluster.plan(&manifest(json!([web("web:9", 1)])), &Scope::Service("web".parse().unwrap()));
    say("deploy service web", &only.unwrap());
    say("everything goes", &cluster.deploy(json!([])));
    crate::same_as("deploy-previews.txt", &text);
}

#[test]
fn what_was_left_behind_and_what_was_lost_is_mended() {
    let mut cluster = Cluster::of(2);
    let first = cluster.deploy(json!([web("web:1", 2)]));
    let service: ServiceName = "web".parse().unwrap();
    let kept = first.services[&service].slots[&0].clone();
    cluster.find("web", &kept, true);
    cluster.find("web", &Placed { instance: "web-7-zzzzz".parse().unwrap(), ..kept }, true);
    cluster.found.insert(first.services[&service].slots[&1].machine.clone(), vec![]);
    let plan = cluster.plan(&manifest(json!([web("web:1", 2)])), &Scope::Namespace).unwrap();
    let actions: Vec<Action> = plan.preview.services[0].slots.iter().map(|slot| slot.action).collect();
    assert_eq!(actions, [Action::Unchanged, Action::Replace]);
    assert_eq!(plan.preview.services[0].action, Action::Update);
    assert_eq!(plan.preview.strays.len(), 1);
    assert!(plan.retired.iter().any(|old| old.placed.instance.as_str() == "web-7-zzzzz"));
}

#[test]
fn a_container_that_is_stopped_counts_as_lost() {
    let mut cluster = Cluster::of(1);
    let first = cluster.deploy(json!([web("web:1", 1)]));
    let placed = first.services.values().next().unwrap().slots[&0].clone();
    cluster.find("web", &placed, false);
    let plan = cluster.plan(&manifest(json!([web("web:1", 1)])), &Scope::Namespace).unwrap();
    assert_eq!(plan.preview.services[0].slots[0].action, Action::Replace);
    assert!(plan.retired.iter().any(|old| old.placed == placed), "what is stopped is cleared away");
    assert!(plan.preview.strays.is_empty());
}

#[test]
fn a_deploy_of_one_service_takes_no_stray_of_another() {
    let mut cluster = Cluster::of(1);
    cluster.deploy(json!([web("web:1", 1), agent("agent:1")]));
    cluster.tell();
    // The records are lost: nothing on the machine is known any more.
    cluster.current = None;
    let only = Scope::Service("web".parse().unwrap());
    let plan = cluster.plan(&manifest(json!([web("web:1", 1)])), &only).unwrap();
    let strays: Vec<&str> = plan.preview.strays.iter().map(|stray| stray.service.as_str()).collect();
    assert_eq!(strays, ["web"]);
    assert!(plan.retired.iter().all(|old| old.service.as_str() == "web"));
}

#[test]
fn refusals_name_everything() {
    let mut cluster = Cluster::of(3);
    cluster.lifecycle(0, Lifecycle::Draining);
    cluster.lifecycle(1, Lifecycle::Standby);
    cluster.machines[2].reachable = false;
    let error = cluster.plan(&manifest(json!([web("web:1", 1)])), &Scope::Namespace).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no machine fits slot 0 of web: node-1 is draining; node-2 is on standby; node-3 does not answer"
    );
    let error = cluster.plan(&manifest(json!([agent("a")])), &Scope::Namespace).unwrap_err();
    assert_eq!(error.to_string(), "node-3 must take part in this deploy and cannot be reached");

    let mut cluster = Cluster::of(2);
    cluster.machines.iter_mut().for_each(|machine| {
        machine.published.insert((ployz_core::wire::v1::manifest::Protocol::Tcp, 5432));
    });
    let error = cluster.plan(&manifest(json!([db()])), &Scope::Namespace).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no machine fits slot 0 of db: node-1 has a published port in use; node-2 does not match the placement constraints"
    );
    cluster.images.insert("web:1".parse().unwrap(), Agreement::Nowhere);
    let error = cluster.plan(&manifest(json!([web("web:1", 1)])), &Scope::Namespace).unwrap_err();
    assert_eq!(error.to_string(), "no machine has the image web:1 of web");
    let owner = ServiceRef { namespace: "other".parse().unwrap(), service: "site".parse().unwrap() };
    cluster.claims.routes.insert("shop.example.org/".into(), owner);
    let error = cluster.plan(&manifest(json!([web("web:1", 1)])), &Scope::Namespace).unwrap_err();
    assert_eq!(error.to_string(), "the route shop.example.org/ of web belongs to other.site");

    cluster.reserved.insert(53, "used by DNS".into());
    let mut tcp = db();
    tcp["routes"] = json!([{"listen": 53}]);
    let error = cluster.plan(&manifest(json!([tcp])), &Scope::Namespace).unwrap_err();
    assert_eq!(error.to_string(), "the TCP route of db asks for port 53, which is used by DNS");
    assert_eq!(error.code().as_str(), "PORT_RESERVED");
}

/// A gateway would take the port in the moment in which the container that publishes it is replaced.
#[test]
fn a_port_is_a_tcp_routes_or_published() {
    let tcp = |name: &str, listen: u16| {
        let (ports, routes) = (json!([{"port": 80}]), json!([{"listen": listen}]));
        json!({"name": name, "image": "proxy:1", "ports": ports, "routes": routes})
    };
    let mut cluster = Cluster::of(2);
    let mut refused = |services: Value, scope: &Scope| {
        let error = cluster.plan(&manifest(services), scope).unwrap_err();
        assert_eq!(error.code().as_str(), "PORT_TAKEN");
        error.to_string()
    };
    let both = "port 5432 cannot be both the TCP route of shop.proxy and published by shop.db";
    assert_eq!(refused(json!([db(), tcp("proxy", 5432)]), &Scope::Namespace), both);

    cluster.deploy(json!([db()]));
    let only = Scope::Service("proxy".parse().unwrap());
    let error = cluster.plan(&manifest(json!([tcp("proxy", 5432)])), &only).unwrap_err();
    assert_eq!(error.to_string(), both, "one that is kept");

    let mut other = Cluster::of(2);
    let committed = cluster.current.as_mut().unwrap();
    committed.namespace = "other".parse().unwrap();
    other.claims.add(committed);
    let error = other.plan(&manifest(json!([tcp("proxy", 5432)])), &Scope::Namespace).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 5432 cannot be both the TCP route of shop.proxy and published by other.db"
    );
    other.plan(&manifest(json!([tcp("proxy", 5433)])), &Scope::Namespace).unwrap();
}

#[test]
fn what_others_took_meanwhile_is_noticed_before_the_commit() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([web("web:1", 1)]));
    let site = ServiceRef { namespace: "other".parse().unwrap(), service: "site".parse().unwrap() };
    let mut claims = Claims::default();
    let mut changed = web("web:2", 1);
    changed["routes"] = json!([{"host": "shop.example.com"}]);
    let plan = cluster.plan(&manifest(json!([changed, agent("agent:1")])), &Scope::Namespace).unwrap();
    assert_eq!(plan.beside(&claims), Ok(()));
    claims.routes.insert("shop.example.com/".into(), site.clone());
    let error = plan.beside(&claims).unwrap_err();
    assert_eq!(error.to_string(), "the route shop.example.com/ of web belongs to other.site");
    // What it does not change is not its matter.
    let plan =
        cluster.plan(&manifest(json!([web("web:1", 1), agent("agent:1")])), &Scope::Namespace).unwrap();
    claims.routes.insert("shop.example.org/".into(), site);
    assert_eq!(plan.beside(&claims), Ok(()));
}

#[test]
fn a_deploy_of_one_service_leaves_the_others_alone() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([web("web:1", 2), agent("agent:1")]));
    let before = cluster.current.clone().unwrap().services[&"agent".parse().unwrap()].clone();
    let anew = Agreement::Same(ImageContent("v1:anew".into()));
    cluster.images.insert("agent:1".parse().unwrap(), anew);
    cluster.found = cluster.machines.iter().map(|machine| (machine.id.clone(), Vec::new())).collect();
    cluster.lifecycle(1, Lifecycle::Draining);
    let only = Scope::Service("web".parse().unwrap());
    let plan = cluster.plan(&manifest(json!([web("web:2", 1)])), &only).unwrap();
    assert_eq!(plan.services[&"agent".parse().unwrap()], before);
    let gone = cluster.plan(&manifest(json!([])), &only).unwrap();
    assert_eq!(gone.removed.len(), 1, "service rm");
    let other = Scope::Service("site".parse().unwrap());
    let mut site = web("web:1", 1);
    site["name"] = json!("site");
    let error = cluster.plan(&manifest(json!([site])), &other).unwrap_err();
    assert_eq!(error.to_string(), "the route shop.example.org/ of site belongs to shop.web");
}

#[test]
fn a_machine_that_must_give_up_an_instance_takes_part() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([web("web:1", 2)]));
    cluster.machines[1].reachable = false;
    let gone = cluster.plan(&manifest(json!([])), &Scope::Namespace).unwrap_err();
    assert_eq!(gone.to_string(), "node-2 must take part in this deploy and cannot be reached");
    cluster.machines.remove(1);
    let plan = cluster.plan(&manifest(json!([web("web:1", 2)])), &Scope::Namespace).unwrap();
    assert!(plan.retired.is_empty(), "a machine that left took its containers with it");
    assert_eq!(plan.preview.participants.len(), 1);
}

#[test]
fn a_tag_that_was_built_anew_is_another_revision() {
    let mut cluster = Cluster::of(2);
    let image: ImageRef = "web:1".parse().unwrap();
    let same = |text: &str| Agreement::Same(ImageContent(text.to_owned()));
    cluster.images.insert(image.clone(), same("v1:a"));
    cluster.deploy(json!([web("web:1", 2)]));
    cluster.images.remove(&image);
    assert!(cluster.deploy(json!([web("web:1", 2)])).preview.is_empty(), "not asked is not changed");
    cluster.images.insert(image.clone(), Agreement::Nowhere);
    assert!(cluster.deploy(json!([web("web:1", 2)])).preview.is_empty(), "what runs needs no image");
    cluster.images.insert(image.clone(), same("v1:b"));
    let plan = cluster.deploy(json!([web("web:1", 2)]));
    assert_eq!(plan.preview.services[0].action, Action::Replace);
    let differs = BTreeMap::from([
        (ImageContent("v1:b".into()), vec!["node-1".parse().unwrap()]),
        (ImageContent("v1:c".into()), vec!["node-2".parse().unwrap()]),
    ]);
    cluster.images.insert(image, Agreement::Differs(differs));
    let plan = cluster.deploy(json!([web("web:1", 2)]));
    assert!(plan.preview.is_empty());
    assert_eq!(
        plan.preview.warnings,
        ["web: the image web:1 is not the same on every machine: node-1 | node-2"]
    );
}

#[test]
fn a_revision_of_another_version_rolls_nothing_by_itself() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([web("web:1", 2)]));
    let committed = cluster.current.as_mut().unwrap().services.values_mut().next().unwrap();
    committed.revision = "v0:deadbeef".into();
    let plan = cluster.deploy(json!([web("web:1", 2)]));
    assert!(plan.preview.is_empty(), "{}", plan.preview);
    // One that is new beside them is of their revision: they take requests together.
    let plan = cluster.deploy(json!([web("web:1", 3)]));
    assert_eq!(plan.preview.services[0].action, Action::Update);
    assert_eq!(plan.services.values().next().unwrap().revision, "v0:deadbeef");
    let mut other = web("web:1", 3);
    other["env"] = json!({"LOG": "info"});
    let plan = cluster.deploy(json!([other]));
    assert_eq!(plan.preview.services[0].action, Action::Replace);
    assert!(plan.services.values().next().unwrap().revision.starts_with("v1:"));
}

#[test]
fn a_probe_asks_for_what_the_plan_needs_and_names_what_is_missing() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([db()]));
    let mut later = db();
    later["image"] = json!("postgres:17");
    let plan = cluster.plan(&manifest(json!([web("web:1", 2), later])), &Scope::Namespace).unwrap();
    let (network, node) = ("0".repeat(32).parse().unwrap(), "node-1".parse().unwrap());
    let asked = probe::question(&plan, &network, &node);
    assert_eq!((asked.starts, asked.images.len(), asked.publish.len(), asked.releases.len()), (2, 2, 1, 1));
    let seen = ImageSeen {
        id: format!("sha256:{:0>64}", 1).parse().unwrap(),
        content: ImageContent("v1:a".into()),
        digests: BTreeSet::new(),
    };
    let mut told = Probed {
        images: asked.images.iter().map(|image| (image.clone(), seen.clone())).collect(),
        taken: BTreeSet::new(),
        free_addresses: 9,
        free_disk: None,
        instances: 1,
        platform: None,
    };
    assert_eq!(probe::judge(&plan, &node, &asked, &told), []);
    told.images.remove(&"web:1".parse().unwrap());
    told.taken = asked.publish.clone();
    told.free_addresses = 1;
    told.free_disk = Some(0);
    let failures = probe::judge(&plan, &node, &asked, &told);
    let text: Vec<String> = failures.iter().map(|failure| format!("{} {failure}", failure.code)).collect();
    assert_eq!(
        text,
        [
            "PORT_TAKEN node-1: db: port 5432/tcp is in use",
            "IMAGE_MISSING node-1: web: the image web:1 is missing",
            "NO_ELIGIBLE_MACHINE node-1: 1 addresses left for 2 new instances",
            "DISK_FULL node-1: less than 64M free where the engine stores containers",
        ]
    );
}

#[test]
fn a_commit_tells_gateways_of_what_it_changed() {
    let mut cluster = Cluster::of(2);
    cluster.deploy(json!([web("web:1", 1), db(), agent("a:1")]));
    let plan = cluster.deploy(json!([web("web:2", 1), db()]));
    let events = commit::events(&plan.commit(&"node-1".parse().unwrap(), 5));
    let text: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", event.key, serde_json::to_string(&event.value).unwrap()))
        .collect();
    crate::same_as("deploy-events.txt", &(text.join("\n") + "\n"));
}

/// A cluster of up to six machines in any state.
pub(crate) fn clusters() -> impl Strategy<Value = Cluster> {
    let lifecycle = prop::sample::select(vec![
        Lifecycle::Active,
        Lifecycle::Active,
        Lifecycle::Active,
        Lifecycle::Draining,
        Lifecycle::Standby,
    ]);
    prop::collection::vec((lifecycle, prop::bool::weighted(0.9), 0usize..5), 1..6).prop_map(|states| {
        let mut cluster = Cluster::of(states.len());
        for (machine, (lifecycle, reachable, instances)) in cluster.machines.iter_mut().zip(states) {
            (machine.lifecycle, machine.reachable, machine.instances) = (lifecycle, reachable, instances);
        }
        cluster
    })
}

/// Manifests of up to three services.
pub(crate) fn manifests() -> impl Strategy<Value = Manifest> {
    let service = |name: &'static str| {
        (0u8..3, 1u32..7, prop::bool::weighted(0.25), prop::bool::weighted(0.25), 1u32..4).prop_map(
            move |(image, replicas, global, publish, parallelism)| {
                let mut service = json!({"name": name, "image": format!("{name}:{image}"), "ports": [{"port": 80}],
                    "rollout": {"parallelism": parallelism}});
                service["placement"] =
                    if global { json!({"mode": "global"}) } else { json!({"replicas": replicas}) };
                if publish {
                    service["ports"][0]["publish"] = json!(8080);
                }
                service
            },
        )
    };
    (prop::option::of(service("a")), prop::option::of(service("b")), prop::option::of(service("c")))
        .prop_map(|(a, b, c)| manifest([a, b, c].into_iter().flatten().collect()))
}

fn check(cluster: &Cluster, manifest: &Manifest, plan: &DeployPlan) -> Result<(), TestCaseError> {
    let machine = |id: &MachineId| cluster.machines.iter().find(|machine| machine.id == *id);
    let mut ids = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for service in &manifest.services {
        let committed = &plan.services[&service.name];
        if let ployz_core::wire::v1::manifest::Mode::Replicated { replicas } = service.placement.mode {
            let wanted: Vec<u32> = (0..replicas).collect();
            prop_assert_eq!(committed.slots.keys().copied().collect::<Vec<_>>(), wanted);
        } else {
            let on: BTreeSet<&MachineId> = committed.slots.values().map(|placed| &placed.machine).collect();
            prop_assert_eq!(on.len(), committed.slots.len(), "one a machine");
            let active = cluster.machines.iter().filter(|machine| machine.lifecycle == Lifecycle::Active);
            prop_assert!(active.into_iter().all(|machine| on.contains(&machine.id)));
        }
        for placed in committed.slots.values() {
            prop_assert!(ids.insert(placed.instance.clone()), "an id is never used twice");
            for port in service.published() {
                prop_assert!(ports.insert((placed.machine.clone(), port)), "a port is held once");
            }
        }
    }
    prop_assert_eq!(plan.services.len(), manifest.services.len());
    for (_, slot) in plan.preview.changes() {
        if let Some(next) = &slot.next {
            let place = machine(&next.machine).unwrap();
            prop_assert!(place.reachable && place.lifecycle == Lifecycle::Active, "nothing new there");
            prop_assert!(plan.preview.participants.contains(&next.machine));
        }
    }
    for (change, slot) in plan.preview.changes().filter(|(_, slot)| slot.next.is_some()) {
        let in_waves = plan.preview.waves.iter().flatten().filter(|wave| wave.service == change.service);
        let times = in_waves.filter(|wave| wave.slots.contains(&slot.slot)).count();
        prop_assert_eq!(times, 1, "every start is in one wave");
    }
    Ok(())
}

proptest! {
    #[test]
    fn plans_keep_the_rules(cluster in clusters(), steps in prop::collection::vec((manifests(), clusters()), 1..5)) {
        let mut cluster = cluster;
        for (manifest, change) in steps {
            for (machine, other) in cluster.machines.iter_mut().zip(&change.machines) {
                (machine.lifecycle, machine.reachable) = (other.lifecycle, other.reachable);
            }
            let twin = cluster.clone().plan(&manifest, &Scope::Namespace);
            let made = cluster.plan(&manifest, &Scope::Namespace);
            prop_assert_eq!(&made, &twin, "equal inputs, equal plans");
            let Ok(made) = made else { continue };
            check(&cluster, &manifest, &made)?;
            cluster.apply(&made);
            let again = cluster.clone().plan(&manifest, &Scope::Namespace).unwrap();
            prop_assert!(again.preview.is_empty(), "a second time does nothing:\n{}", again.preview);
        }
    }

    #[test]
    fn fresh_replicas_are_spread_evenly(machines in 1usize..7, replicas in 1u32..30) {
        let mut cluster = Cluster::of(machines);
        let plan = cluster.plan(&manifest(json!([web("web:1", replicas)])), &Scope::Namespace).unwrap();
        let mut counts: BTreeMap<&MachineId, u32> = cluster.machines.iter().map(|m| (&m.id, 0)).collect();
        for placed in plan.services.values().flat_map(|service| service.slots.values()) {
            *counts.get_mut(&placed.machine).unwrap() += 1;
        }
        prop_assert!(counts.values().max().unwrap() - counts.values().min().unwrap() <= 1);
    }
}

/// What `nodes` have under an image's name: what it holds, and the registry's digest, if it came from one.
fn engines(nodes: &[usize], content: &str, digests: &[&ImageDigest]) -> pull::Seen {
    let digests: BTreeSet<ImageDigest> = digests.iter().map(|digest| (*digest).clone()).collect();
    let seen = ImageSeen {
        id: format!("sha256:{:0>64}", 1).parse().unwrap(),
        content: ImageContent(content.into()),
        digests,
    };
    nodes.iter().map(|node| (format!("node-{node}").parse().unwrap(), seen.clone())).collect()
}

#[test]
fn an_image_that_no_machine_has_is_pulled_where_it_starts_and_then_stays() {
    let (mut cluster, digest) = (Cluster::of(3), image_digest('a'));
    let (wanted, image) = (manifest(json!([web("nginx:alpine", 2)])), "nginx:alpine".parse().unwrap());
    let wishes = pull::wishes(&wanted, &Scope::Namespace);
    assert_eq!(wishes, BTreeMap::from([(image, Pull::Missing)]));
    let (image, wish) = wishes.into_iter().next().unwrap();
    let need = pull::need(wish, &image, &pull::Seen::new());
    assert_eq!(need, pull::Need::Ask);
    cluster.images.insert(image.clone(), pull::before(&need, &image, &pull::Seen::new()));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    assert_eq!(plan.preview.services[0].next_revision, None, "it is of what the image holds");
    let pulled = pull::pull(&plan, wish, &image, &digest, &pull::Seen::new()).unwrap();
    assert_eq!(pulled.on, ["node-1", "node-2"].map(|node| node.parse().unwrap()).into());
    assert_eq!(pulled.to_string(), format!("pull nginx:alpine ({digest}) on node-1, node-2"));

    // Node 2 was sent it by node 1: it has it without a digest.
    let mut seen = engines(&[1], "v1:a", &[&digest]);
    seen.extend(engines(&[2], "v1:a", &[]));
    cluster.images.insert(image.clone(), pull::of_digest(&digest, &seen));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    assert_eq!(pull::pull(&plan, wish, &image, &digest, &seen), None);
    cluster.apply(&plan);

    // The same again, whatever the registry has by now; then on one machine more, which gets the same one.
    let need = pull::need(wish, &image, &seen);
    assert_eq!(need, pull::Need::Known(digest.clone()));
    cluster.images.insert(image.clone(), pull::before(&need, &image, &seen));
    assert!(cluster.plan(&wanted, &Scope::Namespace).unwrap().preview.is_empty());
    let plan = cluster.plan(&manifest(json!([web("nginx:alpine", 3)])), &Scope::Namespace).unwrap();
    let pulled = pull::pull(&plan, wish, &image, &digest, &seen).unwrap();
    assert_eq!((pulled.digest, pulled.on), (digest, ["node-3".parse().unwrap()].into()));

    // Its name was taken away on all machines while it runs: nothing is to be started, so nothing is to be pulled.
    let need = pull::need(wish, &image, &pull::Seen::new());
    cluster.images.insert(image.clone(), pull::before(&need, &image, &pull::Seen::new()));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    assert!(plan.preview.is_empty() && pull::users(&plan, &image).is_empty());
}

#[test]
fn always_asks_and_pulls_where_the_registry_has_another_one() {
    let (mut cluster, old, new) = (Cluster::of(3), image_digest('a'), image_digest('b'));
    let mut service = web("nginx:alpine", 2);
    service["pull"] = json!("always");
    let (wanted, image): (_, ImageRef) = (manifest(json!([service])), "nginx:alpine".parse().unwrap());
    let seen = engines(&[1, 2], "v1:a", &[&old]);
    cluster.images.insert(image.clone(), pull::of_digest(&old, &seen));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    cluster.apply(&plan);

    let need = pull::need(Pull::Always, &image, &seen);
    assert_eq!(need, pull::Need::Ask);
    cluster.images.insert(image.clone(), pull::before(&need, &image, &seen));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    assert_eq!(pull::users(&plan, &image).len(), 2, "the machines that would be asked");
    assert_eq!(pull::pull(&plan, Pull::Always, &image, &old, &seen), None, "they have it");
    assert_eq!(pull::pull(&plan, Pull::Always, &image, &new, &seen).unwrap().on.len(), 2);
    cluster.images.insert(image.clone(), pull::of_digest(&old, &seen));
    assert!(cluster.plan(&wanted, &Scope::Namespace).unwrap().preview.is_empty());

    // A machine that takes no part and has an older one under the name changes nothing.
    let mut more = engines(&[3], "v1:older", &[]);
    more.extend(engines(&[1, 2], "v1:b", &[&new]));
    cluster.images.insert(image.clone(), pull::of_digest(&new, &more));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    assert!(plan.preview.warnings.is_empty() && plan.preview.services[0].action == Action::Replace);
}

#[test]
fn a_build_of_this_cluster_is_never_looked_for_in_a_registry_and_a_pinned_image_is_the_one_it_says() {
    let (mut cluster, digest) = (Cluster::of(2), image_digest('a'));
    let local = engines(&[1], "v1:a", &[]);
    let image: ImageRef = "shop/web:1".parse().unwrap();
    assert_eq!(pull::need(Pull::Missing, &image, &local), pull::Need::Nothing);

    let pinned = image.pinned(&digest).unwrap();
    let wanted = manifest(json!([web(pinned.as_str(), 2)]));
    let need = pull::need(Pull::Missing, &pinned, &local);
    assert_eq!(need, pull::Need::Known(digest.clone()));
    cluster.images.insert(pinned.clone(), pull::before(&need, &pinned, &local));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    let pulled = pull::pull(&plan, Pull::Missing, &pinned, &digest, &local).unwrap();
    assert_eq!(pulled.on, ["node-2".parse().unwrap()].into(), "node 1 has it by its id");
    assert_eq!(pulled.to_string(), format!("pull {pinned} on node-2"));
}

fn image_digest(letter: char) -> ImageDigest {
    format!("sha256:{}", letter.to_string().repeat(64)).parse().unwrap()
}
