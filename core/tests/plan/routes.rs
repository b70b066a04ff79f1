//! Sockets: those that routes ask for, and how much of a sidecar is replaced.

use super::node::{self, NS, spec};
use super::{KERNEL, drifted};
use ployz_core::adopt::decide::Parent;
use ployz_core::adopt::sidecar::{Replace, replace, superfluous};
use ployz_core::adopt::{Seen, Verdict};
use ployz_core::live::SidecarLive;
use ployz_core::spec::sidecar::tcp_purpose;
use ployz_core::spec::{Listen, NodeSpec, RouteSockets, SidecarSpec, UnitName};
use proptest::prelude::*;

/// Sockets that routes ask for: none of them is a reason to touch another.
pub(super) fn tcp_rows(row: &mut impl FnMut(&str, String)) {
    row("a TCP route asks for a port", drifted(KERNEL, |spec, _| asked(spec, &[5432], true)));
    row(
        "one that asks for a port is gone, another came",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            asked(spec, &[6379], true);
        }),
    );
    row(
        "routes are as last known: nothing is closed",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432, 6379], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            asked(spec, &[6379], false);
        }),
    );
    row(
        "routes were never known: nothing is closed",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            asked(spec, &[], false);
        }),
    );
    row(
        "somebody else has the port that a TCP route asks for, and another is the gateway's own",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432], true);
            spec.gateway.routes.refused.insert("tcp-80".into(), "is the gateway's own".into());
            present!(live.gateway).refused.insert("tcp-5432".into(), "0.0.0.0:5432 is taken".into());
        }),
    );
    row(
        "the socket of a TCP route was closed by hand",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432, 6379], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            present!(live.gateway).sockets.remove("ployz-gateway-tcp-5432");
        }),
    );
    row(
        "the unit of a port that no route asks for is gone, the process still has its socket",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            present!(live.gateway).sockets.remove("ployz-gateway-tcp-5432");
            asked(spec, &[], true);
        }),
    );
    row(
        "a foreign socket unit with the name of a TCP route",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            let socket = present!(live.gateway).sockets.get_mut("ployz-gateway-tcp-5432");
            socket.unwrap().fingerprint = None;
        }),
    );
}

