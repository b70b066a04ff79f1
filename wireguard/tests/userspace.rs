//! `ployz-wireguard` end to end: two hosts joined by a cable, configured with the `wg` tool.
//!
//! Needs root, `ip`, `ping` and `wg`; without them it fails. Everything it makes carries the process id in its
//! name and is removed when the test ends, however it ends. Two namespaces stand for each machine: its own,
//! where the UDP sockets live, and its overlay, where the interface is.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

const PORT: u16 = 51820;
const UAPI_DIR: &str = "/var/run/wireguard";

/// One machine of the test.
struct Host {
    interface: String,
    /// Namespaces: the machine's own and its overlay.
    outer: String,
    inner: String,
    private: String,
    public: String,
    /// Log and key files.
    directory: PathBuf,
    process: Option<Child>,
}

impl Host {
    /// Makes the namespaces. The interface is named after the process and a serial number, as the control
    /// sockets of all machines lie in one directory.
    fn new() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        ensure!(fs::read_to_string("/proc/self/status")?.contains("\nUid:\t0\t0"), "this test needs root");
        let id = format!("{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let private = output(Command::new("wg").arg("genkey"))?;
        let directory = std::env::temp_dir().join(format!("plwg-{id}"));
        fs::create_dir(&directory)?;
        let host = Self {
            interface: format!("pw{id}"),
            outer: format!("plwg-{id}-out"),
            inner: format!("plwg-{id}-in"),
            public: pubkey(&private)?,
            private,
            directory,
            process: None,
        };
        for netns in [&host.outer, &host.inner] {
            run(&["ip", "netns", "add", netns])?;
            run(&["ip", "-n", netns, "link", "set", "lo", "up"])?;
        }
        Ok(host)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.outer, env!("CARGO_BIN_EXE_ployz-wireguard")]);
        command.args(["--interface", &self.interface, "--netns", &format!("/run/netns/{}", self.inner)]);
        command
    }

    /// Starts the process and waits until it says READY=1.
    fn start(&mut self, arguments: &[&str]) -> Result<()> {
        let notify = self.directory.join("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut command = self.command();
        command.args(arguments).env("NOTIFY_SOCKET", &notify).env("RUST_LOG", "trace");
        self.process = Some(command.stderr(fs::File::create(self.log())?).spawn()?);
        let mut message = [0; 64];
        let length = socket.recv(&mut message).with_context(|| self.logged())?;
        ensure!(message[..length].starts_with(b"READY=1"));
        run(&["ip", "-n", &self.inner, "link", "set", &self.interface, "up", "mtu", "1420"])
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        Path::new(UAPI_DIR).join(format!("{}.sock", self.interface))
    }

    fn wg(&self, arguments: &[&str]) -> Result<()> {
        run(&[&["wg", "set", &self.interface], arguments].concat())
    }

    fn wg_show(&self, what: &str) -> Result<String> {
        output(Command::new("wg").args(["show", &self.interface, what]))
    }

    fn address(&self, address: &str) -> Result<()> {
        run(&["ip", "-n", &self.inner, "address", "add", address, "dev", &self.interface, "nodad"])
    }

    fn in_overlay(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.inner, program]);
        command
    }

    /// Pings over the tunnel; fails unless every answer comes.
    fn ping(&self, arguments: &[&str]) -> Result<()> {
        let output = self.in_overlay("ping").args(["-n", "-q", "-W", "2"]).args(arguments).output()?;
        judge_ping(&output)
    }

    fn has_interface(&self) -> bool {
        run(&["ip", "-n", &self.inner, "link", "show", &self.interface]).is_ok()
    }

    fn signal(&mut self, signal: &str) -> Result<(ExitStatus, Duration)> {
        let process = self.process.as_mut().context("not started")?;
        let start = Instant::now();
        run(&["kill", signal, &process.id().to_string()])?;
        let status = process.wait()?;
        self.process = None;
        Ok((status, start.elapsed()))
    }

    fn uapi(&self) -> Result<Uapi> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Uapi(stream))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_file(self.socket());
        for netns in [&self.outer, &self.inner] {
            let _ = run(&["ip", "netns", "del", netns]);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// One connection to a control socket.
struct Uapi(UnixStream);

impl Uapi {
    fn ask(&mut self, request: &str) -> Result<String> {
        self.0.write_all(request.as_bytes())?;
        let mut answer = String::new();
        let mut chunk = [0; 1024];
        while !answer.ends_with("\n\n") {
            let length = self.0.read(&mut chunk)?;
            ensure!(length > 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&chunk[..length])?);
        }
        Ok(answer)
    }
}

