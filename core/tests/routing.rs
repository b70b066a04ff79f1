//! The fold of routing events against a stream, a subscription and a network that loses, repeats and reorders: whatever
//! happens, a follower that rebuilds when it is told to ends where one that starts now ends.

#![allow(clippy::unwrap_used)]

use ployz_core::id::{DeployId, MachineId};
use ployz_core::routing::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

/// Keeps the last message of every subject, as the real one does; tombstones included, until they expire.
#[derive(Default)]
struct Stream {
    sequence: u64,
    last: BTreeMap<String, (u64, Vec<u8>)>,
    /// The state after every sequence.
    history: Vec<State>,
}

/// What one subscription was sent and what is still on its way.
#[derive(Default)]
struct Subscription {
    sent: u64,
    way: VecDeque<(u64, u64, String, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Op {
    Write(String, Vec<u8>),
    /// Tombstones expire; nobody is told.
    Expire,
    Deliver(usize),
    Lose,
    Repeat,
    Swap,
    Heartbeat,
    /// The server or the follower starts again.
    Restart,
}

struct Follower {
    fold: Fold,
    subscription: Subscription,
    rebuilds: u32,
    /// Where the stream was when it subscribed: from there on every state it has is one the stream had.
    since: u64,
}

impl Stream {
    fn write(&mut self, subject: String, payload: Vec<u8>) -> (u64, String, Vec<u8>) {
        self.sequence += 1;
        self.last.insert(subject.clone(), (self.sequence, payload.clone()));
        let mut state = self.history.last().cloned().unwrap_or_default();
        event(&subject, &payload).map(|event| state.apply(event));
        self.history.push(state);
        (self.sequence, subject, payload)
    }

    fn state(&self) -> State {
        self.history.last().cloned().unwrap_or_default()
    }
}

impl Subscription {
    fn to(stream: &Stream) -> Self {
        let mut subscription = Self::default();
        let mut kept: Vec<_> = stream.last.iter().collect();
        kept.sort_by_key(|(_, (sequence, _))| *sequence);
        for (subject, (sequence, payload)) in kept {
            subscription.send(*sequence, subject.clone(), payload.clone());
        }
        subscription
    }

    fn send(&mut self, sequence: u64, subject: String, payload: Vec<u8>) {
        self.sent += 1;
        self.way.push_back((self.sent, sequence, subject, payload));
    }
}

impl Follower {
    fn of(stream: &Stream) -> Self {
        let subscription = Subscription::to(stream);
        Self { fold: Fold::default(), subscription, rebuilds: 0, since: stream.sequence }
    }

    fn rebuild(&mut self, stream: &Stream) {
        let rebuilds = self.rebuilds + 1;
        *self = Self { rebuilds, ..Self::of(stream) };
    }

    fn deliver(&mut self, stream: &Stream) {
        let Some((delivery, sequence, subject, payload)) = self.subscription.way.pop_front() else { return };
        if self.fold.take(delivery, sequence, event(&subject, &payload)) == Applied::Gap {
            self.rebuild(stream);
        }
    }

    fn heartbeat(&mut self, stream: &Stream) {
        // A count overtakes nothing: what was sent before it has come by now or never will.
        while !self.subscription.way.is_empty() {
            self.deliver(stream);
        }
        if self.fold.heard(self.subscription.sent) == Applied::Gap {
            self.rebuild(stream);
        }
    }
}

fn event(subject: &str, payload: &[u8]) -> Option<Event> {
    Event::parse(subject, payload).map_or_else(|said| said.event(), Some)
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("c-1".to_owned())]
}

fn key() -> impl Strategy<Value = Key> {
    let text = prop_oneof![
        label().prop_map(|m| format!("machine.{m}")),
        (label(), label()).prop_map(|(n, s)| format!("service.{n}.{s}")),
        (label(), label(), label(), label()).prop_map(|(m, n, s, i)| format!("instance.{m}.{n}.{s}.{i}")),
    ];
    text.prop_map(|text| text.parse().unwrap())
}

fn value(key: &Key, n: u8) -> Value {
    let deploy = DeployId::from_bytes([n; 8]);
    match key {
        Key::Machine(_) => Value::Machine(MachineRoute {
            overlay_ip: format!("fd00::{n:x}").parse().unwrap(),
            subnet: serde_json::from_str(&format!("\"10.101.{n}.0/24\"")).unwrap(),
        }),
        Key::Service(_) => Value::Service(ServiceRoute {
            deploy,
            revision: format!("r{n}"),
            instances: ["a", "b"].map(|id| id.parse().unwrap()).into(),
            ports: Vec::new(),
            http: Vec::new(),
            tcp: Vec::new(),
        }),
        Key::Instance(..) => Value::Instance(InstanceRoute {
            address: [10, 101, 1, n].into(),
            revision: format!("r{n}"),
            deploy,
            slot: u32::from(n),
            ready: n.is_multiple_of(2),
            draining: n.is_multiple_of(3),
        }),
    }
}

/// Mostly what the contract allows; now and then another key's value, damage, or a subject that is no key.
fn write() -> impl Strategy<Value = Op> {
    (key(), key(), 0u8..6, 0u8..20).prop_map(|(key, other, n, kind)| {
        let json = |key: &Key| serde_json::to_vec(&value(key, n)).unwrap();
        match kind {
            0..5 => Op::Write(key.to_string(), Vec::new()),
            5 => Op::Write(key.to_string(), b"{\"kind\":".to_vec()),
            6 => Op::Write("no-key".into(), json(&key)),
            7 => Op::Write(key.to_string(), json(&other)),
            _ => Op::Write(key.to_string(), json(&key)),
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => write(),
        8 => (1usize..6).prop_map(Op::Deliver),
        1 => Just(Op::Expire),
        1 => Just(Op::Lose),
        1 => Just(Op::Repeat),
        1 => Just(Op::Swap),
        1 => Just(Op::Heartbeat),
        1 => Just(Op::Restart),
    ]
}

fn run(op: Op, stream: &mut Stream, follower: &mut Follower) {
    let way = &mut follower.subscription.way;
    match op {
        Op::Write(subject, payload) => {
            let (sequence, subject, payload) = stream.write(subject, payload);
            follower.subscription.send(sequence, subject, payload);
        }
        Op::Expire => stream.last.retain(|_, (_, payload)| !payload.is_empty()),
        Op::Deliver(n) => (0..n).for_each(|_| follower.deliver(stream)),
        Op::Lose => drop(way.pop_front()),
        Op::Repeat => {
            if let Some(first) = way.front().cloned() {
                way.push_back(first.clone());
                way.push_front(first);
            }
        }
        Op::Swap if way.len() > 1 => way.swap(0, 1),
        Op::Swap => {}
        Op::Heartbeat => follower.heartbeat(stream),
        Op::Restart => follower.rebuild(stream),
    }
}

fn assert_is_a_state_the_stream_had(stream: &Stream, follower: &Follower) {
    let at = follower.fold.sequence();
    if at > follower.since {
        let then = &stream.history[usize::try_from(at).unwrap() - 1];
        assert_eq!(follower.fold.state(), then, "at {at}");
    }
}

proptest! {
    #[test]
    fn a_follower_ends_equal_to_a_fresh_rebuild(ops in prop::collection::vec(op(), 0..120)) {
        let mut stream = Stream::default();
        let mut follower = Follower::of(&stream);
        for op in ops {
            run(op, &mut stream, &mut follower);
            assert_is_a_state_the_stream_had(&stream, &follower);
        }
        // Rest: two counts reach it, the second one after a rebuild that the first may have asked for.
        follower.heartbeat(&stream);
        follower.heartbeat(&stream);
        let mut fresh = Follower::of(&stream);
        fresh.heartbeat(&stream);
        prop_assert_eq!(fresh.rebuilds, 0);
        prop_assert_eq!(follower.fold.state(), fresh.fold.state());
        prop_assert_eq!(fresh.fold.state(), &stream.state());
    }

    #[test]
    fn without_faults_nothing_is_rebuilt(writes in prop::collection::vec(write(), 0..60)) {
        let mut stream = Stream::default();
        let mut follower = Follower::of(&stream);
        for op in writes {
            run(op, &mut stream, &mut follower);
            follower.deliver(&stream);
        }
        follower.heartbeat(&stream);
        prop_assert_eq!(follower.rebuilds, 0);
        prop_assert_eq!(follower.fold.state(), &stream.state());
    }

    #[test]
    fn a_state_is_made_again_from_its_events(writes in prop::collection::vec(write(), 0..60)) {
        let mut stream = Stream::default();
        for op in writes {
            if let Op::Write(subject, payload) = op {
                stream.write(subject, payload);
            }
        }
        let mut again = State::default();
        let state = stream.state();
        state.events().for_each(|event| assert!(again.apply(event)));
        prop_assert_eq!(again, state);
    }

    #[test]
    fn keys_are_read_as_they_are_written(
        kind in 0u8..3,
        labels in prop::collection::vec("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", 4),
    ) {
        let service = ServiceRef { namespace: labels[1].parse().unwrap(), service: labels[2].parse().unwrap() };
        let machine: MachineId = labels[0].parse().unwrap();
        let key = match kind {
            0 => Key::Machine(machine),
            1 => Key::Service(service),
            _ => Key::Instance(machine, service, labels[3].parse().unwrap()),
        };
        prop_assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
    }

    #[test]
    fn whatever_is_in_the_stream_is_read_or_refused(key in ".{0,40}", payload in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Event::parse(&key, &payload);
        let _ = Event::parse("service.a.b", &payload);
    }

    #[test]
    fn values_are_read_as_they_are_written(key in key(), n in 0u8..6) {
        let value = value(&key, n);
        let event = Event::parse(&key.to_string(), &serde_json::to_vec(&value).unwrap()).unwrap();
        prop_assert_eq!(event, Event { key, value: Some(value) });
    }
}

/// Others read these texts for years: fields may be added, what stands here stays.
#[test]
fn the_wire_texts_stay() {
    let text = |key: &str| serde_json::to_string(&value(&key.parse().unwrap(), 2)).unwrap();
    assert_eq!(text("machine.a"), r#"{"kind":"machine","overlay_ip":"fd00::2","subnet":"10.101.2.0/24"}"#);
    assert_eq!(
        text("instance.a.b.c.d"),
        r#"{"kind":"instance","address":"10.101.1.2","revision":"r2","deploy":"0202020202020202","slot":2,"ready":true,"draining":false}"#
    );
    let full = Value::Service(ServiceRoute {
        deploy: DeployId::from_bytes([1; 8]),
        revision: "r1".into(),
        instances: ["web-1".parse().unwrap()].into(),
        ports: vec![ServicePort { name: "http".into(), port: 8080, protocol: "tcp".into() }],
        http: vec![HttpRoute {
            host: "*.example.org".into(),
            path: "/".into(),
            port: 8080,
            https_only: true,
            timeout_secs: Some(30),
            max_body: Some(1 << 20),
            rate_limit: Some(100),
        }],
        tcp: vec![TcpRoute { listen: 5432, port: 5432 }],
    });
    let golden = concat!(
        r#"{"kind":"service","deploy":"0101010101010101","revision":"r1","instances":["web-1"],"#,
        r#""ports":[{"name":"http","port":8080,"protocol":"tcp"}],"#,
        r#""http":[{"host":"*.example.org","path":"/","port":8080,"https_only":true,"timeout_secs":30,"#,
        r#""max_body":1048576,"rate_limit":100}],"tcp":[{"listen":5432,"port":5432}]}"#
    );
    assert_eq!(serde_json::to_string(&full).unwrap(), golden);
    let least = r#"{"kind":"service","deploy":"0101010101010101","revision":"r1","instances":[],"http":[{"host":"a","port":1}]}"#;
    let Value::Service(read) = serde_json::from_str(least).unwrap() else { panic!() };
    assert_eq!(read.http[0].path, "/");
}
