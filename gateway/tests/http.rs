//! Requests in HTTP/1.1 through a gateway on real sockets: routing, fields, limits, retries, timeouts, tunnels.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use ployz_core::routing::{Freshness, State};
use ployz_gateway::{Cause, Table};
use ployz_nats::events::{Snapshot, View};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn backend_learns_who_asks_and_not_what_is_claimed() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let request = "GET /x?q=1 HTTP/1.1\r\nHost: A.org:80\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
        Forwarded: for=9.9.9.9\r\nX_Forwarded_For: 9.9.9.9\r\nX-Forwarded_For: 9.9.9.9\r\nX_Real-IP: 9.9.9.9\r\nX-Request-Id: mine-1\r\nConnection: keep-alive, X-Hop\r\n\
        X-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\n\r\n";
    let answer = once(running.http, request).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("x-request-id"), Some("mine-1"));
    assert!(answer.body.starts_with("GET /x?q=1\n"), "{}", answer.body);
    for line in [
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: A.org:80\n",
        "x-request-id: mine-1\n",
        "host: A.org:80\n",
    ] {
        assert!(
            answer.body.to_ascii_lowercase().contains(&line.to_ascii_lowercase()),
            "{line}: {}",
            answer.body
        );
    }
    // Trailers come through, so that the client takes them is said on; nothing else of that field is.
    assert!(answer.body.contains("te: trailers\n"), "{}", answer.body);
    for gone in ["9.9.9.9", "x-hop", "keep-alive", "gzip"] {
        assert!(!answer.body.contains(gone), "{gone}: {}", answer.body);
    }
    let insane = "GET / HTTP/1.1\r\nHost: a.org\r\nX-Request-Id: a b\r\n\r\n";
    let drawn = once(running.http, insane).await.unwrap();
    assert_eq!(drawn.field("x-request-id").map(str::len), Some(32));
    running.gateway.stop().await;
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let mut client = Client::connect(running.http).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    let post = "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert!(client.send(post).await.unwrap().body.ends_with("\nabcde"));
    let pipelined = "GET /1 HTTP/1.1\r\nHost: a.org\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.org\r\n\r\n";
    assert!(client.send(pipelined).await.unwrap().body.starts_with("GET /1"));
    assert!(client.answer().await.unwrap().body.starts_with("GET /2"));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
    running.gateway.stop().await;
}

#[tokio::test]
async fn large_bodies_heads_alone_and_leave_to_send_pass_through() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let mut client = Client::connect(running.http).await;
    let body = "0123456789abcdef".repeat(200_000);
    let post = format!("POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(client.send(&post).await.unwrap().body.ends_with(&body));
    let waiting = "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(client.send(waiting).await.unwrap().status, 100);
    assert!(client.send("hi").await.unwrap().body.ends_with("\nhi"));
    // After an interim answer Pingora closes the connection, and says so.
    let mut client = Client::connect(running.http).await;
    client.stream.write_all(b"HEAD / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap();
    while !client.buffer.ends_with(b"\r\n\r\n") {
        client.more().await.unwrap();
    }
    client.buffer.clear();
    assert_eq!(client.get("/").await.unwrap().status, 200);
    drop(client);
    running.gateway.stop().await;
}

#[tokio::test]
async fn nothing_routed_is_404_nothing_serving_503_and_never_filled_503() {
    let mut state = one(&[], 80);
    put(&mut state, "b", vec![route("b.org", "/only", 80)], vec![], &[]);
    let running = start(&state);
    let ask = |host: &'static str, path: &'static str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        async move { once(running.http, &request).await.unwrap().status }
    };
    assert_eq!(ask("a.org", "/").await, 503);
    assert_eq!(ask("b.org", "/").await, 404);
    assert_eq!(ask("c.org", "/").await, 404);
    let empty =
        Snapshot { view: Arc::new(Table::of(&State::default())), freshness: Freshness::Empty, sequence: 0 };
    running.table.send_replace(Arc::new(empty));
    for _ in 0..100 {
        if ask("c.org", "/").await == 503 {
            break;
        }
    }
    assert_eq!(ask("c.org", "/").await, 503);
    assert!(running.gateway.counters().refused(Cause::NoRoute) >= 2);
    running.gateway.stop().await;
}

