//! The table against a specification that is written the naive way.

use super::*;
use ployz_core::address::NodeSubnet;
use ployz_core::routing::{MachineRoute, ServicePort};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::str::FromStr;

/// A small world in which names and addresses collide often.
#[derive(Debug, Clone)]
struct Copy {
    machine: usize,
    service: usize,
    id: usize,
    address: u8,
    ready: bool,
    draining: bool,
    current: bool,
    old: bool,
}

const MACHINES: [&str; 3] = ["one", "two", "web"];
const SERVICES: [(&str, &str); 5] =
    [("shop", "web"), ("shop", "db"), ("blog", "web"), ("machine", "web"), ("machine", "free")];
const IDS: [&str; 3] = ["i0", "i1", "i2"];

fn subnet(machine: usize) -> NodeSubnet {
    slice(&format!("10.101.{machine}.0/24"))
}

fn slice(text: &str) -> NodeSubnet {
    let plan = ployz_core::address::AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
    plan.slices().find(|slice| slice.to_string() == text).unwrap()
}

fn overlay(machine: usize) -> Ipv6Addr {
    format!("fda1:2826:9433::{}", machine + 16).parse().unwrap()
}

fn reference(service: usize) -> ServiceRef {
    let (namespace, name) = SERVICES[service];
    ServiceRef { namespace: namespace.parse().unwrap(), service: name.parse().unwrap() }
}

fn state(machines: &BTreeSet<usize>, services: &BTreeSet<usize>, copies: &[Copy]) -> State {
    let mut state = State::default();
    for machine in machines {
        let route = MachineRoute { overlay_ip: overlay(*machine), subnet: subnet(*machine) };
        state.machines.insert(MACHINES[*machine].parse().unwrap(), route);
    }
    let deploy: ployz_core::id::DeployId = "0123456789abcdef".parse().unwrap();
    for service in services {
        let current = copies.iter().filter(|copy| copy.service == *service && copy.current);
        let port = ServicePort { name: "http".into(), port: 8080, protocol: "tcp".into() };
        let route = ServiceRoute {
            deploy: deploy.clone(),
            revision: "new".into(),
            instances: current.map(|copy| IDS[copy.id].parse().unwrap()).collect(),
            ports: vec![port],
            http: Vec::new(),
            tcp: Vec::new(),
        };
        state.services.insert(reference(*service), route);
    }
    for copy in copies {
        let route = InstanceRoute {
            address: Ipv4Addr::new(10, 101, copy.machine as u8, copy.address),
            revision: if copy.old { "old".into() } else { "new".into() },
            deploy: deploy.clone(),
            slot: 0,
            ready: copy.ready,
            draining: copy.draining,
        };
        let key = (IDS[copy.id].parse().unwrap(), MACHINES[copy.machine].parse().unwrap());
        state.instances.entry(reference(copy.service)).or_default().insert(key, route);
    }
    state
}

fn world() -> impl Strategy<Value = State> {
    let copy = (0..3usize, 0..5usize, 0..3usize, 3..6u8, any::<[bool; 4]>()).prop_map(
        |(machine, service, id, address, [ready, draining, current, old])| Copy {
            machine,
            service,
            id,
            address,
            ready,
            draining,
            current,
            old,
        },
    );
    let some = |n: usize| proptest::collection::btree_set(0..n, 0..=n);
    (some(3), some(5), proptest::collection::vec(copy, 0..8)).prop_map(|(m, s, c)| state(&m, &s, &c))
}

/// A, AAAA and SRV.
type Has = (BTreeSet<Ipv4Addr>, BTreeSet<Ipv6Addr>, BTreeSet<String>);

/// Every name that has data, by the rules of the zone alone: no table, no inheritance, no short cuts.
fn naive(state: &State) -> BTreeMap<String, Has> {
    let mut all: BTreeMap<String, Has> = BTreeMap::new();
    for (id, machine) in &state.machines {
        let of = all.entry(format!("{id}.machine.ployz.internal.")).or_default();
        of.0.insert(machine.subnet.service());
        of.1.insert(machine.overlay_ip);
    }
    for (id, service) in &state.services {
        let (ns, name) = (&id.namespace, &id.service);
        if ns.as_str() == "machine" && state.machines.contains_key(&name.as_str().parse().unwrap()) {
            continue;
        }
        all.entry(format!("{name}.{ns}.ployz.internal.")).or_default();
        all.entry(format!("_http._tcp.{name}.{ns}.ployz.internal.")).or_default();
        for ((instance, _), route) in state.instances.get(id).into_iter().flatten() {
            let own = format!("{instance}.instance.{name}.{ns}.ployz.internal.");
            all.entry(own.clone()).or_default().0.insert(route.address);
            let routable = service.instances.contains(instance)
                && route.revision == service.revision
                && route.ready
                && !route.draining;
            if routable {
                all.entry(format!("{name}.{ns}.ployz.internal.")).or_default().0.insert(route.address);
                let srv = all.entry(format!("_http._tcp.{name}.{ns}.ployz.internal.")).or_default();
                srv.2.insert(format!("8080 {own} {}", route.address));
            }
        }
    }
    all
}

