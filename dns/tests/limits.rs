//! What one client may take of what is there for all, and what a stop does to connections.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in `#[test]` functions, not in what they share

mod common;

use common::{Running, TEST_TIMEOUT, query, read_framed, send_framed, start, world};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::RecordType;
use ployz_core::routing::Freshness;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Answers names that begin with `ok`; counts all it hears.
async fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, heard) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = heard.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Relaxed);
            if buffer[13..].starts_with(b"ok") {
                buffer[2] |= 0x80;
                buffer[3] = 3;
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        }
    });
    (address, heard)
}

async fn connect(server: &Running, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(server.address).await.unwrap()
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<Message> {
    let asked = query("web.shop.ployz.internal.", RecordType::A).to_vec().unwrap();
    send_framed(stream, &asked).await;
    let answer =
        tokio::time::timeout(TEST_TIMEOUT, read_framed(stream)).await.expect("an answer or an end")?;
    Ok(Message::from_vec(&answer).unwrap())
}

#[tokio::test]
async fn a_source_has_sixteen_connections_and_others_have_theirs() {
    let server = start(&world(), Freshness::Live, &[]).await;
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = connect(&server, "127.0.0.1").await;
        assert_eq!(ask(&mut stream).await.unwrap().answers.len(), 3);
        held.push(stream);
    }
    let mut beyond = connect(&server, "127.0.0.1").await;
    let end = tokio::time::timeout(TEST_TIMEOUT, beyond.read(&mut [0; 1])).await.expect("closed at once");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert_eq!(server.server.metrics.connections_refused.load(Relaxed), 1);
    assert_eq!(ask(&mut connect(&server, "127.0.0.9").await).await.unwrap().answers.len(), 3);
    drop(held.pop());
    let again = async {
        loop {
            let mut stream = connect(&server, "127.0.0.1").await;
            let asked = query("web.shop.ployz.internal.", RecordType::A).to_vec().unwrap();
            let framed = [&(asked.len() as u16).to_be_bytes()[..], &asked].concat();
            if stream.write_all(&framed).await.is_ok() && read_framed(&mut stream).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, again).await.expect("a place that is given up is free");
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_trickles_in_is_not_waited_for() {
    let server = start(&world(), Freshness::Live, &[]).await;
    let mut stream = connect(&server, "127.0.0.1").await;
    let asked = query("web.shop.ployz.internal.", RecordType::A).to_vec().unwrap();
    stream.write_all(&(asked.len() as u16).to_be_bytes()).await.unwrap();
    let (mut input, mut output) = stream.into_split();
    let trickle = tokio::spawn(async move {
        for octet in [0; 600] {
            if output.write_all(&[octet]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let end = tokio::time::timeout(TEST_TIMEOUT, input.read(&mut [0; 1]))
        .await
        .expect("closed while octets still come");
    assert!(matches!(end, Ok(0) | Err(_)));
    trickle.abort();
    server.stop().await;
}

#[tokio::test]
async fn dead_names_of_one_client_leave_tries_for_others() {
    let (upstream, _) = upstream().await;
    let server = start(&world(), Freshness::Live, &[upstream]).await;
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    flood.connect(server.address).await.unwrap();
    for n in 0..600 {
        let name = format!("dead{n}.example.");
        flood.send(&query(&name, RecordType::A).to_vec().unwrap()).await.unwrap();
        if n % 50 == 0 {
            // What is not received yet must not overflow the socket's buffer.
            let answer = server.ask("web.shop.ployz.internal.", RecordType::A).await;
            assert_eq!(answer.answers.len(), 3);
        }
    }
    // Until all three tries of those that wait are under way.
    let tries = &server.server.forwarder.counts.tries;
    let spread = async {
        while tries.load(Relaxed) < 3 * 128 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, spread).await.expect("128 questions are tried thrice");
    let answer = server.ask_in_shop("ok.example.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(server.server.metrics.overloaded.load(Relaxed) >= 600 - 128 - 1);
    drop(flood);
    server.stop().await;
}

#[tokio::test]
async fn a_question_is_tried_three_times() {
    let (upstream, heard) = upstream().await;
    let server = start(&world(), Freshness::Live, &[upstream]).await;
    let answer = server.ask("dead.example.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(heard.load(Relaxed), 3);
    server.stop().await;
}

#[tokio::test]
async fn who_was_connected_at_a_stop_may_still_ask() {
    let server = start(&world(), Freshness::Live, &[]).await;
    let mut stream = connect(&server, "127.0.0.1").await;
    let accepted = async {
        while server.server.metrics.connections.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, accepted).await.expect("the connection is taken");
    server.stop.cancel();
    for _ in 0..3 {
        assert_eq!(ask(&mut stream).await.unwrap().answers.len(), 3);
    }
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "quiet, it ends with the server");
    server.stop().await;
}