#[tokio::test]
async fn route_limits_body_rate_and_scheme() {
    let backend = echo_backend().await;
    let mut routes = vec![route("a.org", "/", backend.port), route("a.org", "/few", backend.port)];
    routes[0].max_body = Some(4);
    routes[1].rate_limit = Some(2);
    routes.push(route("tls.org", "/", backend.port));
    routes[2].https_only = true;
    let mut state = State::default();
    put(&mut state, "web", routes, vec![], &[HERE]);
    let running = start(&state);
    let post = |head: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a.org\r\n{head}\r\n\r\n{body}");
    let send = |request: String| async move { once(running.http, &request).await.unwrap() };
    assert_eq!(send(post("Content-Length: 4", "abcd")).await.status, 200);
    assert_eq!(send(post("Content-Length: 5", "abcde")).await.status, 413);
    assert_eq!(send(post("Transfer-Encoding: chunked", "5\r\nabcde\r\n0\r\n\r\n")).await.status, 413);
    let mut client = Client::connect(running.http).await;
    let mut last = client.get("/few").await.unwrap();
    for _ in 0..3 {
        last = client.get("/few").await.unwrap();
    }
    assert_eq!((last.status, last.field("retry-after")), (429, Some("1")));
    assert_eq!(
        client.get("/").await.unwrap().status,
        200,
        "the connection goes on, and other routes with it"
    );
    let plain = send("GET /p?q HTTP/1.1\r\nHost: TLS.org\r\n\r\n".into()).await;
    assert_eq!((plain.status, plain.field("location")), (308, Some("https://tls.org:8443/p?q")));
    running.gateway.stop().await;
}

#[tokio::test]
async fn backend_that_refuses_connections_is_passed_over() {
    let backend = echo_backend().await;
    // Nothing listens on THERE.
    let running = start(&one(&[HERE, THERE], backend.port));
    let mut client = Client::connect(running.http).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    let post = "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 2\r\n\r\nhi";
    assert!(client.send(post).await.unwrap().body.ends_with("hi"));
    let retries = running.gateway.counters().retries.load(Ordering::Relaxed);
    assert!((1..=2).contains(&retries), "put aside after the first refusal: {retries}");
    running.gateway.stop().await;
}

