//! Names of the mesh, asked for over real sockets.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in `#[test]` functions, not in what they share

mod common;

use common::{Running, plain, query, service, start, world};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::{DNSClass, RData, RecordType};
use ployz_core::routing::{Freshness, State};
use ployz_core::wire::v1::sidecar::SidecarStatus;
use ployz_dns::zone::Zone;
use ployz_nats::events::{Snapshot, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn live() -> Running {
    start(&world(), Freshness::Live, &[]).await
}

fn data(message: &Message) -> BTreeSet<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// No data, and the SOA that says for how long.
fn negative(message: &Message, apex: &str) -> bool {
    message.answers.is_empty()
        && matches!(&message.authorities[..], [soa]
            if soa.record_type() == RecordType::SOA && soa.name.to_string() == apex && soa.ttl == 5)
}

#[tokio::test]
async fn a_service_is_all_its_routable_instances_in_turn() {
    let server = live().await;
    let mut first = BTreeSet::new();
    for _ in 0..6 {
        let answer = server.ask("web.shop.ployz.internal.", RecordType::A).await;
        assert_eq!(data(&answer), set(&["10.101.0.3", "10.101.0.4", "10.101.0.5"]));
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        first.insert(answer.answers[0].data.to_string());
    }
    assert_eq!(first.len(), 3, "each is first once in a while");
    server.stop().await;
}

#[tokio::test]
async fn a_short_name_means_the_askers_namespace_and_nothing_to_strangers() {
    let server = live().await;
    for name in ["web.", "web.ployz.internal.", "WEB.Ployz.Internal."] {
        let answer = server.ask_in_shop(name, RecordType::A).await;
        assert_eq!(data(&answer), set(&["10.101.0.3", "10.101.0.4", "10.101.0.5"]), "{name}");
        assert_eq!(answer.answers[0].name.to_string(), name, "spelled as it was asked");
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(code(&answer), ResponseCode::NXDomain, "{name}");
        let no_v6 = server.ask_in_shop(name, RecordType::AAAA).await;
        assert_eq!(code(&no_v6), ResponseCode::NoError, "{name}");
        assert!(no_v6.answers.is_empty() && no_v6.authorities.len() == 1);
    }
    assert_eq!(code(&server.ask_in_shop("b1.", RecordType::A).await), ResponseCode::NXDomain);
    server.stop().await;
}

#[tokio::test]
async fn instances_machines_ports_and_pointers_have_names() {
    let server = live().await;
    let a = |name: &'static str| server.ask(name, RecordType::A);
    assert_eq!(data(&a("w4.instance.web.shop.ployz.internal.").await), set(&["10.101.0.4"]));
    assert_eq!(data(&a("two.machine.ployz.internal.").await), set(&["10.101.1.2"]));
    let v6 = server.ask("two.machine.ployz.internal.", RecordType::AAAA).await;
    assert_eq!(data(&v6), set(&["fda1:2826:9433::17"]));

    let srv = server.ask("_http._tcp.web.shop.ployz.internal.", RecordType::SRV).await;
    assert_eq!(srv.answers.len(), 3);
    assert_eq!(srv.additionals.len(), 3, "with their addresses");
    for (answer, glue) in srv.answers.iter().zip(&srv.additionals) {
        let RData::SRV(data) = &answer.data else { panic!("{answer}") };
        assert_eq!((data.port, &data.target), (8080, &glue.name));
    }
    let ptr = server.ask("4.0.101.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(data(&ptr), set(&["w4.instance.web.shop.ployz.internal."]));
    let ptr = server.ask("2.1.101.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(data(&ptr), set(&["two.machine.ployz.internal."]));
    let reverse = "6.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.3.4.9.6.2.8.2.1.a.d.f.ip6.arpa.";
    let ptr = server.ask(reverse, RecordType::PTR).await;
    assert_eq!(data(&ptr), set(&["one.machine.ployz.internal."]));
    server.stop().await;
}

#[tokio::test]
async fn no_data_and_no_name_are_told_apart() {
    let server = live().await;
    let apex = "ployz.internal.";
    let no_data = [
        ("web.shop.ployz.internal.", RecordType::AAAA),
        ("idle.shop.ployz.internal.", RecordType::A),
        ("_http._tcp.idle.shop.ployz.internal.", RecordType::SRV),
        ("shop.ployz.internal.", RecordType::A),
        ("_tcp.web.shop.ployz.internal.", RecordType::A),
        ("instance.web.shop.ployz.internal.", RecordType::A),
        ("machine.ployz.internal.", RecordType::A),
        ("ployz.internal.", RecordType::A),
        ("_status.ployz.internal.", RecordType::A),
    ];
    for (name, kind) in no_data {
        let answer = server.ask(name, kind).await;
        assert_eq!(code(&answer), ResponseCode::NoError, "{name}");
        assert!(negative(&answer, apex), "{name}: {answer}");
    }
    for name in [
        "no.shop.ployz.internal.",
        "no.ployz.internal.",
        "a.web.shop.ployz.internal.",
        "x.y.z.ployz.internal.",
    ] {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(code(&answer), ResponseCode::NXDomain, "{name}");
        assert!(negative(&answer, apex), "{name}: {answer}");
    }
    let apex = "101.10.in-addr.arpa.";
    for (name, expected) in [
        ("0.101.10.in-addr.arpa.", ResponseCode::NoError),
        ("101.10.in-addr.arpa.", ResponseCode::NoError),
        ("77.0.101.10.in-addr.arpa.", ResponseCode::NXDomain),
        ("1.200.101.10.in-addr.arpa.", ResponseCode::NXDomain),
    ] {
        let answer = server.ask(name, RecordType::PTR).await;
        assert_eq!(code(&answer), expected, "{name}");
        assert!(negative(&answer, apex), "{name}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_zone_has_a_top_and_tells_how_fresh_it_is() {
    let server = live().await;
    let soa = server.ask("ployz.internal.", RecordType::SOA).await;
    let RData::SOA(data) = &soa.answers[0].data else { panic!("{soa}") };
    assert_eq!(
        (data.serial, data.minimum, data.mname.to_string().as_str()),
        (42, 5, "one.machine.ployz.internal.")
    );
    assert_eq!(server.ask("ployz.internal.", RecordType::NS).await.answers.len(), 1);
    assert_eq!(server.ask("101.10.in-addr.arpa.", RecordType::SOA).await.answers.len(), 1);
    let status = server.ask("_status.ployz.internal.", RecordType::TXT).await;
    let RData::TXT(text) = &status.answers[0].data else { panic!("{status}") };
    let texts: Vec<_> = text.txt_data.iter().map(|text| String::from_utf8_lossy(text)).collect();
    let status: SidecarStatus = texts.join(" ").parse().expect("a status that ployzd can read");
    assert_eq!((status.freshness, status.sequence), (Freshness::Live, Some(42)));
    assert_eq!(status.counts.services, Some(world().services.len() as u64));
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_the_right_words() {
    let server = live().await;
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(code(&server.ask("ployz.internal.", kind).await), ResponseCode::Refused);
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&server.send(&chaos, "127.0.0.1").await), ResponseCode::Refused);
    let mut not_recursive = query("example.org.", RecordType::A);
    not_recursive.metadata.recursion_desired = false;
    assert_eq!(code(&server.send(&not_recursive, "127.0.0.1").await), ResponseCode::Refused);
    let any = server.ask("web.shop.ployz.internal.", RecordType::ANY).await;
    assert_eq!(any.answers.iter().map(|r| r.record_type()).collect::<Vec<_>>(), [RecordType::HINFO]);

    let whole = query("web.shop.ployz.internal.", RecordType::A).to_vec().unwrap();
    for opcode in 1..16u8 {
        let mut other = whole.clone();
        other[2] = opcode << 3;
        let answer = server.raw(&other, "127.0.0.1").await.unwrap();
        assert_eq!((answer[3] & 15, answer[2] >> 3 & 15), (4, opcode), "NOTIMP");
    }
    let mut two = whole.clone();
    two[5] = 2;
    assert_eq!(server.raw(&two, "127.0.0.1").await.unwrap()[3] & 15, 1, "FORMERR");
    let cut = &whole[..whole.len() - 14];
    assert_eq!(server.raw(cut, "127.0.0.1").await.unwrap()[3] & 15, 1, "FORMERR");
    server.stop().await;
}

#[tokio::test]
async fn an_edns_version_of_the_future_is_named_bad() {
    let server = live().await;
    let mut message = query("web.shop.ployz.internal.", RecordType::A);
    if let Some(edns) = &mut message.edns {
        edns.set_version(1);
    }
    let answer = server.send(&message, "127.0.0.1").await;
    assert_eq!(u16::from(code(&answer)), 16, "BADVERS; hickory reads BADSIG, which has the same number");
    assert_eq!(answer.edns.unwrap().version(), 0);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_truncated_and_whole_over_tcp() {
    let mut state = world();
    for host in 0..200 {
        let address = std::net::Ipv4Addr::new(10, 101, 1, host + 10);
        common::instance(&mut state, "shop", "many", &format!("m{host}"), address, true);
    }
    let server = start(&state, Freshness::Live, &[]).await;
    let name = "many.shop.ployz.internal.";
    for (message, limit) in [(plain(name, RecordType::A), 512), (query(name, RecordType::A), 1232)] {
        let raw = server.raw(&message.to_vec().unwrap(), "127.0.0.1").await.unwrap();
        assert!(raw.len() <= limit && raw.len() > limit - 20, "{}", raw.len());
        let answer = Message::from_vec(&raw).unwrap();
        assert!(answer.metadata.truncation);
        assert_eq!(answer.edns.is_some(), message.edns.is_some());
        let whole = server.tcp(&message).await;
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    }
    server.stop().await;
}

#[tokio::test]
async fn never_filled_fails_ours_and_last_good_is_served() {
    let server = start(&State::default(), Freshness::Empty, &[]).await;
    for name in ["web.shop.ployz.internal.", "web.", "4.0.101.10.in-addr.arpa."] {
        assert_eq!(code(&server.ask(name, RecordType::A).await), ResponseCode::ServFail, "{name}");
    }
    let status = server.ask("_status.ployz.internal.", RecordType::TXT).await;
    assert!(status.answers[0].data.to_string().contains("freshness=empty"));
    let kept =
        Snapshot { view: Arc::new(Zone::of(&world())), freshness: Freshness::LastGood(7), sequence: 43 };
    server.snapshots.send_replace(Arc::new(kept));
    assert_eq!(server.ask("web.shop.ployz.internal.", RecordType::A).await.answers.len(), 3);
    let status = server.ask("_status.ployz.internal.", RecordType::TXT).await;
    assert!(status.answers[0].data.to_string().contains("freshness=last-good since=7"));
    server.stop().await;
}

#[tokio::test]
async fn a_change_is_answered_from_the_next_query_on() {
    let server = live().await;
    let mut state = world();
    for round in 0..50u8 {
        service(&mut state, "shop", &format!("s{round}"));
        let view = Arc::new(Zone::of(&state));
        server.snapshots.send_replace(Arc::new(Snapshot { view, freshness: Freshness::Live, sequence: 50 }));
        let answer = server.ask(&format!("s{round}.shop.ployz.internal."), RecordType::A).await;
        assert_eq!(code(&answer), ResponseCode::NoError);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_zone_that_is_served_no_more_is_not_kept_by_loops_that_nobody_asks() {
    let server = live().await;
    // Both loops may have a reply of it.
    for _ in 0..20 {
        server.ask("web.shop.ployz.internal.", RecordType::A).await;
    }
    let before = Arc::downgrade(&server.snapshots.borrow().view);
    let view = Arc::new(Zone::of(&State::default()));
    server.snapshots.send_replace(Arc::new(Snapshot { view, freshness: Freshness::Live, sequence: 43 }));
    let until = Instant::now() + Duration::from_secs(10);
    while before.strong_count() > 0 {
        assert!(Instant::now() < until, "{} still hold it", before.strong_count());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn the_same_query_again_is_answered_the_same() {
    let server = live().await;
    let sorted = |message: &Message| {
        let mut records: Vec<_> = message.all_sections().map(ToString::to_string).collect();
        records.sort();
        (message.metadata.response_code, message.metadata.flags().to_string(), records)
    };
    let names = [
        "web.shop.ployz.internal.",
        "Web.",
        "web.",
        "no.",
        "_http._tcp.web.shop.ployz.internal.",
        "two.machine.ployz.internal.",
    ];
    for name in names {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::ANY] {
            for message in [query(name, kind), plain(name, kind)] {
                for from in ["127.0.0.1", "127.0.0.9"] {
                    let first = server.send(&message, from).await;
                    let mut again = message.clone();
                    for id in 1..4 {
                        again.metadata.id = id;
                        assert_eq!(
                            sorted(&server.send(&again, from).await),
                            sorted(&first),
                            "{name} {kind} {from}"
                        );
                    }
                }
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn random_bytes_are_answered_with_an_error_or_not_at_all() {
    let server = live().await;
    let valid = query("web.shop.ployz.internal.", RecordType::A).to_vec().unwrap();
    let at = server.snapshots.borrow().clone();
    let from = "127.0.0.1:9".parse().unwrap();
    let transport = ployz_dns::answer::Transport::Udp;
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..20_000 {
        let mut bytes: Vec<u8> =
            if round % 2 == 0 { (0..random() % 80).map(|_| random() as u8).collect() } else { valid.clone() };
        for _ in 0..random() % 4 {
            let place = random() % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = random() as u8;
            }
        }
        match server.server.answerer.reply(&bytes, from, transport, &at) {
            ployz_dns::answer::Reply::Now(reply) => {
                assert!(reply.len() >= 12 && reply[..2] == bytes[..2] && reply[2] & 0x80 != 0);
            }
            ployz_dns::answer::Reply::Silence => assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
            ployz_dns::answer::Reply::Forward(ask) => assert!(ask.question.len() > 4),
        }
    }
    server.stop().await;
}