/// IPv6 beside IPv4, as a gateway from before has it not, or as an address that is given now leaves no place for it.
pub(super) fn family_rows(row: &mut impl FnMut(&str, String)) {
    row(
        "a gateway of IPv4 alone, where both families are to be served",
        drifted(KERNEL, |spec, _| both(spec, &[], false)),
    );
    row(
        "the same with the socket of a TCP route",
        drifted(KERNEL, |spec, live| {
            asked(spec, &[5432], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            both(spec, &[5432], true);
        }),
    );
    row(
        "another program has the port of HTTP over IPv6",
        drifted(KERNEL, |spec, live| {
            both(spec, &[], true);
            present!(live.gateway).refused.insert("http6".into(), "[::]:80 is taken".into());
        }),
    );
    row(
        "gateway_listen_addr was given, routes are as last known",
        drifted(KERNEL, |spec, live| {
            both(spec, &[5432], true);
            live.gateway = Seen::Present(node::served(&spec.gateway));
            asked(spec, &[5432], false);
        }),
    );
    row(
        "the socket of IPv6 takes IPv4 too",
        drifted(KERNEL, |spec, live| {
            both(spec, &[], true);
            let mut other = spec.gateway.clone();
            other.routes.wanted[0].v6_only = false;
            live.gateway = Seen::Present(node::served(&other));
        }),
    );
}

fn both(spec: &mut NodeSpec, ports: &[u16], complete: bool) {
    asked(spec, ports, complete);
    let name = spec.gateway.unit.name.clone();
    let wanted = &mut spec.gateway.routes.wanted;
    wanted.extend(ports.iter().map(|port| RouteSockets::tcp6(&name, *port)));
    wanted.insert(0, RouteSockets::http6(&name, 80));
}

fn asked(spec: &mut NodeSpec, ports: &[u16], complete: bool) {
    let socket = |port: &u16| RouteSockets::tcp(&spec.gateway.unit.name, ([0, 0, 0, 0], *port).into());
    let wanted = ports.iter().map(socket).collect();
    spec.gateway.routes = RouteSockets { wanted, complete, ..RouteSockets::default() };
}

/// What is opened and closed beside what stays.
#[test]
fn sockets_of_routes_come_and_go_while_the_others_stay() {
    let mut whole = spec(KERNEL);
    asked(&mut whole, &[5432, 6379], true);
    let live = node::served(&whole.gateway);
    let asking = |ports: &[u16], complete| {
        let mut spec = spec(KERNEL);
        asked(&mut spec, ports, complete);
        let gateway = spec.gateway;
        (replace(&gateway, Some(&live), Some(NS)), superfluous(&gateway, &live))
    };
    assert_eq!(asking(&[5432, 6379], true), (Replace::Process, vec![]));
    assert_eq!(asking(&[5432, 6379, 25], true), (Replace::Routes, vec![]));
    assert_eq!(asking(&[6379], true), (Replace::Routes, vec!["ployz-gateway-tcp-5432".to_owned()]));
    assert_eq!(asking(&[6379], false), (Replace::Process, vec![]));
    let mut moved = whole.gateway.clone();
    moved.sockets[0].listen = vec![Listen::Stream(([0, 0, 0, 0], 8080).into())];
    assert_eq!(replace(&moved, Some(&live), Some(NS)), Replace::All);
    let mut foreign = live.clone();
    foreign.sockets.get_mut("ployz-gateway-tcp-5432").unwrap().fingerprint = None;
    asked(&mut whole, &[], true);
    assert_eq!(superfluous(&whole.gateway, &foreign), ["ployz-gateway-tcp-6379"], "not ours is never closed");
}

/// IPv6 comes beside what is there, and HTTP's goes when it is not to be there, whatever is known of routes.
#[test]
fn ipv6_comes_and_goes_while_ipv4_stays() {
    let mut with = spec(KERNEL);
    both(&mut with, &[5432], true);
    let mut without = spec(KERNEL);
    asked(&mut without, &[5432], true);
    let four = node::served(&without.gateway);
    assert_eq!(replace(&with.gateway, Some(&four), Some(NS)), Replace::Routes);
    assert_eq!(superfluous(&with.gateway, &four), Vec::<String>::new());
    let live = node::served(&with.gateway);
    let left = |complete| {
        let mut spec = without.clone();
        spec.gateway.routes.complete = complete;
        superfluous(&spec.gateway, &live)
    };
    assert_eq!(left(false), ["ployz-gateway-http6"]);
    assert_eq!(left(true), ["ployz-gateway-http6", "ployz-gateway-tcp6-5432"]);
}

/// Fingerprints of sockets from before IPv6 had its own are what they were.
#[test]
fn fingerprints_of_sockets_stay() {
    let unit = UnitName::GATEWAY;
    let http = node::socket("ployz-gateway", "http", &["0.0.0.0:80"], None);
    let sockets = [
        http,
        RouteSockets::tcp(&unit, ([0, 0, 0, 0], 5432).into()),
        RouteSockets::http6(&unit, 80),
        RouteSockets::tcp6(&unit, 5432),
    ];
    let found: String =
        sockets.iter().map(|s| format!("{} {}\n", s.name, s.identity().fingerprint())).collect();
    super::golden("socket-identity-v1", &found);
}

/// Sockets that stay are connections that are not refused.
#[test]
fn as_little_is_replaced_as_will_do() {
    let whole = spec(KERNEL);
    let found = |change: &dyn Fn(&mut SidecarSpec, &mut SidecarLive)| {
        let mut spec = whole.dns.clone();
        let mut live = node::served(&spec);
        change(&mut spec, &mut live);
        replace(&spec, Some(&live), Some(NS))
    };
    let threads = |spec: &mut SidecarSpec, _: &mut SidecarLive| {
        spec.unit.environment.insert("PLOYZ_DNS_DRAIN_SECONDS".into(), "1".into());
    };
    assert_eq!(found(&threads), Replace::Process);
    assert_eq!(found(&|spec, _| spec.unit.user = None), Replace::All);
    assert_eq!(found(&|spec, _| spec.sockets[0].netns = None), Replace::All);
    assert_eq!(found(&|_, live| live.unit = None), Replace::All);
    assert_eq!(
        found(&|_, live| live.unit.as_mut().unwrap().netns = None),
        Replace::All,
        "whose sockets are where?"
    );
    let live = node::served(&whole.dns);
    assert_eq!(replace(&whole.dns, Some(&live), None), Replace::All, "sockets of a namespace that goes");
    assert_eq!(replace(&whole.dns, None, Some(NS)), Replace::All);
    let gateway = node::served(&whole.gateway);
    assert_eq!(replace(&whole.gateway, Some(&gateway), None), Replace::Process, "the host's sockets stay");
}

proptest! {
    /// Whatever is asked for and whatever is open: after it was done there is nothing left to do, and as long as not all
    /// is known nothing is closed.
    #[test]
    fn sockets_of_routes_settle(
        asked_for in proptest::collection::btree_set(1u16..9, 0..6),
        open in proptest::collection::btree_set(1u16..9, 0..6),
        taken in proptest::collection::btree_set(1u16..9, 0..3),
        complete: bool,
    ) {
        let mut before = spec(KERNEL);
        asked(&mut before, &open.iter().copied().collect::<Vec<_>>(), true);
        let mut live = node::served(&before.gateway);
        let mut spec = spec(KERNEL);
        asked(&mut spec, &asked_for.iter().copied().collect::<Vec<_>>(), complete);
        for port in taken.difference(&open) {
            live.refused.insert(tcp_purpose(*port), "is taken".into());
        }
        for name in superfluous(&spec.gateway, &live) {
            let purpose = name.strip_prefix("ployz-gateway-").unwrap().to_owned();
            prop_assert!(complete && !spec.gateway.routes.wanted.iter().any(|want| want.name == name));
            live.sockets.remove(&name);
            live.given.as_mut().unwrap().remove(&purpose);
        }
        for socket in &spec.gateway.routes.wanted {
            if !live.refused.contains_key(&socket.purpose) {
                node::open(&mut live, socket);
            }
        }
        let verdict = ployz_core::adopt::sidecar::verdict(&spec.gateway, &live, Parent::Stays(NS));
        prop_assert_eq!(verdict, Verdict::Adopt);
        prop_assert_eq!(replace(&spec.gateway, Some(&live), Some(NS)), Replace::Process);
        if !complete {
            let open = open.iter().map(|port| format!("ployz-gateway-{}", tcp_purpose(*port)));
            let left: Vec<_> = open.filter(|name| !live.sockets.contains_key(name)).collect();
            prop_assert!(left.is_empty(), "closed: {:?}", left);
        }
    }
}