#[tokio::test]
async fn last_backend_is_asked_even_when_it_was_put_aside() {
    let backend = echo_backend().await;
    let running = start(&one(&[THERE], backend.port));
    let mut client = Client::connect(running.http).await;
    assert_eq!(client.get("/").await.unwrap().status, 502);
    let listener = tokio::net::TcpListener::bind((THERE, backend.port)).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
    assert_eq!(once(running.http, "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap().status, 200);
    running.gateway.stop().await;
}

#[tokio::test]
async fn idempotent_request_survives_a_backend_that_dies_and_another_is_not_sent_twice() {
    // Each connection answers once; the next request on it is read and the connection closed.
    let backend = raw_backend(|mut stream, _| async move {
        let mut head = [0; 2048];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let _ = stream.read(&mut head).await;
    })
    .await;
    let running = start_single(&one(&[HERE], backend.port));
    let mut client = Client::connect(running.http).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    let post = "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 2\r\n\r\nhi";
    let mut statuses = Vec::new();
    for _ in 0..4 {
        // A failed one closes the connection to the client.
        let mut client = Client::connect(running.http).await;
        statuses.push(client.send(post).await.unwrap().status);
    }
    assert!(statuses.contains(&502), "{statuses:?}");
    running.gateway.stop().await;
}

#[tokio::test]
async fn body_that_is_sent_again_counts_once() {
    // The first two connections are closed when the request has been read.
    let backend = raw_backend(|mut stream, number| async move {
        let mut head = [0; 2048];
        let _ = stream.read(&mut head).await;
        if number > 1 {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let mut limited = route("a.org", "/", backend.port);
    limited.max_body = Some(4);
    let mut state = State::default();
    put(&mut state, "web", vec![limited], vec![], &[HERE]);
    let running = start(&state);
    let put = "PUT / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(once(running.http, put).await.unwrap().status, 200);
    until("the line of the log", || running.log.text().contains("\"tries\":3")).await;
    assert!(running.log.text().contains("\"received\":3,"), "{}", running.log.text());
    running.gateway.stop().await;
}

#[tokio::test]
async fn silence_beyond_the_route_s_timeout_is_504() {
    let backend = raw_backend(|mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut slow = route("a.org", "/", backend.port);
    slow.timeout_secs = Some(1);
    let mut state = State::default();
    put(&mut state, "web", vec![slow], vec![], &[HERE]);
    let running = start(&state);
    let answer = once(running.http, "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap();
    assert_eq!(answer.status, 504);
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1, "what is slow is not asked twice");
    running.gateway.stop().await;
}

#[tokio::test]
async fn piece_of_an_answer_is_passed_on_when_it_comes() {
    let (go, going) = tokio::sync::watch::channel(false);
    let backend = raw_backend(move |mut stream, _| {
        let mut going = going.clone();
        going.mark_unchanged();
        async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let first = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
            let _ = stream.write_all(first).await;
            let _ = going.wait_for(|go| *go).await;
            let _ = stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let running = start(&one(&[HERE], backend.port));
    let mut client = Client::connect(running.http).await;
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap();
    let seen = |buffer: &[u8], what: &[u8]| buffer.windows(what.len()).any(|part| part == what);
    while !seen(&client.buffer, b"one") {
        tokio::time::timeout(Duration::from_secs(5), client.more()).await.unwrap().unwrap();
    }
    go.send(true).unwrap();
    while !seen(&client.buffer, b"two") {
        tokio::time::timeout(Duration::from_secs(5), client.more()).await.unwrap().unwrap();
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn tunnel_echoes_and_a_change_of_routes_does_not_touch_it() {
    let backend = echo_backend().await;
    let mut state = one(&[HERE], backend.port);
    let running = start(&state);
    let mut client = Client::connect(running.http).await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(client.send(upgrade).await.unwrap().status, 101);
    for round in 0..3 {
        let text = format!("round {round}");
        client.stream.write_all(text.as_bytes()).await.unwrap();
        while client.buffer.len() < text.len() {
            tokio::time::timeout(Duration::from_secs(5), client.more()).await.unwrap().unwrap();
        }
        assert_eq!(std::mem::take(&mut client.buffer), text.as_bytes());
        put(&mut state, &format!("other{round}"), vec![route("o.org", "/", 1)], vec![], &[THERE]);
        running.table.send_replace(snapshot(&state));
        state.services.remove(&service("web"));
    }
    drop(client);
    running.gateway.stop().await;
}

#[tokio::test]
async fn metrics_and_access_log_tell_what_happened() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let mut client = Client::connect(running.http).await;
    assert_eq!(client.get("/x?secret=1").await.unwrap().status, 200);
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: nobody.org\r\n\r\n").await.unwrap().status, 404);
    let page = once(running.metrics, "GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
    for line in [
        "ployz_gateway_requests_total{route=\"a.org/\",class=\"2xx\"} 1",
        "ployz_gateway_refused_total{cause=\"no-route\"} 1",
        "ployz_gateway_routing_freshness 0",
        "ployz_gateway_routing_gaps_total 0",
        "ployz_gateway_routes 1",
        "ployz_gateway_request_duration_seconds_count{route=\"a.org/\"} 1",
        "ployz_gateway_request_duration_seconds_bucket{le=\"+Inf\",route=\"a.org/\"} 1",
        "ployz_gateway_connections_open 1",
        "# EOF",
    ] {
        assert!(page.body.contains(line), "{line} is not in\n{}", page.body);
    }
    until("both lines are written", || running.log.text().lines().count() == 2).await;
    let text = running.log.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["path"], &lines[0]["status"], &lines[0]["route"]),
        (&"/x".into(), &200.into(), &"a.org/".into())
    );
    assert_eq!((&lines[1]["cause"], &lines[1]["host"]), (&"no-route".into(), &"nobody.org".into()));
    assert!(!text.contains("secret"));
    running.gateway.stop().await;
}
