//! The program itself: sockets that are passed, a stop that answers what was read, a replacement that loses nothing.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in `#[test]` functions, not in what they share

mod common;

use common::{TEST_TIMEOUT, query, read_framed, send_framed};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::RecordType;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

/// The sockets as a socket unit holds them.
struct Unit {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    seed: std::path::PathBuf,
    upstream: SocketAddr,
}

impl Unit {
    fn new(name: &str, upstream: SocketAddr) -> Self {
        let (udp, tcp) = loop {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = std::net::TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let seed = std::env::temp_dir().join(format!("ployz-dns-{name}-{}", std::process::id()));
        std::fs::write(&seed, "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n").unwrap();
        Self { udp, tcp, seed, upstream }
    }

    fn address(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }

    /// Starts the program with the sockets as descriptors 3 and 4, the way systemd passes them.
    fn start(&self) -> Child {
        let shell = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        Command::new("sh")
            .args(["-c", shell, env!("CARGO_BIN_EXE_ployz-dns")])
            .args(["--machine=one", "--network=0123456789abcdef0123456789abcdef"])
            .args(["--cluster-cidr=10.101.0.0/16", "--nats=127.0.0.1:1", "--nats-seed-file"])
            .arg(&self.seed)
            .arg(format!("--upstream={}", self.upstream))
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", "udp-overlay:tcp-overlay")
            .env("PLOYZ_LOG", "off")
            .stdin(OwnedFd::from(self.udp.try_clone().unwrap()))
            .stdout(OwnedFd::from(self.tcp.try_clone().unwrap()))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.seed);
    }
}

/// Terminates a process as systemd does; it must end well.
async fn stop(mut process: Child) {
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || process.wait().unwrap());
    let status = tokio::time::timeout(TEST_TIMEOUT, ended).await.expect("it ends in time").unwrap();
    assert!(status.success(), "{status}");
}

/// Answers everything, after a while.
async fn slow_upstream() -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            answer[3] = 3; // NXDOMAIN without SOA: not kept, so that every query comes here
            let socket = socket.clone();
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                let _ = socket.send_to(&answer, from).await;
            });
        }
    });
    address
}

async fn status(at: SocketAddr) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(at).await.unwrap();
    ask(&socket, "_status.ployz.internal.", RecordType::TXT).await
}

async fn ask(socket: &UdpSocket, name: &str, kind: RecordType) -> Message {
    let asked = query(name, kind);
    socket.send(&asked.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length =
        tokio::time::timeout(TEST_TIMEOUT, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, asked.metadata.id);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_loses_no_query() {
    let unit = Unit::new("replace", slow_upstream().await);
    let address = unit.address();
    let mut process = unit.start();
    status(address).await;
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..12)
        .map(|client| {
            let (done, answered) = (done.clone(), answered.clone());
            tokio::spawn(async move {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.connect(address).await.unwrap();
                while !done.load(Ordering::Relaxed) {
                    match client % 3 {
                        0 => assert_eq!(
                            ask(&socket, "_status.ployz.internal.", RecordType::TXT).await.answers.len(),
                            1
                        ),
                        1 => {
                            let answer = ask(&socket, "far.example.", RecordType::A).await;
                            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
                        }
                        _ => {
                            let mut stream = TcpStream::connect(address).await.unwrap();
                            let asked = query("far.example.", RecordType::A).to_vec().unwrap();
                            send_framed(&mut stream, &asked).await;
                            read_framed(&mut stream).await.unwrap();
                        }
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 50 {
            tokio::task::yield_now().await;
        }
        stop(process).await;
        process = unit.start();
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client lost a query");
    }
    stop(process).await;
}

#[tokio::test]
async fn nothing_to_listen_on_is_an_error() {
    let seed = std::env::temp_dir().join(format!("ployz-dns-nothing-{}", std::process::id()));
    std::fs::write(&seed, "x").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ployz-dns"))
        .args(["--machine=one", "--network=0123456789abcdef0123456789abcdef"])
        .args(["--cluster-cidr=10.101.0.0/16", "--nats=127.0.0.1:1", "--nats-seed-file"])
        .arg(&seed)
        .output()
        .unwrap();
    std::fs::remove_file(&seed).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing to listen on"));
}

#[tokio::test]
async fn metrics_tell_what_was_asked_and_how_fresh_the_answers_are() {
    let unit = Unit::new("metrics", "127.0.0.1:1".parse().unwrap());
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let shell = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let process = Command::new("sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_ployz-dns")])
        .env("PLOYZ_DNS_MACHINE", "one")
        .env("PLOYZ_DNS_NETWORK", "0123456789abcdef0123456789abcdef")
        .env("PLOYZ_DNS_CLUSTER_CIDR", "10.101.0.0/16")
        .env("PLOYZ_DNS_NATS", "127.0.0.1:1")
        .env("PLOYZ_DNS_NATS_SEED_FILE", &unit.seed)
        .env("PLOYZ_DNS_UPSTREAMS", "127.0.0.1:1")
        .env("PLOYZ_DNS_METRICS_LISTEN_ADDR", at.to_string())
        .env("PLOYZ_LOG", "off")
        .env("LISTEN_FDS", "2")
        .stdin(OwnedFd::from(unit.udp.try_clone().unwrap()))
        .stdout(OwnedFd::from(unit.tcp.try_clone().unwrap()))
        .spawn()
        .unwrap();
    status(unit.address()).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    for line in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
        "# TYPE ployz_dns_queries counter\nployz_dns_queries_total{qtype=\"TXT\",rcode=\"NOERROR\"} 1\n",
        "ployz_dns_routing_freshness 0.0\n",
        "# TYPE ployz_dns_routing_gaps counter\nployz_dns_routing_gaps_total 0\n",
        "ployz_dns_query_duration_seconds_bucket{le=\"+Inf\",origin=\"own\"} 1\n",
        "ployz_dns_zone_services 0.0\n",
        "\n# EOF\n",
        "ployz_dns_query_duration_seconds_count{origin=\"own\"} 1\n",
        "ployz_dns_upstream_failures_total{upstream=\"127.0.0.1:1\"} 0\n",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
    stop(process).await;
}
