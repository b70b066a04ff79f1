//! The table against a naive reading of its rules, and how fast it is built.

use super::*;
use ployz_core::id::{DeployId, InstanceId, MachineId};
use ployz_core::routing::{InstanceRoute, ServiceRoute, TcpRoute};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Instant;

fn service(name: &str) -> ServiceRef {
    ServiceRef { namespace: "shop".parse().unwrap(), service: name.parse().unwrap() }
}

fn http(host: &str, path: &str) -> HttpRoute {
    HttpRoute {
        host: host.into(),
        path: path.into(),
        port: 8080,
        https_only: false,
        timeout_secs: None,
        max_body: None,
        rate_limit: None,
    }
}

fn put(state: &mut State, name: &str, routes: Vec<HttpRoute>, tcp: Vec<TcpRoute>) {
    let number = state.services.len() as u32;
    let instance: InstanceId = format!("{name}-0").parse().unwrap();
    let deploy = DeployId::from_bytes([7; 8]);
    let wanted = ServiceRoute {
        deploy: deploy.clone(),
        revision: "r1".into(),
        instances: BTreeSet::from([instance.clone()]),
        ports: vec![],
        http: routes,
        tcp,
    };
    let running = InstanceRoute {
        address: Ipv4Addr::from(0x0a65_0003 + number),
        revision: "r1".into(),
        deploy,
        slot: 0,
        ready: true,
        draining: false,
    };
    let machine: MachineId = "node-1".parse().unwrap();
    state.services.insert(service(name), wanted);
    state.instances.entry(service(name)).or_default().insert((instance, machine), running);
}

fn found<'t>(table: &'t Table, host: &str, path: &str) -> Option<&'t str> {
    let host = Host::parse(host.as_bytes()).unwrap();
    table.find(&host, path).and_then(|id| Some(&*table.route(id)?.label))
}

#[test]
fn longest_path_of_whole_segments_wins() {
    let mut state = State::default();
    put(
        &mut state,
        "web",
        vec![http("a.org", "/"), http("a.org", "/api"), http("a.org", "/api/v2/")],
        vec![],
    );
    let table = Table::of(&state);
    for (path, label) in [
        ("/", "a.org/"),
        ("/apix", "a.org/"),
        ("/api", "a.org/api"),
        ("/api/", "a.org/api"),
        ("/api/v2", "a.org/api/v2"),
        ("/api/v2/x/y", "a.org/api/v2"),
        ("/api/v20", "a.org/api"),
        ("/x/../api", "a.org/api"),
        ("/api/%2e%2e/x", "a.org/"),
        ("*", "a.org/"),
    ] {
        assert_eq!(found(&table, "a.org", path), Some(label), "{path}");
    }
}

#[test]
fn exact_host_wins_over_wildcard_and_that_over_every() {
    let mut state = State::default();
    let routes = vec![
        http("a.org", "/only"),
        http("*.org", "/"),
        http("*", "/"),
        http("*.b.org", "/"),
        http("[fd00::1]", "/"),
    ];
    put(&mut state, "web", routes, vec![]);
    let table = Table::of(&state);
    for (host, path, label) in [
        ("A.org.:80", "/only", "a.org/only"),
        ("a.org", "/", "*.org/"),
        ("x.b.org", "/", "*.b.org/"),
        ("y.x.b.org", "/", "*/"),
        ("[FD00:0::1]:443", "/", "[fd00::1]/"),
        ("", "/", "*/"),
    ] {
        assert_eq!(found(&table, host, path), Some(label), "{host}{path}");
    }
}

#[test]
fn service_without_routable_instance_keeps_its_route_and_has_no_backend() {
    let mut state = State::default();
    put(&mut state, "web", vec![http("a.org", "/")], vec![]);
    for running in state.instances.values_mut().flat_map(|running| running.values_mut()) {
        running.draining = true;
    }
    let table = Table::of(&state);
    assert_eq!(found(&table, "a.org", "/"), Some("a.org/"));
    assert!(table.routes()[0].backends.is_empty());
}

#[test]
fn first_service_keeps_a_route_that_two_claim() {
    let mut state = State::default();
    let tcp = || vec![TcpRoute { listen: 5432, port: 5432 }];
    put(&mut state, "b", vec![http("a.org", "/")], tcp());
    put(&mut state, "a", vec![http("a.org", "/")], tcp());
    let table = Table::of(&state);
    assert_eq!(table.routes().len(), 2);
    assert!(table.routes().iter().all(|route| route.service == service("a")));
    assert_eq!(table.route(table.find_tcp(5432).unwrap()).unwrap().backends.len(), 1);
}

#[test]
fn thousand_routes_are_built_at_once() {
    let mut state = State::default();
    for number in 0..1_000 {
        put(&mut state, &format!("s{number}"), vec![http(&format!("h{number}.example.org"), "/")], vec![]);
    }
    let best = (0..5).map(|_| {
        let start = Instant::now();
        let table = Table::of(&state);
        assert_eq!(table.routes().len(), 1_000);
        start.elapsed()
    });
    // A guard against growth with the square, not a measurement.
    assert!(best.min().unwrap() < Duration::from_secs(1));
}

/// The rules as one would say them: of the routes that fit, the best host, then the longest path.
fn naive<'r>(routes: &'r [HttpRoute], host: &str, path: &str) -> Option<&'r HttpRoute> {
    let rank = |route: &HttpRoute| match route.host.strip_prefix("*.") {
        _ if route.host == "*" => Some(1),
        Some(parent) => (host.split_once('.').map(|(_, rest)| rest) == Some(parent)).then_some(2),
        None => (route.host == host).then_some(3),
    };
    let fits = |route: &HttpRoute| {
        let prefix: Vec<&str> = route.path.split('/').filter(|s| !s.is_empty()).collect();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        segments.starts_with(&prefix).then_some(prefix.len())
    };
    let ranked = routes.iter().filter_map(|route| Some(((rank(route)?, fits(route)?), route)));
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, route)| route)
}

proptest! {
    #[test]
    fn match_is_that_of_the_naive_reading(
        hosts in proptest::collection::vec(("(\\*|(\\*\\.)?[ab](\\.[ab]){0,2})", "(/[ab]{1,2}){0,3}"), 0..12),
        host in "[ab](\\.[ab]){0,3}",
        path in "(/[ab]{1,2}){0,4}/?",
    ) {
        let mut routes: Vec<HttpRoute> = Vec::new();
        for (host, path) in hosts {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            if !routes.iter().any(|route| route.host == host && route.path == path) {
                routes.push(http(&host, &path));
            }
        }
        let mut state = State::default();
        put(&mut state, "web", routes.clone(), vec![]);
        let table = Table::of(&state);
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let wanted = naive(&routes, &host, &path).map(|route| format!("{}{}", route.host, route.path));
        prop_assert_eq!(found(&table, &host, &path).map(str::to_owned), wanted);
    }

    #[test]
    fn any_path_is_matched_or_not_but_never_panics(path in "\\PC{0,60}") {
        let mut state = State::default();
        put(&mut state, "web", vec![http("a.org", "/api"), http("a.org", "/é/x")], vec![]);
        let _ = found(&Table::of(&state), "a.org", &path);
    }
}
