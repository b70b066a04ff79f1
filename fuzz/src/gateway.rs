//! A request's route: host and path have one spelling, and the table finds what reading all routes one by one finds.

use ployz_core::routing::{HttpRoute, ServiceRef, ServiceRoute, State};
use ployz_gateway::host::{Host, routed_path};
use ployz_gateway::table::Table;
use ployz_nats::events::View;

/// Lines: the host of a request, its path, and the routes, each a host and a path.
pub fn route(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (Some(host), Some(path)) = (lines.next(), lines.next()) else { return };
    let Ok(host) = Host::parse(host) else { return };
    let again = Host::parse(host.as_str().as_bytes()).expect("what was read is a host");
    assert_eq!(again.as_str(), host.as_str());
    assert!(!host.as_str().bytes().any(|byte| byte.is_ascii_uppercase()));
    let Some(path) = std::str::from_utf8(path).ok().filter(|path| path.starts_with('/')) else { return };
    let routed = routed_path(path);
    assert!(routed.starts_with('/'), "{routed}");
    assert_eq!(routed_path(&routed), routed, "a spelling that has another");
    for segment in routed.split('/') {
        let bare = segment.split(';').next().unwrap_or_default();
        assert!(bare != "." && bare != "..", "{path} is routed as {routed}");
    }
    let routes: Vec<(&str, &str)> =
        lines.filter_map(|line| std::str::from_utf8(line).ok()?.split_once(' ')).take(MOST).collect();
    let table = Table::of(&state(&routes));
    let found = table.find(&host, path).map(|id| table.route(id).expect("found here").label.to_string());
    assert_eq!(found, expected(&host, &routed, &routes), "{} {path}", host.as_str());
}

/// One by one: exact before `*.` before `*`, the longest prefix of whole segments, the first of equals.
fn expected(host: &Host, path: &str, routes: &[(&str, &str)]) -> Option<String> {
    let name = |text: &str| Host::parse(text.as_bytes()).ok().map(|host| host.as_str().to_owned());
    let exact = |wanted: &str| {
        wanted != "*" && name(wanted).is_some_and(|name| !name.is_empty() && name == host.as_str())
    };
    let below = |wanted: &str| {
        let parent = wanted.strip_prefix("*.").and_then(name);
        parent.is_some_and(|parent| !parent.is_empty() && Some(parent.as_str()) == host.parent())
    };
    let every = |wanted: &str| wanted == "*";
    let kinds: [&dyn Fn(&str) -> bool; 3] = [&exact, &below, &every];
    kinds.into_iter().find_map(|fits| {
        let mut best: Option<(&str, &str)> = None;
        for (wanted, prefix) in routes.iter().filter(|(wanted, _)| fits(wanted)) {
            let prefix = prefix.trim_end_matches('/');
            let within =
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if (prefix.is_empty() || within) && best.is_none_or(|(_, best)| best.len() < prefix.len()) {
                best = Some((wanted, prefix));
            }
        }
        best.map(|(wanted, prefix)| format!("{wanted}{}", if prefix.is_empty() { "/" } else { prefix }))
    })
}

/// Services in the order of their names, so that the first route is the first.
fn state(routes: &[(&str, &str)]) -> State {
    let mut state = State::default();
    for (index, (host, path)) in routes.iter().enumerate() {
        let service = format!("s{index:02}").parse().expect("a name");
        let id = ServiceRef { namespace: "shop".parse().expect("a name"), service };
        let route = HttpRoute {
            host: (*host).to_owned(),
            path: (*path).to_owned(),
            port: 80,
            https_only: false,
            timeout_secs: None,
            max_body: None,
            rate_limit: None,
        };
        let wanted = ServiceRoute {
            deploy: "0123456789abcdef".parse().expect("an id"),
            revision: "r".to_owned(),
            instances: [].into(),
            ports: Vec::new(),
            http: vec![route],
            tcp: Vec::new(),
        };
        state.services.insert(id, wanted);
    }
    state
}

/// Two digits' worth, so that names sort as they are counted.
const MOST: usize = 100;
