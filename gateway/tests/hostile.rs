//! Clients that mean no good, or send what two readers could read in two ways.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use ployz_gateway::{Cause, HeadLimits, Limits};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the gateway says before it closes; empty when it just closes.
async fn told(running: &Running, request: &[u8]) -> String {
    let mut client = Client::connect(running.http).await;
    client.stream.write_all(request).await.unwrap();
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), client.stream.read_to_end(&mut text)).await;
    assert!(read.is_ok(), "still open after {:?}", String::from_utf8_lossy(request));
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn ambiguous_requests_are_refused_closed_and_never_reach_a_backend() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let chunked = "Transfer-Encoding: chunked";
    let cases: Vec<(&str, String)> = vec![
        (
            "length and coding",
            format!("POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 4\r\n{chunked}\r\n\r\n0\r\n\r\n"),
        ),
        (
            "coding and length",
            format!("POST / HTTP/1.1\r\nHost: a.org\r\n{chunked}\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"),
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into(),
        ),
        (
            "same length twice",
            "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na".into(),
        ),
        ("signed length", "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: +1\r\n\r\na".into()),
        ("two codings", format!("POST / HTTP/1.1\r\nHost: a.org\r\n{chunked}\r\n{chunked}\r\n\r\n0\r\n\r\n")),
        (
            "unknown coding",
            "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "coding list",
            "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("coding of old", format!("POST / HTTP/1.0\r\nHost: a.org\r\n{chunked}\r\n\r\n0\r\n\r\n")),
        ("space before colon", "GET / HTTP/1.1\r\nHost : a.org\r\n\r\n".into()),
        ("folded line", "GET / HTTP/1.1\r\nHost: a.org\r\nX: 1\r\n 2\r\n\r\n".into()),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into()),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a.org\r\nHost: b.org\r\n\r\n".into()),
        ("host with userinfo", "GET / HTTP/1.1\r\nHost: x@a.org\r\n\r\n".into()),
        ("host with path", "GET / HTTP/1.1\r\nHost: a.org/x\r\n\r\n".into()),
        ("host with space", "GET / HTTP/1.1\r\nHost: a.org b.org\r\n\r\n".into()),
        ("target says otherwise", "GET http://b.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("no version", "GET /\r\n\r\n".into()),
        ("null in field", "GET / HTTP/1.1\r\nHost: a.org\r\nX: a\0b\r\n\r\n".into()),
        ("tunnel", "CONNECT a.org:443 HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("star", "GET * HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("not http", "\u{16}\u{3}\u{1}\0\0\0\0\0\0\r\n\r\n".into()),
    ];
    for (what, request) in &cases {
        let smuggled = format!("{request}GET /smuggled HTTP/1.1\r\nHost: a.org\r\n\r\n");
        let told = told(&running, smuggled.as_bytes()).await;
        let status = told.split(' ').nth(1).unwrap_or("closed");
        assert!(["400", "405", "closed"].contains(&status), "{what}: {told}");
        assert_eq!(told.matches("HTTP/1.1 ").count(), usize::from(status != "closed"), "{what}: {told}");
        assert_eq!(backend.served(), 0, "{what}");
    }
    let counters = running.gateway.counters();
    let refused = || {
        [Cause::Malformed, Cause::Smuggling, Cause::BadHost]
            .iter()
            .map(|cause| counters.refused(*cause))
            .sum::<u64>()
    };
    until("every refusal is counted", || refused() == cases.len() as u64).await;
    running.gateway.stop().await;
}

#[tokio::test]
async fn bad_chunks_break_the_connection_and_nothing_after_them_is_served() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    for chunks in [
        "x\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /smuggled HTTP/1.1\r\nHost: a.org\r\n\r\n"
        );
        let told = told(&running, request.as_bytes()).await;
        assert!(!told.contains("smuggled") && !told.contains(" 200 "), "{chunks:?}: {told}");
    }
    assert_eq!(once(running.http, "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap().status, 200);
    running.gateway.stop().await;
}

#[tokio::test]
async fn head_that_is_too_large_or_too_slow_is_refused() {
    let backend = echo_backend().await;
    let limits = Limits { head: HeadLimits { time: Duration::from_millis(300), size: 8 * 1024 }, ..limits() };
    let running = start_with(snapshot(&one(&[HERE], backend.port)), None, limits);
    let large = format!("GET / HTTP/1.1\r\nHost: a.org\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(told(&running, large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let mut slow = Client::connect(running.http).await;
    let drip = async {
        for byte in "GET / HTTP/1.1\r\nHost: a.org\r\nX: ".bytes().chain(std::iter::repeat(b'x')) {
            if slow.stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (mut reader, counters) = (String::new(), running.gateway.counters());
    let _ = tokio::time::timeout(Duration::from_secs(2), drip).await;
    let _ = slow.stream.read_to_string(&mut reader).await;
    until("the slow head is counted", || counters.refused(Cause::HeadTooSlow) == 1).await;
    until("the large head is counted", || counters.refused(Cause::HeadTooLarge) == 1).await;
    // One that says nothing is closed without a word and not counted.
    assert_eq!(told(&running, b"").await, "");
    assert_eq!(backend.served(), 0);
    running.gateway.stop().await;
}

#[tokio::test]
async fn routes_of_one_host_are_told_apart_whatever_hides_in_the_path() {
    let (open, closed) = (echo_backend().await, echo_backend().await);
    let mut state = ployz_core::routing::State::default();
    put(&mut state, "open", vec![route("a.org", "/open", open.port)], vec![], &[HERE]);
    put(&mut state, "closed", vec![route("a.org", "/", closed.port)], vec![], &[HERE]);
    let running = start(&state);
    for path in ["/open/../x", "/open/%2e%2e/x", "/open/..%2fx", "/open/.%2E/x"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.org\r\n\r\n");
        assert_eq!(once(running.http, &request).await.unwrap().status, 200);
        assert_eq!(open.served(), 0, "{path}");
    }
    running.gateway.stop().await;
}
