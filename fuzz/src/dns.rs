//! The DNS server says something well-formed within the asker's limit, or nothing; and passes on only what is whole.

use ployz_core::address::AddressPlan;
use ployz_core::routing::{
    Freshness, InstanceRoute, MachineRoute, ServicePort, ServiceRef, ServiceRoute, State,
};
use ployz_dns::answer::{Answerer, Ask, Reply, Transport};
use ployz_dns::forward::Entry;
use ployz_dns::realm::Realm;
use ployz_dns::wire::{self, flag};
use ployz_dns::zone::Zone;
use ployz_nats::events::{Snapshot, View};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// The first octet says how the query comes: over UDP or TCP, from a container of `shop` or from elsewhere.
pub fn query(data: &[u8]) {
    let [how, packet @ ..] = data else { return };
    let transport = if how & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let from = SocketAddr::from((Ipv4Addr::new(10, 101, 0, if how & 2 == 0 { 3 } else { 1 }), 5353));
    let (answerer, at) = &*WORLD;
    match answerer.reply(packet, from, transport, at) {
        Reply::Silence => {
            assert!(packet.len() < wire::HEADER || wire::word(packet, 2).is_ok_and(|it| it & flag::QR != 0));
        }
        Reply::Now(reply) => {
            assert_eq!(reply[..2], packet[..2], "the id");
            let plain = wire::word(packet, 10) == Ok(0);
            let limit = match transport {
                Transport::Tcp => usize::from(u16::MAX),
                Transport::Udp if plain => wire::UDP_PLAIN,
                Transport::Udp => usize::from(wire::UDP_PAYLOAD),
            };
            assert!(reply.len() <= limit, "{} octets", reply.len());
            well_formed(&reply);
        }
        Reply::Forward(ask) => {
            let question = &packet[wire::HEADER..wire::HEADER + ask.question.len()];
            assert_eq!(ask.question, question);
            let now = Instant::now();
            let reply = Entry::failure(&ask.question.to_ascii_lowercase(), now).reply(&ask, now);
            assert!(reply.len() <= ask.limit);
            well_formed(&reply);
            assert_eq!(&reply[wire::HEADER..wire::HEADER + question.len()], question);
        }
    }
}

/// The answer to one question, whose id and question are put right so that what follows them is reached.
pub fn response(data: &[u8]) {
    let mut message = data.to_vec();
    let end = wire::HEADER + QUESTION.len();
    if message.len() >= end {
        wire::put(&mut message, 0, ID);
        wire::put(&mut message, 4, 1);
        let flags = wire::word(&message, 2).unwrap_or(0);
        wire::put(&mut message, 2, (flags | flag::QR) & !0x7800);
        message[wire::HEADER..end].copy_from_slice(QUESTION);
    }
    let Ok(found) = wire::response(&message, ID, QUESTION) else { return };
    if found.truncated {
        return;
    }
    let now = Instant::now();
    let entry = Entry::new(found, now);
    for (limit, edns) in [(wire::UDP_PLAIN, None), (1232, Some(true)), (usize::from(u16::MAX), Some(false))] {
        for later in [0, 5, 100_000] {
            let ask = Ask { id: 9, flags: flag::RD, question: QUESTION.to_vec(), edns, limit };
            let reply = entry.reply(&ask, now + Duration::from_secs(later));
            assert!(reply.len() <= limit, "{} octets, not {limit}", reply.len());
            well_formed(&reply);
        }
    }
}

/// A response all of whose counted records are there, and nothing behind them.
fn well_formed(reply: &[u8]) {
    let word = |at| wire::word(reply, at).expect("a field of a reply");
    assert!(word(2) & flag::QR != 0);
    let mut at = match word(4) {
        0 => wire::HEADER,
        1 => wire::question_end(reply).expect("a question"),
        other => panic!("{other} questions"),
    };
    for _ in 0..u32::from(word(6)) + u32::from(word(8)) + u32::from(word(10)) {
        at = wire::skip_name(reply, at).expect("a record's name");
        at += 10 + usize::from(word(at + 8));
    }
    assert_eq!(at, reply.len(), "octets that are counted and octets that are there");
}

static WORLD: LazyLock<(Answerer, Snapshot<Zone>)> = LazyLock::new(|| {
    let overlay = "fda1:2826:9433::/48".parse().expect("a prefix");
    let realm = Realm::new("10.101.0.0/16".parse().expect("a prefix"), overlay);
    let answerer = Answerer::new(realm, &"one".parse().expect("a name"));
    let view = Arc::new(Zone::of(&state()));
    (answerer, Snapshot { view, freshness: Freshness::Live, sequence: 42 })
});

/// One machine; `web.shop` with as many instances as make a plain reply too large.
fn state() -> State {
    let mut state = State::default();
    let plan = AddressPlan::new("10.101.0.0/16".parse().expect("a prefix"), 24).expect("a plan");
    let overlay_ip = "fda1:2826:9433::10".parse().expect("an address");
    let subnet = plan.slice(0).expect("a slice");
    state.machines.insert("one".parse().expect("a name"), MachineRoute { overlay_ip, subnet });
    let id =
        ServiceRef { namespace: "shop".parse().expect("a name"), service: "web".parse().expect("a name") };
    let deploy: ployz_core::id::DeployId = "0123456789abcdef".parse().expect("an id");
    let mut instances = std::collections::BTreeSet::new();
    for host in 3..43 {
        let instance: ployz_core::id::InstanceId = format!("w{host}").parse().expect("a name");
        instances.insert(instance.clone());
        let route = InstanceRoute {
            address: Ipv4Addr::new(10, 101, 0, host),
            revision: "r".to_owned(),
            deploy: deploy.clone(),
            slot: u32::from(host),
            ready: true,
            draining: false,
        };
        let key = (instance, "one".parse().expect("a name"));
        state.instances.entry(id.clone()).or_default().insert(key, route);
    }
    let ports = vec![ServicePort { name: "http".to_owned(), port: 80, protocol: "tcp".to_owned() }];
    let revision = "r".to_owned();
    let route = ServiceRoute { deploy, revision, instances, ports, http: Vec::new(), tcp: Vec::new() };
    state.services.insert(id, route);
    state
}

const ID: u16 = 7;
const QUESTION: &[u8] = b"\x01a\x04test\x00\x00\x01\x00\x01";
