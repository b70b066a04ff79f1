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
        ("target beside no host", "GET http://a.org/ HTTP/1.1\r\nHost: a.org/x\r\n\r\n".into()),
        (
            "target beside two hosts",
            "GET http://a.org/ HTTP/1.1\r\nHost: a.org\r\nHost: a.org\r\n\r\n".into(),
        ),
        ("target with userinfo", "GET http://x@a.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("target of another scheme", "GET ftp://a.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("no version", "GET /\r\n\r\n".into()),
        ("null in field", "GET / HTTP/1.1\r\nHost: a.org\r\nX: a\0b\r\n\r\n".into()),
        ("tunnel", "CONNECT a.org:443 HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("star", "GET * HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("list of lengths", "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1, 1\r\n\r\na".into()),
        (
            "list of lengths without a space",
            "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1,1\r\n\r\na".into(),
        ),
        ("space in the target", "GET /a b HTTP/1.1\r\nHost: a.org\r\n\r\n".into()),
        ("lone LF behind the request line", "GET / HTTP/1.1\nHost: a.org\r\n\r\n".into()),
        ("lone LF behind a field", "GET / HTTP/1.1\r\nHost: a.org\nX: 1\r\n\r\n".into()),
        ("lone LF at the end", "GET / HTTP/1.1\r\nHost: a.org\r\n\n".into()),
        ("trace", "TRACE / HTTP/1.1\r\nHost: a.org\r\nCookie: a=b\r\n\r\n".into()),
        ("track", "TRACK / HTTP/1.1\r\nHost: a.org\r\nCookie: a=b\r\n\r\n".into()),
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
        "3;a\nabc\r\n0\r\n\r\n",
        "3;a\r\n\nabc\r\n0\r\n\r\n",
        "3;a=\u{1}\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: 1\n\r\n",
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

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What the gateway says within some seconds to a WebSocket request when the backend says this and then nothing.
async fn upgrade_at(backend_says: &'static str) -> String {
    let backend = raw_backend(move |mut stream, _| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(backend_says.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let mut state = ployz_core::routing::State::default();
    let mut wanted = route("a.org", "/", backend.port);
    wanted.timeout_secs = Some(1);
    put(&mut state, "web", vec![wanted], vec![], &[HERE]);
    let running = start(&state);
    let text = told(&running, UPGRADE.as_bytes()).await;
    running.gateway.stop().await;
    text
}

#[tokio::test]
async fn asking_for_a_websocket_lifts_no_deadline_before_the_backend_agrees() {
    assert!(upgrade_at("").await.starts_with("HTTP/1.1 504 "));
    // A plain answer that stops half way is cut as any other one: `told` panics when it is not.
    let half = upgrade_at("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(!half.contains(" 101 "), "{half}");
}

#[tokio::test]
async fn backend_makes_no_tunnel_that_nobody_asked_for_and_says_nothing_early_to_http_1_0() {
    let backend = raw_backend(|mut stream, _| async move {
        let mut head = [0; 1024];
        let length = stream.read(&mut head).await.unwrap_or(0);
        let says: &[u8] = match head[..length].starts_with(b"GET /tunnel") {
            true => {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"
            }
            false => b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        };
        let _ = stream.write_all(says).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let running = start(&one(&[HERE], backend.port));
    let unasked = told(&running, b"GET /tunnel HTTP/1.1\r\nHost: a.org\r\n\r\n").await;
    assert!(unasked.starts_with("HTTP/1.1 502 ") && !unasked.contains("hello"), "{unasked}");
    let close = "Host: a.org\r\nConnection: close\r\n\r\n";
    let old = told(&running, format!("GET / HTTP/1.0\r\n{close}").as_bytes()).await;
    assert!(old.starts_with("HTTP/1.1 200 ") || old.starts_with("HTTP/1.0 200 "), "{old}");
    let new = told(&running, format!("GET / HTTP/1.1\r\n{close}").as_bytes()).await;
    assert!(new.starts_with("HTTP/1.1 103 ") && new.contains(" 200 OK"), "{new}");
    running.gateway.stop().await;
}

#[tokio::test]
async fn websocket_may_be_silent_for_longer_than_its_routes_timeout() {
    let backend = echo_backend().await;
    let mut state = ployz_core::routing::State::default();
    let mut wanted = route("a.org", "/", backend.port);
    wanted.timeout_secs = Some(1);
    put(&mut state, "web", vec![wanted], vec![], &[HERE]);
    let running = start(&state);
    let mut client = Client::connect(running.http).await;
    assert_eq!(client.send(UPGRADE).await.unwrap().status, 101);
    let silence = tokio::time::timeout(Duration::from_millis(2_500), client.more()).await;
    assert!(silence.is_err(), "it is still open and nothing came");
    client.stream.write_all(b"still there").await.unwrap();
    while client.buffer.len() < 11 {
        tokio::time::timeout(Duration::from_secs(5), client.more()).await.unwrap().unwrap();
    }
    assert_eq!(client.buffer, b"still there");
    drop(client);
    running.gateway.stop().await;
}

#[tokio::test]
async fn what_goes_through_a_websocket_is_no_body() {
    let backend = echo_backend().await;
    let mut state = ployz_core::routing::State::default();
    let mut wanted = route("a.org", "/", backend.port);
    wanted.max_body = Some(4);
    put(&mut state, "web", vec![wanted], vec![], &[HERE]);
    let running = start(&state);
    let mut client = Client::connect(running.http).await;
    assert_eq!(client.send(UPGRADE).await.unwrap().status, 101);
    for word in ["more than four", "and more"] {
        client.stream.write_all(word.as_bytes()).await.unwrap();
        while client.buffer.len() < word.len() {
            tokio::time::timeout(Duration::from_secs(5), client.more()).await.unwrap().unwrap();
        }
        assert_eq!(std::mem::take(&mut client.buffer), word.as_bytes());
    }
    drop(client);
    running.gateway.stop().await;
}

#[tokio::test]
async fn connection_on_which_nothing_is_asked_any_more_is_closed() {
    let backend = echo_backend().await;
    let limits = Limits { idle: Duration::from_secs(1), ..limits() };
    let running = start_with(snapshot(&one(&[HERE], backend.port)), None, limits);
    let mut client = Client::connect(running.http).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    let closed = tokio::time::timeout(Duration::from_secs(10), client.stream.read(&mut [0])).await;
    assert_eq!(closed.expect("it is closed").unwrap(), 0);
    running.gateway.stop().await;
}

#[tokio::test]
async fn one_client_cannot_hold_all_connections() {
    let backend = echo_backend().await;
    let limits = Limits { connections: 6, of_client: 3, ..limits() };
    let running = start_with(snapshot(&one(&[HERE], backend.port)), None, limits);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(Client::connect(running.http).await);
        assert_eq!(held.last_mut().unwrap().get("/").await.unwrap().status, 200);
    }
    assert!(Client::connect(running.http).await.get("/").await.is_err());
    let counters = running.gateway.counters();
    until("the refusal is counted", || counters.refused(Cause::TooManyOfClient) == 1).await;
    // Others are served meanwhile, up to the limit of all.
    let from = |address: [u8; 4]| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::from(address), 0).into()).unwrap();
        Client { stream: socket.connect(running.http).await.unwrap(), buffer: Vec::new() }
    };
    for last in 10..13 {
        held.push(from([127, 0, 0, last]).await);
        assert_eq!(held.last_mut().unwrap().get("/").await.unwrap().status, 200);
    }
    assert!(from([127, 0, 0, 20]).await.get("/").await.is_err());
    until("that is counted", || counters.refused(Cause::TooManyConnections) == 1).await;
    held.clear();
    until("the places are given back", || counters.open.load(std::sync::atomic::Ordering::Relaxed) == 0)
        .await;
    assert_eq!(Client::connect(running.http).await.get("/").await.unwrap().status, 200);
    let page = once(running.metrics, "GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
    assert!(page.body.contains("ployz_gateway_refused_total{cause=\"too-many-of-client\"} 1"));
    running.gateway.stop().await;
}

#[tokio::test]
async fn a_target_in_absolute_form_names_the_host_and_reaches_the_backend_as_a_path() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    for request in [
        "GET http://a.org/x?y=1 HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "GET http://a.org:80/x?y=1 HTTP/1.1\r\nHost: a.org:80\r\n\r\n",
        "GET HTTP://a.org/x?y=1 HTTP/1.0\r\nHost: a.org\r\n\r\n",
    ] {
        let answer = once(running.http, request).await.unwrap();
        assert_eq!(answer.status, 200, "{request}: {answer:?}");
        assert!(answer.body.starts_with("GET /x?y=1\n"), "{request}: {}", answer.body);
        assert_eq!(answer.body.to_ascii_lowercase().matches("\nhost: a.org").count(), 1, "{}", answer.body);
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn the_authority_of_a_target_replaces_the_host_for_the_route_and_for_the_backend() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    for (target, host, wanted) in [
        ("http://A.org/x", "a.org", "A.org"),
        ("http://a.org:80/x", "a.org", "a.org:80"),
        ("http://a.org./x", "a.org", "a.org."),
        ("HTTP://a.org/x", "A.ORG:80", "a.org"),
        ("http://a.org/x", "b.org", "a.org"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = once(running.http, &request).await.unwrap();
        assert_eq!(answer.status, 200, "{request}: {answer:?}");
        let body = answer.body.to_ascii_lowercase();
        assert!(body.starts_with("get /x\n"), "{request}: {body}");
        let heard: Vec<_> = body.lines().filter(|line| line.starts_with("host:")).collect();
        assert_eq!(heard, [format!("host: {}", wanted.to_ascii_lowercase())], "{request}");
        assert!(!body.contains("b.org"), "{request}: {body}");
    }
    // The host that the field says has a route, the one that the target names has none.
    let mut client = common::Client::connect(running.http).await;
    for byte in "GET http://b.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n".bytes() {
        client.stream.write_all(&[byte]).await.unwrap();
        client.stream.flush().await.unwrap();
    }
    assert_eq!(client.answer().await.unwrap().status, 404);
    // What was said of one request is not said of the next.
    assert!(client.get("/").await.unwrap().body.contains("a.org"));
    running.gateway.stop().await;
}

/// Answers one request a connection with its first line; hyper would refuse what is to be seen here.
async fn line_backend() -> common::Backend {
    common::raw_backend(|mut stream, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let length =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", line.len());
        let _ = stream.write_all(&[length.as_bytes(), line].concat()).await;
    })
    .await
}

#[tokio::test]
async fn a_target_reaches_the_backend_in_the_bytes_that_the_client_sent() {
    let backend = line_backend().await;
    let running = start(&one(&[HERE], backend.port));
    for (asked, wanted) in [
        ("/?q=\"a\"<b>", "/?q=\"a\"<b>"),
        ("/a\"b?c", "/a\"b?c"),
        ("/a<b>`c", "/a<b>`c"),
        ("/?q={a}|b^c\\d`", "/?q={a}|b^c\\d`"),
        ("/?q=%22\"%3c<", "/?q=%22\"%3c<"),
        ("http://a.org/?q=\"", "/?q=\""),
        ("/?q=\"#part", "/?q=\""),
    ] {
        let answer =
            once(running.http, &format!("GET {asked} HTTP/1.1\r\nHost: a.org\r\n\r\n")).await.unwrap();
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        assert_eq!(answer.body, format!("GET {wanted} HTTP/1.1"), "{asked}");
    }
    // However it comes in, and never in a method.
    let mut client = common::Client::connect(running.http).await;
    for byte in "GET /?q=\"<>\" HTTP/1.1\r\nHost: a.org\r\n\r\n".bytes() {
        client.stream.write_all(&[byte]).await.unwrap();
        client.stream.flush().await.unwrap();
    }
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.body, "GET /?q=\"<>\" HTTP/1.1");
    assert_eq!(client.get("/plain").await.unwrap().body, "GET /plain HTTP/1.1");
    assert_eq!(once(running.http, "G<T / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap().status, 400);
    running.gateway.stop().await;
}

#[tokio::test]
async fn more_fields_than_are_taken_are_431_and_a_trace_is_405() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let many =
        |fields: usize| format!("GET / HTTP/1.1\r\nHost: a.org\r\n{}\r\n", "A: 1\r\n".repeat(fields - 1));
    assert_eq!(once(running.http, &many(90)).await.unwrap().status, 200);
    assert_eq!(once(running.http, &many(257)).await.unwrap().status, 431);
    let trace = once(running.http, "TRACE / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap();
    assert_eq!(
        (trace.status, trace.field("allow")),
        (405, Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
    );
    use common::asking::{Ask, Speaks, ask};
    let over = |method, fields| Ask { method, fields, ..Ask::get("/") };
    assert_eq!(ask(running.http, Speaks::Http2, &over("TRACE", vec![])).await.status, 405);
    assert_eq!(ask(running.http, Speaks::Http2, &over("GET", vec![("a", "1"); 300])).await.status, 431);
    running.gateway.stop().await;
}
