//! Names of others, with an upstream that drops, delays, truncates and lies.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in `#[test]` functions, not in what they share

mod common;

use common::{Running, TEST_TIMEOUT, plain, query, read_framed, send_framed, start, world};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use ployz_core::routing::Freshness;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

/// What the fake resolver does; by the first label of the name.
///
/// `ok`: answers. `drop`: the first two queries are not heard. `slow`: never answers on its first socket. `big`: truncated
/// over UDP. `lie`: three wrong answers before the right one. `late`: waits. `fail`: SERVFAIL. `nx`, `none`: negative.
/// `old`: does not know EDNS; `older`: and says so with nothing but a header. `short`: lives a second. `mute`: never answers.
struct Upstream {
    address: SocketAddr,
    heard: Arc<Mutex<BTreeMap<String, usize>>>,
    gone: tokio::sync::watch::Sender<bool>,
}

impl Upstream {
    async fn start() -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let (udp, heard) = (Arc::new(udp), Arc::new(Mutex::new(BTreeMap::new())));
        let (gone, silent) = tokio::sync::watch::channel(false);
        let counts = heard.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                if *silent.borrow() {
                    continue;
                }
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let (udp, counts) = (udp.clone(), counts.clone());
                tokio::spawn(async move {
                    for answer in over_udp(&asked, &counts).await {
                        let _ = udp.send_to(&answer, from).await;
                    }
                });
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let asked = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
                send_framed(&mut stream, &answer(&asked, 300, 100).to_vec().unwrap()).await;
            }
        });
        Self { address, heard, gone }
    }

    fn heard(&self, name: &str) -> usize {
        self.heard.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

async fn over_udp(asked: &Message, counts: &Mutex<BTreeMap<String, usize>>) -> Vec<Vec<u8>> {
    let name = asked.queries[0].name().to_string().to_ascii_lowercase();
    let times = {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        *count
    };
    let good = answer(asked, 300, 1);
    let bytes = |message: &Message| message.to_vec().unwrap();
    let code = |code: ResponseCode| {
        let mut message = answer(asked, 300, 0);
        message.metadata.response_code = code;
        message
    };
    match name.split(['.', '-']).next().unwrap() {
        "drop" if times < 3 => vec![],
        "mute" => vec![],
        "big" => {
            let mut cut = answer(asked, 300, 0);
            cut.metadata.truncation = true;
            vec![bytes(&cut)]
        }
        "lie" => {
            let (mut id, mut name, mut kind) = (good.clone(), good.clone(), good.clone());
            id.metadata.id ^= 1;
            name.queries[0].set_name(Name::from_ascii("evil.example.").unwrap());
            kind.metadata.message_type = hickory_server::proto::op::MessageType::Query;
            vec![b"nonsense".to_vec(), bytes(&id), bytes(&name), bytes(&kind), bytes(&good)]
        }
        "late" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            vec![bytes(&good)]
        }
        "fail" => vec![bytes(&code(ResponseCode::ServFail))],
        "old" if asked.edns.is_some() => vec![bytes(&code(ResponseCode::FormErr))],
        "older" if asked.edns.is_some() => {
            let mut header = bytes(&code(ResponseCode::NotImp));
            header.truncate(12);
            header[4..].fill(0);
            vec![header]
        }
        "nx" | "none" => {
            let mut message = code(ResponseCode::NXDomain);
            if name.starts_with("none") {
                message.metadata.response_code = ResponseCode::NoError;
            }
            let soa = hickory_server::proto::rr::rdata::SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 60);
            message.add_authority(Record::from_rdata(
                Name::from_ascii("example.").unwrap(),
                60,
                RData::SOA(soa),
            ));
            vec![bytes(&message)]
        }
        "short" => vec![bytes(&answer(asked, 1, 1))],
        _ => vec![bytes(&good)],
    }
}

fn answer(asked: &Message, ttl: u32, count: u8) -> Message {
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(asked.queries[0].clone());
    for last in 0..count {
        let address = Ipv4Addr::new(192, 0, 2, last);
        let name = asked.queries[0].name().clone();
        message.add_answer(Record::from_rdata(name, ttl, RData::A(address.into())));
    }
    message.edns = asked.edns.clone();
    message
}

async fn with_upstream() -> (Running, Upstream) {
    let upstream = Upstream::start().await;
    (start(&world(), Freshness::Live, &[upstream.address]).await, upstream)
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[tokio::test]
async fn an_answer_is_passed_on_and_kept() {
    let (server, upstream) = with_upstream().await;
    for _ in 0..3 {
        let answer = server.ask("Ok.Example.", RecordType::A).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 1));
        assert_eq!(answer.queries[0].name().to_string(), "Ok.Example.");
        assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
        assert!(answer.edns.is_some());
    }
    assert!(server.send(&plain("ok.example.", RecordType::A), "127.0.0.1").await.edns.is_none());
    assert_eq!(upstream.heard("ok.example."), 1);
    server.stop().await;
}

#[tokio::test]
async fn every_type_is_asked_for_as_it_is() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = start(&world(), Freshness::Live, &[upstream.local_addr().unwrap()]).await;
    // The octets of 65 (HTTPS), 66 and 90 are upper-case letters.
    for kind in [RecordType::HTTPS, RecordType::Unknown(66), RecordType::Unknown(90), RecordType::CAA] {
        let hears = async {
            let mut buffer = [0; 512];
            let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            upstream.send_to(&answer(&asked, 300, 1).to_vec().unwrap(), from).await.unwrap();
            asked.queries[0].query_type()
        };
        let (told, heard) = tokio::join!(server.ask("Type.Example.", kind), hears);
        assert_eq!((told.queries[0].query_type(), heard), (kind, kind));
    }
    server.stop().await;
}

