//! One gateway follows another on the same sockets, and nobody notices; the process itself, as its supervisor sees it.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use ployz_core::routing::Freshness;
use ployz_core::wire::v1::sidecar::SidecarStatus;
use ployz_gateway::Limits;
use ployz_gateway::listen::{Kind, Socket};
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

fn shared(listener: &std::net::TcpListener) -> Vec<Socket> {
    vec![Socket { kind: Kind::Http, listener: listener.try_clone().unwrap() }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_the_gateway_under_load_loses_no_request() {
    let backend = echo_backend().await;
    let state = one(&[HERE], backend.port);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let mut running = start_on(snapshot(&state), shared(&listener), None, limits());
    let (ends, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (ends, served) = (ends.clone(), served.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !ends.load(Ordering::Relaxed) {
                    let answer = client.get("/").await.unwrap();
                    assert_eq!(answer.status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                    // Half of them use a new connection for every request.
                    if number % 2 == 0 || answer.field("connection") == Some("close") {
                        client = Client::connect(address).await;
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = served.load(Ordering::Relaxed);
        until("requests are served", || served.load(Ordering::Relaxed) > before + 100).await;
        let next = start_on(snapshot(&state), shared(&listener), None, limits());
        std::mem::replace(&mut running, next).gateway.stop().await;
    }
    ends.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn request_under_way_is_finished_and_what_outlasts_the_deadline_is_cut() {
    let (go, going) = tokio::sync::watch::channel(false);
    let backend = raw_backend(move |mut stream, _| {
        let mut going = going.clone();
        async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap_or(0);
            if head[..read].starts_with(b"GET /never") {
                return std::future::pending().await;
            }
            let _ = going.wait_for(|go| *go).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    let running = start(&one(&[HERE], backend.port));
    let (mut slow, mut never, mut idle) = (
        Client::connect(running.http).await,
        Client::connect(running.http).await,
        Client::connect(running.http).await,
    );
    tokio::io::AsyncWriteExt::write_all(&mut slow.stream, b"GET /slow HTTP/1.1\r\nHost: a.org\r\n\r\n")
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut never.stream, b"GET /never HTTP/1.1\r\nHost: a.org\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(idle.send("GET / HTTP/1.1\r\nHost: nobody.org\r\n\r\n").await.unwrap().status, 404);
    until("both are under way", || backend.connections.load(Ordering::SeqCst) == 2).await;
    let started = std::time::Instant::now();
    let stopping = tokio::spawn(running.gateway.stop());
    assert!(idle.answer().await.is_err(), "what is idle is closed");
    go.send(true).unwrap();
    let answer = slow.answer().await.unwrap();
    assert_eq!((answer.body.as_str(), answer.field("connection")), ("done", Some("close")));
    assert!(never.answer().await.is_err());
    stopping.await.unwrap();
    assert!(started.elapsed() < limits().drain + Duration::from_secs(3));
}

#[tokio::test]
async fn what_lives_long_goes_on_in_the_gateway_that_was_replaced_and_nothing_new_does() {
    let web = echo_backend().await;
    let echo = raw_backend(|mut stream, _| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let mut state = one(&[HERE], web.port);
    let tcp = vec![ployz_core::routing::TcpRoute { listen: 5432, port: echo.port }];
    put(&mut state, "db", vec![], tcp, &[HERE]);
    let listeners = [Kind::Http, Kind::Tcp(5432), Kind::Metrics].map(|kind| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        (kind, listener)
    });
    let shared =
        || listeners.iter().map(|(kind, l)| Socket { kind: *kind, listener: l.try_clone().unwrap() });
    let limits = Limits { drain: Duration::from_secs(600), ..limits() };
    let old = start_on(snapshot(&state), shared().collect(), None, limits);
    let (mut socket, mut tcp) = (Client::connect(old.http).await, Client::connect(old.tcp).await);
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(socket.send(upgrade).await.unwrap().status, 101);
    echoes(&mut tcp, "before").await;
    let new = start_on(snapshot(&state), shared().collect(), None, limits);
    let (http, metrics) = (old.http, old.metrics);
    let stopping = tokio::spawn(old.gateway.stop());
    // Every new connection is the new one's, and so is every look at the metrics.
    for _ in 0..20 {
        assert_eq!(Client::connect(http).await.get("/").await.unwrap().status, 200);
    }
    let page = once(metrics, "GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
    assert!(page.body.contains("ployz_gateway_routes 2"), "{}", page.body);
    // Longer than what is idle is waited for.
    for round in 0..25 {
        echoes(&mut socket, &format!("socket {round}")).await;
        echoes(&mut tcp, &format!("tcp {round}")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!stopping.is_finished());
    drop((socket, tcp));
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("ends with the last").unwrap();
    new.gateway.stop().await;
}

async fn echoes(client: &mut Client<tokio::net::TcpStream>, text: &str) {
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, text.as_bytes()).await.unwrap();
    while client.buffer.len() < text.len() {
        tokio::time::timeout(Duration::from_secs(5), client.more()).await.unwrap().unwrap();
    }
    assert_eq!(std::mem::take(&mut client.buffer), text.as_bytes());
}

#[tokio::test]
async fn process_takes_the_socket_it_is_handed_says_ready_and_ends_with_zero() {
    let dir = std::env::temp_dir().join(format!("ployz-gateway-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let seed = dir.join("seed");
    std::fs::write(&seed, "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n").unwrap();
    let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let https = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The service manager's protocol: descriptors from 3 on, and whom they are for. Nothing listens at the address of NATS.
    let script =
        "exec 3<&0 4<&2 2>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:https exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_ployz-gateway")])
        .args([
            "--nats",
            "127.0.0.1:1",
            "--machine",
            "node-1",
            "--network",
            &"0".repeat(32),
            "--drain-secs",
            "2",
            // A certificate that cannot be read is no reason not to serve.
            "--tls-cert-path",
            "/nonexistent/a.crt",
            "--tls-key-path",
            "/nonexistent/a.key",
        ])
        .arg("--seed")
        .arg(&seed)
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap())))
        .stderr(Stdio::from(std::os::fd::OwnedFd::from(https)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut buffer = [0; 512];
    let mut told = String::new();
    while !told.contains("READY=1") {
        let length = notify.recv(&mut buffer).expect("says that it is ready");
        told += &String::from_utf8_lossy(&buffer[..length]);
    }
    while !told.contains("STATUS=") {
        let length = notify.recv(&mut buffer).expect("reports its status");
        told += &String::from_utf8_lossy(&buffer[..length]);
    }
    let status = told.lines().find_map(|line| line.split_once("STATUS=")).unwrap().1;
    let status: SidecarStatus = status.parse().expect("a status that ployzd can read");
    assert_eq!((status.freshness, status.counts.routes), (Freshness::Empty, Some(0)));
    let answer = once(address, "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await.unwrap();
    assert_eq!(answer.status, 503, "its routes are not known");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    let status = tokio::task::spawn_blocking(move || {
        let status = child.wait().unwrap();
        let mut log = String::new();
        child.stdout.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    });
    let (status, log) = status.await.unwrap();
    assert!(status.success(), "{status}");
    assert!(log.contains("\"cause\":\"no-backend\""), "{log}");
    assert!(std::net::TcpStream::connect(address).is_ok(), "the socket is not the gateway's");
    std::fs::remove_dir_all(&dir).unwrap();
}