/// Two machines with 192.0.2.1 and .2 (and fd01::1, ::2) on a cable, tunnels running and configured, and
/// 10.210.0.1 and .2 (and fd02::1, ::2) inside.
fn pair(arguments: &[&str]) -> Result<(Host, Host)> {
    let (mut a, mut b) = (Host::new()?, Host::new()?);
    run(&[
        "ip", "-n", &a.outer, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
        &b.outer,
    ])?;
    for (host, last) in [(&mut a, 1), (&mut b, 2)] {
        for address in [format!("192.0.2.{last}/24"), format!("fd01::{last}/64")] {
            run(&["ip", "-n", &host.outer, "address", "add", &address, "dev", "cable", "nodad"])?;
        }
        run(&["ip", "-n", &host.outer, "link", "set", "cable", "up"])?;
        host.start(arguments)?;
        host.address(&format!("10.210.0.{last}/24"))?;
        host.address(&format!("fd02::{last}/64"))?;
    }
    // One side by a whole file, the other by single settings; only a knows where the other is.
    let conf = a.directory.join("conf");
    let text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nEndpoint = 192.0.2.2:{PORT}\n\
         AllowedIPs = 10.210.0.2/32, fd02::2/128\n",
        a.private, b.public
    );
    fs::write(&conf, text)?;
    run(&["wg", "setconf", &a.interface, &conf.to_string_lossy()])?;
    let key = b.directory.join("key");
    fs::write(&key, &b.private)?;
    b.wg(&["private-key", &key.to_string_lossy(), "listen-port", &PORT.to_string()])?;
    b.wg(&["peer", &a.public, "allowed-ips", "10.210.0.1/32,fd02::1/128"])?;
    Ok((a, b))
}

fn run(arguments: &[&str]) -> Result<()> {
    output(Command::new(arguments[0]).args(&arguments[1..])).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn pubkey(private: &str) -> Result<String> {
    let mut child = Command::new("wg").arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(private.as_bytes())?;
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?.trim().to_owned())
}

