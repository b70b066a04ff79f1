//! Resolvers that only the host's namespace reaches: asked through sockets that `ployz-sockets` opens and passes on.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in `#[test]` functions, not in what they share

mod common;
#[path = "common/strange.rs"]
mod strange;

use common::{Running, start};
use ployz_core::resolv::Nameserver;
use ployz_core::routing::Freshness;
use ployz_dns::forward::Address;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use strange::{Gets, Speed, Strange, ask};

/// The listener as systemd holds it, and the program behind it.
struct Opener {
    listener: UnixListener,
    path: PathBuf,
    program: Option<Child>,
}

impl Opener {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ployz-sockets-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(&path).unwrap(), path, program: None }
    }

    /// Starts the program with the listener as descriptor 3, the way systemd passes it.
    fn start(&mut self) {
        let shell = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\"";
        let program = Command::new("sh")
            .args(["-c", shell, env!("CARGO_BIN_EXE_ployz-sockets")])
            .env("LISTEN_FDS", "1")
            .stdin(OwnedFd::from(self.listener.try_clone().unwrap()))
            .spawn();
        self.program = Some(program.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill().unwrap();
            program.wait().unwrap();
        }
    }

    fn to(&self, at: SocketAddr) -> Address {
        let nameserver = Nameserver { ip: at.ip(), zone: None };
        Address::Host { nameserver, port: at.port(), opener: self.path.as_path().into() }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn with(upstreams: Vec<Address>) -> Running {
    let server = start(&Default::default(), Freshness::Live, &[]).await;
    server.server.forwarder.set_upstreams(upstreams);
    server
}

async fn gets(server: &Running, label: &'static str) -> Gets {
    let at = server.address;
    tokio::task::spawn_blocking(move || ask(at, &format!("{label}.example"), 1).0).await.unwrap()
}

#[tokio::test]
async fn resolvers_on_loopback_are_asked_over_udp_and_tcp_by_both_families() {
    let mut opener = Opener::new("families");
    opener.start();
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let strange = Strange::start(at.parse().unwrap()).unwrap();
        let server = with(vec![opener.to(strange.address)]).await;
        for label in ["ok", "tc", "edns-formerr", "edns-drop", "drop1", "tcp-huge"] {
            assert_eq!(gets(&server, label).await, Gets::Address, "{label} at {at}");
        }
        assert_eq!(gets(&server, "tcp-close").await, Gets::Failure);
        server.stop().await;
    }
}

#[tokio::test]
async fn the_program_may_end_and_its_successor_goes_on_with_what_waits() {
    let mut opener = Opener::new("ends");
    let strange = Strange::start("[::1]:0".parse().unwrap()).unwrap();
    let server = with(vec![opener.to(strange.address)]).await;
    opener.start();
    assert_eq!(gets(&server, "ok").await, Gets::Address);
    opener.kill();
    let waiting = gets(&server, "twice");
    let again = async { opener.start() };
    assert_eq!(tokio::join!(waiting, again).0, Gets::Address);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_opened_fails_at_once_and_the_next_resolver_is_asked() {
    let mut opener = Opener::new("fails");
    opener.start();
    let good = Strange::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let no_link = Address::Host {
        nameserver: "fe80::1%nowhere".parse().unwrap(),
        port: 53,
        opener: opener.path.as_path().into(),
    };
    let absent =
        Address::Host { nameserver: Nameserver::LOCAL, port: 53, opener: PathBuf::from("/nowhere").into() };
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = with(vec![no_link.clone(), absent.clone(), opener.to(closed)]).await;
    let start = std::time::Instant::now();
    assert_eq!(gets(&server, "ok").await, Gets::Failure);
    assert!(start.elapsed() < Speed::AtOnce.limit(), "{:?}", start.elapsed());
    server.server.forwarder.set_upstreams(vec![no_link, absent, Address::Net(good.address)]);
    assert_eq!(gets(&server, "twice").await, Gets::Address);
    server.stop().await;
}

#[tokio::test]
async fn who_asks_for_nothing_that_makes_sense_gets_an_error_and_holds_up_no_other() {
    use std::io::{Read, Write};
    let mut opener = Opener::new("strangers");
    opener.start();
    let connect = || std::os::unix::net::UnixStream::connect(&opener.path).unwrap();
    // Connected, and silent.
    let _silent = [connect(), connect()];
    let mut loud = connect();
    loud.write_all(&[b'x'; 127]).unwrap();
    loud.write_all(b"\n").unwrap();
    let mut said = String::new();
    loud.read_to_string(&mut said).unwrap();
    assert_eq!(said, "expected three words");
    let strange = Strange::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = with(vec![opener.to(strange.address)]).await;
    assert_eq!(gets(&server, "ok").await, Gets::Address);
    server.stop().await;
}