#[tokio::test]
async fn negative_answers_are_kept_too() {
    let (server, upstream) = with_upstream().await;
    for _ in 0..3 {
        assert_eq!(code(&server.ask("nx.example.", RecordType::A).await), ResponseCode::NXDomain);
        let none = server.ask("none.example.", RecordType::A).await;
        assert_eq!((code(&none), none.authorities.len()), (ResponseCode::NoError, 1));
    }
    assert_eq!((upstream.heard("nx.example."), upstream.heard("none.example.")), (1, 1));
    server.stop().await;
}

#[tokio::test]
async fn lies_are_passed_over_and_losses_made_good() {
    let (server, upstream) = with_upstream().await;
    for name in ["lie.example.", "drop.example.", "old.example.", "older.example.", "late.example."] {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 1), "{name}");
    }
    assert!(upstream.heard("drop.example.") >= 3);
    server.stop().await;
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp_and_truncated_for_who_cannot_take_it() {
    let (server, _upstream) = with_upstream().await;
    let cut = server.ask("big.example.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = server.tcp(&query("big.example.", RecordType::A)).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    server.stop().await;
}

#[tokio::test]
async fn equal_questions_at_one_time_are_asked_once() {
    let (server, upstream) = with_upstream().await;
    let asks = (0..50).map(|_| server.ask("late.example.", RecordType::A));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.answers.len() == 1));
    // A second try may have begun on a slow machine; fifty would be fifty.
    assert!(upstream.heard("late.example.") <= 4, "{}", upstream.heard("late.example."));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_lose_nothing() {
    let (server, _upstream) = with_upstream().await;
    let server = Arc::new(server);
    let clients: Vec<_> = (0..100)
        .map(|client| {
            let server = server.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    let name = format!("n{client}-{}.example.", round / 2);
                    let answer = server.ask(&name, RecordType::A).await;
                    assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 1));
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_is_mute_closed_or_fails() {
    let mute = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let good = Upstream::start().await;
    let upstreams = [closed, mute.local_addr().unwrap(), good.address];
    let server = start(&world(), Freshness::Live, &upstreams).await;
    for round in 0..5 {
        let answer = server.ask(&format!("ok{round}.example."), RecordType::A).await;
        assert_eq!(answer.answers.len(), 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_failure_is_told_and_not_multiplied() {
    let (server, upstream) = with_upstream().await;
    for _ in 0..3 {
        assert_eq!(code(&server.ask("fail.example.", RecordType::A).await), ResponseCode::ServFail);
    }
    assert!(upstream.heard("fail.example.") <= 2);
    let none = start(&world(), Freshness::Live, &[]).await;
    assert_eq!(code(&none.ask("ok.example.", RecordType::A).await), ResponseCode::ServFail);
    none.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_past_its_time_is_served_when_nobody_answers() {
    let (server, upstream) = with_upstream().await;
    assert_eq!(server.ask("short.example.", RecordType::A).await.answers[0].ttl, 1);
    upstream.gone.send_replace(true);
    let mut stale = None;
    // Past its second it is asked for again, nobody answers, and the old answer says 1 of its at most 30 seconds.
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    while stale.is_none() && tokio::time::Instant::now() < deadline {
        let answer = server.ask("short.example.", RecordType::A).await;
        assert_eq!(answer.answers.len(), 1);
        stale = (server.server.forwarder.counts.stale.load(std::sync::atomic::Ordering::Relaxed) > 0)
            .then_some(answer);
    }
    assert_eq!(stale.expect("an answer past its time").answers[0].ttl, 1);
    server.stop().await;
}

#[tokio::test]
async fn names_of_ours_and_bare_names_are_never_forwarded() {
    let (server, upstream) = with_upstream().await;
    let empty = start(&Default::default(), Freshness::Empty, &[upstream.address]).await;
    for name in
        ["x.ployz.internal.", "bare.", "5.4.101.10.in-addr.arpa.", "3.3.4.9.6.2.8.2.1.a.d.f.ip6.arpa."]
    {
        for server in [&server, &empty] {
            for kind in [RecordType::A, RecordType::PTR, RecordType::DS] {
                let _ = server.ask(name, kind).await;
            }
        }
        assert_eq!(upstream.heard(name), 0, "{name}");
    }
    assert_eq!(empty.ask("ok.example.", RecordType::A).await.answers.len(), 1, "forwarding goes on");
    empty.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_was_read() {
    let (server, upstream) = with_upstream().await;
    let asked = query("late.example.", RecordType::A);
    let waiting = server.send(&asked, "127.0.0.1");
    let stop = async {
        while upstream.heard("late.example.") == 0 {
            tokio::task::yield_now().await;
        }
        server.stop.cancel();
    };
    let (answer, ()) = tokio::join!(waiting, stop);
    assert_eq!(answer.answers.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn several_queries_in_one_connection_are_answered_as_they_come() {
    let (server, _upstream) = with_upstream().await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let names = ["late.example.", "ok.example.", "web.shop.ployz.internal."];
    let asked: Vec<_> = names.iter().map(|name| query(name, RecordType::A)).collect();
    for message in &asked {
        send_framed(&mut stream, &message.to_vec().unwrap()).await;
    }
    let mut order = Vec::new();
    for _ in &asked {
        let answer = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
        assert!(!answer.answers.is_empty());
        order.push(answer.queries[0].name().to_string());
    }
    assert_eq!(order.last().map(String::as_str), Some("late.example."));
    server.stop.cancel();
    assert!(read_framed(&mut stream).await.is_err(), "an idle connection ends with the server");
    server.stop().await;
}