fn lower(text: &str) -> LowerName {
    LowerName::new(&Name::from_str(text).unwrap())
}

/// Names worth asking for: all that could exist in this small world, those between, and some beside.
fn questions() -> Vec<String> {
    let mut all: Vec<String> =
        ["", "machine.", "shop.", "blog.", "no.", "instance."].map(|l| format!("{l}ployz.internal.")).into();
    for machine in MACHINES.iter().chain(&["no"]) {
        all.push(format!("{machine}.machine.ployz.internal."));
    }
    for (ns, service) in SERVICES.iter().chain(&[("shop", "no")]) {
        let own = format!("{service}.{ns}.ployz.internal.");
        all.extend(
            ["instance.", "_tcp.", "_udp.", "_http._tcp.", "_no._tcp.", "x."].map(|l| format!("{l}{own}")),
        );
        all.extend(IDS.iter().chain(&["no"]).map(|id| format!("{id}.instance.{own}")));
        all.push(own);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_table_says_what_the_specification_says(state in world()) {
        let zone = Zone::of(&state);
        let spec = naive(&state);
        for question in questions() {
            let found = zone.find(&lower(&question));
            let exists = question == "ployz.internal."
                || spec.keys().any(|name| *name == question || name.ends_with(&format!(".{question}")));
            prop_assert_eq!(found.is_some(), exists, "{}", question);
            let empty = Node::default();
            let node = found.unwrap_or(&empty);
            let srv = node.srv.iter().map(|t| format!("{} {} {}", t.port, t.name.name(), t.address)).collect();
            let got = (node.a.iter().copied().collect(), node.aaaa.iter().copied().collect(), srv);
            prop_assert_eq!(got, spec.get(&question).cloned().unwrap_or_default(), "{}", question);
        }
    }

    #[test]
    fn a_short_name_is_the_full_name_in_the_askers_namespace(state in world()) {
        let zone = Zone::of(&state);
        for machine in 0..4u8 {
            for host in 1..7u8 {
                let source = Ipv4Addr::new(10, 101, machine, host);
                let claims: BTreeSet<_> = state.instances.iter().flat_map(|(service, of)| {
                    of.iter().filter(|((_, machine), route)| {
                        route.address == source && state.speaks_for(machine, route.address)
                    }).map(|(_, route)| ((route.ready, !route.draining), &service.namespace))
                }).collect();
                let best = claims.iter().map(|(rank, _)| *rank).max();
                let allowed: BTreeSet<_> =
                    claims.iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, ns)| *ns).collect();
                let namespace = zone.namespace(source.into());
                prop_assert_eq!(namespace.is_some(), !claims.is_empty());
                prop_assert!(namespace.is_none_or(|ns| allowed.contains(ns)));
                for service in ["web", "db", "free", "no", "machine"] {
                    let short = zone.find_short(service.as_bytes(), source.into());
                    let full = namespace.and_then(|ns| {
                        let id = ServiceRef { namespace: ns.clone(), service: service.parse().unwrap() };
                        let shadowed = ns.as_str() == "machine"
                            && state.machines.contains_key(&service.parse().unwrap());
                        let there = state.services.contains_key(&id) && !shadowed;
                        there.then(|| zone.find(&lower(&format!("{service}.{ns}.ployz.internal."))).unwrap())
                    });
                    prop_assert_eq!(short, full);
                }
            }
        }
    }

    #[test]
    fn every_pointer_leads_back_to_its_address(state in world()) {
        let zone = Zone::of(&state);
        for (name, node) in &zone.nodes {
            let Some(to) = &node.ptr else { continue };
            let back = zone.nodes.get(to).unwrap();
            let addresses = back.a.iter().map(|a| IpAddr::from(*a)).chain(back.aaaa.iter().map(|a| IpAddr::from(*a)));
            prop_assert!(addresses.map(Owner::reverse).any(|reverse| reverse == *name));
        }
        for (id, machine) in &state.machines {
            let reverse = LowerName::new(&Name::from(IpAddr::from(machine.overlay_ip)));
            let expected = Name::from_str(&format!("{id}.machine.ployz.internal.")).unwrap();
            prop_assert_eq!(zone.find(&reverse).unwrap().ptr.as_ref().map(Owner::name), Some(expected));
        }
    }
}

#[test]
fn case_does_not_matter() {
    let zone = Zone::of(&state(&[0].into(), &BTreeSet::new(), &[]));
    assert!(zone.find(&lower("ONE.Machine.PLOYZ.internal.")).is_some());
}

#[test]
fn a_service_without_a_routable_instance_exists() {
    let zone = Zone::of(&state(&BTreeSet::new(), &[0].into(), &[]));
    assert_eq!(zone.find(&lower("web.shop.ployz.internal.")).map(|node| node.a.len()), Some(0));
}
