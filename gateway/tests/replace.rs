//! One gateway follows another on the same sockets, and nobody notices; the process itself, as its supervisor sees it.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
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
async fn process_takes_the_socket_it_is_handed_says_ready_and_ends_with_zero() {
    let dir = std::env::temp_dir().join(format!("ployz-gateway-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let seed = dir.join("seed");
    std::fs::write(&seed, "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n").unwrap();
    let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The service manager's protocol: descriptors from 3 on, and whom they are for. Nothing listens at the address of NATS.
    let script = "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec \"$0\" \"$@\"";
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
        ])
        .arg("--seed")
        .arg(&seed)
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap())))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut buffer = [0; 512];
    let mut told = String::new();
    while !told.contains("READY=1") {
        let length = notify.recv(&mut buffer).expect("says that it is ready");
        told += &String::from_utf8_lossy(&buffer[..length]);
    }
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