fn judge_ping(output: &Output) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains(" 0% packet loss"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition()? {
        if Instant::now() > deadline {
            bail!("not within ten seconds: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

#[test]
fn both_families_cross_the_tunnel_and_wg_shows_it() -> Result<()> {
    let (a, b) = pair(&[])?;
    // The first packet waits for the handshake; none is lost.
    a.ping(&["-c", "20", "-i", "0.01", "10.210.0.2"])?;
    a.ping(&["-c", "20", "-i", "0.01", "fd02::2"])?;
    b.ping(&["-c", "20", "-i", "0.01", "10.210.0.1"])?;
    assert_eq!(b.wg_show("endpoints")?, format!("{}\t192.0.2.1:{PORT}", a.public));
    assert_eq!(a.wg_show("allowed-ips")?, format!("{}\t10.210.0.2/32 fd02::2/128", b.public));
    assert_eq!((a.wg_show("private-key")?, a.wg_show("public-key")?), (a.private.clone(), a.public.clone()));
    for host in [&a, &b] {
        let shown = host.wg_show("latest-handshakes")?;
        let handshake: u64 = shown.split('\t').nth(1).context("no time")?.parse()?;
        ensure!(now()?.abs_diff(handshake) < 10, "wall clock: {shown}");
        let transfer = host.wg_show("transfer")?;
        ensure!(transfer.split('\t').skip(1).all(|bytes| bytes.parse::<u64>().unwrap_or(0) > 60 * 128));
    }
    Ok(())
}

#[test]
fn packets_as_large_as_ip_allows_cross_the_tunnel() -> Result<()> {
    let (a, b) = pair(&["--threads", "2"])?;
    for host in [&a, &b] {
        run(&["ip", "-n", &host.inner, "link", "set", &host.interface, "mtu", "65400"])?;
    }
    a.ping(&["-c", "10", "-i", "0.01", "-s", "65000", "10.210.0.2"])?;
    a.ping(&["-c", "10", "-i", "0.01", "-s", "1401", "fd02::2"])
}

#[test]
fn changes_to_a_live_peer_lose_no_packet() -> Result<()> {
    let (a, b) = pair(&[])?;
    run(&["ip", "-n", &b.outer, "address", "add", "192.0.2.3/24", "dev", "cable"])?;
    a.ping(&["-c", "3", "-i", "0.01", "10.210.0.2"])?;
    let handshakes = [a.wg_show("latest-handshakes")?, b.wg_show("latest-handshakes")?];
    let key = a.directory.join("key");
    fs::write(&key, &a.private)?;
    let stranger = pubkey(&b.public)?;
    let mut ping = a.in_overlay("ping");
    ping.args(["-n", "-q", "-W", "2", "-c", "1000", "-i", "0.002", "10.210.0.2"]);
    let mut ping = ping.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut changes = 0;
    while ping.try_wait()?.is_none() {
        for endpoint in ["192.0.2.3", "[fd01::2]", "192.0.2.2"] {
            a.wg(&["peer", &b.public, "endpoint", &format!("{endpoint}:{PORT}")])?;
        }
        a.wg(&["peer", &b.public, "persistent-keepalive", "25"])?;
        a.wg(&["peer", &b.public, "allowed-ips", "10.210.0.2/32,fd02::2/128,10.211.0.0/16"])?;
        a.wg(&["private-key", &key.to_string_lossy()])?;
        // Other peers come and go beside it, and the mark changes.
        a.wg(&["fwmark", "0x7", "peer", &stranger, "allowed-ips", "10.212.0.0/16"])?;
        a.wg(&["fwmark", "0", "peer", &stranger, "remove"])?;
        changes += 1;
    }
    judge_ping(&ping.wait_with_output()?)?;
    ensure!(changes >= 3, "only {changes} rounds of changes while pinging");
    assert_eq!(handshakes, [a.wg_show("latest-handshakes")?, b.wg_show("latest-handshakes")?]);
    Ok(())
}

#[test]
fn a_peer_that_moves_is_followed() -> Result<()> {
    let (a, b) = pair(&[])?;
    a.ping(&["-c", "3", "-i", "0.01", "10.210.0.2"])?;
    // b gets another address and another port; a learns both from b's first packet.
    run(&["ip", "-n", &b.outer, "address", "add", "192.0.2.77/24", "dev", "cable"])?;
    run(&["ip", "-n", &b.outer, "address", "del", "192.0.2.2/24", "dev", "cable"])?;
    run(&["ip", "-n", &b.outer, "address", "replace", "192.0.2.77/24", "dev", "cable"])?;
    b.wg(&["listen-port", "4711"])?;
    b.ping(&["-c", "20", "-i", "0.01", "10.210.0.1"])?;
    assert_eq!(a.wg_show("endpoints")?, format!("{}\t192.0.2.77:4711", b.public));
    a.ping(&["-c", "20", "-i", "0.01", "10.210.0.2"])
}

#[test]
fn keys_decide_who_may_talk() -> Result<()> {
    let (mut a, b) = pair(&[])?;
    let secret = b.directory.join("psk");
    fs::write(&secret, output(Command::new("wg").arg("genpsk"))?)?;
    let path = secret.to_string_lossy().into_owned();
    a.ping(&["-c", "3", "-i", "0.01", "10.210.0.2"])?;
    a.wg(&["peer", &b.public, "preshared-key", &path])?;
    ensure!(a.ping(&["-c", "1", "-W", "1", "10.210.0.2"]).is_err(), "one side alone has a preshared key");
    b.wg(&["peer", &a.public, "preshared-key", &path])?;
    eventually("the preshared key works", || Ok(a.ping(&["-c", "1", "-W", "1", "10.210.0.2"]).is_ok()))?;
    // An inner source that is not the peer's is dropped.
    a.address("10.210.0.9/24")?;
    ensure!(a.ping(&["-c", "1", "-W", "1", "-I", "10.210.0.9", "10.210.0.2"]).is_err(), "spoofed source");
    // A new private key ends the sessions; b drops a until it is told the new public key.
    let private = output(Command::new("wg").arg("genkey"))?;
    let key = a.directory.join("key");
    fs::write(&key, &private)?;
    a.wg(&["private-key", &key.to_string_lossy()])?;
    ensure!(a.ping(&["-c", "1", "-W", "1", "10.210.0.2"]).is_err(), "an unknown key was let in");
    b.wg(&["peer", &a.public, "remove"])?;
    let public = pubkey(&private)?;
    b.wg(&["peer", &public, "preshared-key", &path, "allowed-ips", "10.210.0.1/32"])?;
    eventually("the new key works", || Ok(a.ping(&["-c", "1", "-W", "1", "10.210.0.2"]).is_ok()))?;
    for host in [&mut a] {
        let (logged, secret) = (host.logged(), fs::read_to_string(&secret)?);
        ensure!(logged.contains("session established"), "nothing was logged at all");
        for secret in [&host.private, &private, secret.trim()] {
            ensure!(!logged.contains(secret), "a secret is in the log");
        }
    }
    Ok(())
}

#[test]
fn a_host_without_ipv6_and_peers_out_of_reach_do_no_harm() -> Result<()> {
    let mut host = Host::new()?;
    run(&["ip", "netns", "exec", &host.outer, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
    host.start(&[])?;
    let key = host.directory.join("key");
    fs::write(&key, &host.private)?;
    host.wg(&["listen-port", &PORT.to_string(), "private-key", &key.to_string_lossy()])?;
    // No IPv6 at all, no route, and a port that answers with ICMP.
    for endpoint in ["[2001:db8::1]:5", "198.51.100.1:5", "127.0.0.1:5"] {
        let stranger = pubkey(&output(Command::new("wg").arg("genkey"))?)?;
        host.wg(&["peer", &stranger, "endpoint", endpoint, "persistent-keepalive", "1"])?;
    }
    // Each peer's first initiation is due at once and the second after five seconds.
    eventually("every peer was tried twice", || {
        let transfer = host.wg_show("transfer")?;
        Ok(transfer.lines().all(|line| line.rsplit('\t').next().is_some_and(|sent| sent == "296")))
    })?;
    ensure!(host.logged().contains("datagram dropped"), "the kernel refused nothing");
    assert_eq!(host.wg_show("listen-port")?, PORT.to_string());
    Ok(())
}

#[test]
fn one_connection_takes_several_requests_and_refusals_change_nothing() -> Result<()> {
    let mut host = Host::new()?;
    host.start(&[])?;
    assert_eq!(fs::metadata(host.socket())?.permissions().mode() & 0o777, 0o600);
    let mut uapi = host.uapi()?;
    let peer = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
    assert_eq!(uapi.ask("set=1\nlisten_port=4000\nfwmark=9\n\n")?, "errno=0\n\n");
    assert_eq!(uapi.ask("get=1\n\n")?, "listen_port=4000\nfwmark=9\nerrno=0\n\n");
    assert_eq!(uapi.ask(&format!("set=1\npublic_key={peer}\nallowed_ip=x\n\n"))?, "errno=-22\n\n");
    assert_eq!(uapi.ask("what=1\n\n")?, "errno=-71\n\n");
    let mut other = Command::new("ip");
    other.args(["netns", "exec", &host.outer, "sleep", "0"]);
    ensure!(other.status()?.success());
    assert_eq!(uapi.ask("set=1\nlisten_port=4000\n\n")?, "errno=0\n\n");
    // Requests that arrive in pieces, or several at once.
    uapi.0.write_all(b"get=1\n")?;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(uapi.ask("\n")?, "listen_port=4000\nfwmark=9\nerrno=0\n\n");
    uapi.0.write_all(format!("set=1\npublic_key={peer}\n\nset=1\nfwmark=0\n\n").as_bytes())?;
    uapi.0.shutdown(std::net::Shutdown::Write)?;
    let mut answers = String::new();
    uapi.0.read_to_string(&mut answers)?;
    assert_eq!(answers, "errno=0\n\nerrno=0\n\n");
    let answer = host.uapi()?.ask("get=1\n\n")?;
    ensure!(answer.starts_with(&format!("listen_port=4000\npublic_key={peer}\n")), "{answer}");
    // A connection that is cut off in the middle of a request changes nothing.
    host.uapi()?.0.write_all(b"set=1\nlisten_port=5000\n")?;
    assert_eq!(host.wg_show("listen-port")?, "4000");
    Ok(())
}

#[test]
fn a_port_in_use_is_refused_and_the_old_one_kept() -> Result<()> {
    let (mut a, b) = pair(&[])?;
    a.ping(&["-c", "3", "-i", "0.01", "10.210.0.2"])?;
    // A second process in a's namespace holds a port of its own.
    let mut second = Host::new()?;
    run(&["ip", "netns", "del", &second.outer])?;
    second.outer = a.outer.clone();
    second.start(&[])?;
    let taken = second.wg_show("listen-port")?;
    assert_eq!(a.uapi()?.ask(&format!("set=1\nlisten_port={taken}\n\n"))?, "errno=-98\n\n");
    assert_eq!(a.wg_show("listen-port")?, PORT.to_string());
    b.ping(&["-c", "3", "-i", "0.01", "10.210.0.1"])?;
    let (status, _) = second.signal("-TERM")?;
    ensure!(status.success());
    // `second` must not take a's namespace with it.
    second.outer = "none".to_owned();
    let (status, _) = a.signal("-INT")?;
    ensure!(status.success());
    Ok(())
}

#[test]
fn a_process_that_ends_leaves_nothing_and_the_next_one_takes_over() -> Result<()> {
    let (mut a, b) = pair(&[])?;
    a.ping(&["-c", "3", "-i", "0.01", "10.210.0.2"])?;
    let refused = a.command().output()?;
    ensure!(refused.status.code() == Some(1));
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("belongs to a process that is alive"));
    // A client that never finishes its request does not hold up the end.
    let mut idle = a.uapi()?;
    idle.0.write_all(b"set=1\n")?;
    let (status, took) = a.signal("-TERM")?;
    ensure!(status.code() == Some(0) && took < Duration::from_secs(1), "{status} after {took:?}");
    ensure!(!a.socket().exists() && !a.has_interface());

    // An interface of that name is left alone.
    run(&["ip", "-n", &a.inner, "link", "add", &a.interface, "type", "veth"])?;
    let refused = a.command().output()?;
    ensure!(refused.status.code() == Some(1) && !a.socket().exists());
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(stderr.contains(&format!("interface {} exists already", a.interface)), "{stderr}");
    run(&["ip", "-n", &a.inner, "link", "del", &a.interface])?;

    // Killed: the interface goes, the socket stays and is replaced.
    a.start(&[])?;
    a.signal("-KILL")?;
    eventually("the interface of a killed process goes", || Ok(!a.has_interface()))?;
    ensure!(a.socket().exists());
    a.start(&[])?;
    a.address("10.210.0.1/24")?;
    run(&["wg", "setconf", &a.interface, &a.directory.join("conf").to_string_lossy()])?;
    a.ping(&["-c", "3", "-i", "0.01", "10.210.0.2"])?;
    b.ping(&["-c", "3", "-i", "0.01", "10.210.0.1"])?;

    // Deleted under it: the process says so and ends.
    run(&["ip", "-n", &a.inner, "link", "del", &a.interface])?;
    let status = a.process.as_mut().context("not started")?.wait()?;
    ensure!(status.code() == Some(1) && a.logged().contains("read from interface"), "{}", a.logged());
    Ok(())
}
