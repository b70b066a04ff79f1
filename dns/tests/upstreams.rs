//! The table of how a resolver may misbehave (`common/strange.rs`): what a client gets and how fast, with that resolver alone and
//! with a good one beside it.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in `#[test]` functions, not in what they share

mod common;
#[path = "common/strange.rs"]
mod strange;

use common::{Running, start};
use futures_util::future::join_all;
use ployz_core::routing::Freshness;
use ployz_dns::forward::Address;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use strange::{Gets, ROWS, Row, Speed, Strange, ask};

async fn with(upstreams: &[SocketAddr]) -> Running {
    start(&Default::default(), Freshness::Live, upstreams).await
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn asked(server: SocketAddr, label: &'static str, kind: u16) -> (Gets, Duration) {
    tokio::task::spawn_blocking(move || ask(server, &format!("{label}.example"), kind)).await.unwrap()
}

/// What is wrong with what came of the row.
async fn tried(row: &Row, good_beside: bool) -> Option<String> {
    let (strange, good) = (Strange::start(anywhere()).unwrap(), Strange::start_good(anywhere()).unwrap());
    let upstreams = [strange.address, good.address];
    let server = with(&upstreams[..1 + usize::from(good_beside)]).await;
    let (wanted, within) = match row.gets {
        Gets::Failure if good_beside => (Gets::Address, Speed::Soon),
        _ => (row.gets, row.within),
    };
    let (got, took) = asked(server.address, row.label, A).await;
    server.stop().await;
    let (label, does, limit) = (row.label, row.does, within.limit());
    (got != wanted || took > limit)
        .then(|| format!("{label} ({does}): {got:?} after {took:?}, not {wanted:?} within {limit:?}"))
}

async fn table(good_beside: bool) {
    let rows = join_all(ROWS.iter().map(|row| tried(row, good_beside))).await;
    let wrong: Vec<_> = rows.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_gets_the_most_that_a_strange_resolver_has_to_give_and_in_time() {
    table(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_a_good_resolver_beside_it_a_client_gets_an_address_soon() {
    table(true).await;
}

#[tokio::test]
async fn that_one_type_does_not_exist_says_nothing_of_another() {
    let strange = Strange::start(anywhere()).unwrap();
    let server = with(&[strange.address]).await;
    for _ in 0..2 {
        assert_eq!(asked(server.address, "aaaa-nxdomain", AAAA).await.0, Gets::NoName);
        assert_eq!(asked(server.address, "aaaa-nxdomain", A).await.0, Gets::Address);
    }
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_must_not_be_kept_is_asked_for_each_time() {
    let strange = Strange::start(anywhere()).unwrap();
    let server = with(&[strange.address]).await;
    for times in 1..4 {
        assert_eq!(asked(server.address, "ttl-0", A).await.0, Gets::Address);
        assert_eq!(strange.heard("ttl-0"), times);
    }
    server.stop().await;
}

#[tokio::test]
async fn that_a_resolver_refuses_edns_is_remembered() {
    let strange = Strange::start(anywhere()).unwrap();
    let server = with(&[strange.address]).await;
    for (kind, heard) in [(A, 2), (AAAA, 3), (TXT, 4)] {
        let (got, _) = asked(server.address, "edns-formerr", kind).await;
        assert!(matches!(got, Gets::Address | Gets::Nothing), "{got:?}");
        assert_eq!(strange.heard("edns-formerr"), heard, "type {kind}");
    }
    server.stop().await;
}

#[tokio::test]
async fn that_edns_is_dropped_on_the_way_is_remembered_after_three_times() {
    let strange = Strange::start(anywhere()).unwrap();
    let server = with(&[strange.address]).await;
    for kind in [A, AAAA, TXT, MX] {
        let before = strange.heard("edns-drop");
        let (got, _) = asked(server.address, "edns-drop", kind).await;
        assert!(matches!(got, Gets::Address | Gets::Nothing), "{got:?}");
        let heard = strange.heard("edns-drop") - before;
        assert!(if kind == MX { heard == 1 } else { heard >= 2 }, "type {kind} was heard {heard} times");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_closed_fails_at_once() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = with(&[closed]).await;
    let (got, took) = asked(server.address, "ok", A).await;
    assert!(got == Gets::Failure && took < Speed::AtOnce.limit(), "{got:?} after {took:?}");
    server.stop().await;
    // UDP that truncates, and nothing at all over TCP.
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = with(&[udp.local_addr().unwrap()]).await;
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            buffer[2] |= 0x82;
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    let (got, took) = asked(server.address, "ok", A).await;
    assert!(got == Gets::Failure && took < Speed::AtOnce.limit(), "{got:?} after {took:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_question_that_comes_back_to_its_asker_ends() {
    // Two servers that forward to each other.
    let server = with(&[]).await;
    let other = with(&[server.address]).await;
    server.server.forwarder.set_upstreams(vec![Address::Net(other.address)]);
    let (got, took) = asked(server.address, "ring", A).await;
    assert!(got == Gets::Failure && took < Speed::AtLast.limit(), "{got:?} after {took:?}");
    let tries = [&server, &other].map(|one| one.server.forwarder.counts.tries.load(Relaxed));
    assert!(tries.iter().all(|tries| *tries <= 6), "{tries:?}");
    server.stop().await;
    other.stop().await;
}

const A: u16 = 1;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
