//! TCP routes: a port of every gateway, opened and closed while everything else is served; a port that another program has
//! is the error of that route alone.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::{Background, Node};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "tcp-routes",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 2,
    underlays: 1,
    run: tcp_routes,
}];

fn tcp_routes(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    deploy(n1, &[5432])?;
    everywhere(ctx, 5432)?;
    let sockets = invocations(n1)?;
    let client = Client::start(ctx)?;

    deploy(n1, &[5432, 6379])?;
    everywhere(ctx, 6379)?;
    for _ in 0..3 {
        n1.sh("systemctl kill -s KILL ployzd")?;
        ctx.wait(20, "ployzd to be back", || n1.sh("ployzctl status").map(|_| Some(())))?;
        product::all_adopt(&product::started(ctx, n1)?)?;
    }
    deploy(n1, &[5432])?;
    nowhere(ctx, 6379)?;
    ensure!(invocations(n1)? == sockets, "sockets that stay were made anew");
    taken(ctx)?;
    by_hand(ctx, n2)?;
    store_away(ctx)?;
    client.stop(ctx)?;

    let manifest = manifest(&[8222]);
    n1.put(manifest.to_string(), "/run/manifest.json", 0o644)?;
    product::refused(n1, "ployzctl deploy -f /run/manifest.json", "PORT_RESERVED")?;
    n1.sh_for(Duration::from_secs(60), "ployzctl -q service rm shop/web")?;
    nowhere(ctx, 5432)?;
    n1.sh(&format!("ployzctl mesh destroy {NETWORK}"))?;
    ctx.lab.nodes().iter().try_for_each(|node| product::gone(ctx, node))
}

/// Another program has the port on node 2, over both families: that is the error of the route, there, and of nothing else.
fn taken(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let holder = n2.spawn("exec socat TCP6-LISTEN:7379,ipv6-v6only=0,fork,reuseaddr SYSTEM:'echo other'")?;
    ctx.wait(5, "the other program to listen", || said(n1, n2, 7379).map(|_| Some(())))?;
    deploy(n1, &[5432, 7379])?;
    echoes(ctx, 1, 7379)?;
    let why = "tcp-7379: another program listens on 0.0.0.0:7379";
    ctx.wait(15, "status to name the route", || {
        let status = product::json(n2, "status")?;
        let rows = status["control_plane"].as_array().context("control_plane")?;
        let row =
            rows.iter().find(|row| row["component"] == "tcp routes").with_context(|| status.to_string())?;
        ensure!(row["healthy"] == false && text(&row["error"]).contains(why), "{row}");
        let explain = n2.sh("ployzctl explain gateway")?;
        ensure!(
            explain.lines().any(|line| line.starts_with("gateway    adopt") && line.contains(why)),
            "{explain}"
        );
        Ok(Some(()))
    })?;
    let checks = product::envelope(n2, "doctor")?;
    let all = checks["payload"]["checks"].as_array().context("checks")?;
    let check =
        all.iter().find(|check| check["check"] == "gateway-tcp-7379").with_context(|| checks.to_string())?;
    ensure!(check["level"] == "fail" && text(&check["seen"]).contains("socat"), "{check}");
    ensure!(n2.sh("journalctl -u ployzd -o cat")?.contains(why), "not in the journal");
    product::ready(ctx, 2)?;
    echoes(ctx, 2, 5432)?;
    ensure!(said(n1, n2, 7379)?.contains("other"), "taken from who had it");
    holder.stop()?;
    echoes(ctx, 2, 7379)?;
    deploy(n1, &[5432])?;
    nowhere(ctx, 7379)
}

/// A socket that was closed by hand is opened again.
fn by_hand(ctx: &Ctx, node: &Node) -> Result<()> {
    // While nobody looks: a run that is still about the deploy before this would open it again.
    node.sh("systemctl stop ployzd; systemctl stop ployz-gateway-tcp-5432.socket; systemctl start ployzd")?;
    let plan = product::started(ctx, node)?;
    ctx.say(product::says(&plan, "gateway", "converge", "ployz-gateway-tcp-5432.socket: missing")?);
    echoes(ctx, 2, 5432)?;
    product::all_adopt(&product::restart(ctx, node)?)
}

/// What was last known is opened, and nothing is closed.
fn store_away(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    product::all_adopt(&product::restart(ctx, n2)?)?;
    n2.sh("systemctl stop ployz-gateway ployz-gateway.socket 'ployz-gateway-*.socket'")?;
    product::restart(ctx, n2)?;
    echoes(ctx, 2, 5432)?;
    n1.sh("systemctl start ployzd")?;
    product::ready(ctx, 1)?;
    product::meets(ctx, 2, 1)
}

fn everywhere(ctx: &Ctx, port: u16) -> Result<()> {
    [1, 2].into_iter().try_for_each(|i| echoes(ctx, i, port))
}

/// A plain TCP client of the other node is answered at this port of node `i`, over both families.
fn echoes(ctx: &Ctx, i: usize, port: u16) -> Result<()> {
    ctx.wait(40, &format!("port {port} of node {i} to echo"), || {
        let said = said(ctx.node(3 - i), ctx.node(i), port)?;
        ensure!(said == "hello", "{said:?}");
        let said = said_at(ctx.node(3 - i), &format!("TCP6:[{}]:{port}", ctx.node(i).ip6()))?;
        ensure!(said == "hello", "over IPv6: {said:?}");
        Ok(Some(()))
    })
}

fn said(from: &Node, to: &Node, port: u16) -> Result<String> {
    said_at(from, &format!("TCP4:{}:{port}", to.ip(1)))
}

fn said_at(from: &Node, at: &str) -> Result<String> {
    from.sh(&format!("echo hello | socat -t2 - {at},connect-timeout=3 | head -1"))
}

/// The port is closed and its unit gone, on every node.
fn nowhere(ctx: &Ctx, port: u16) -> Result<()> {
    for i in [1, 2] {
        ctx.wait(30, &format!("port {port} of node {i} to be closed"), || {
            let left = ctx.node(i).sh(&format!("systemctl list-units --all --plain --no-legend 'ployz-gateway-tcp-{port}.socket'; ss -Hltn 'sport = :{port}'"))?;
            ensure!(left.is_empty(), "{left}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

fn invocations(node: &Node) -> Result<String> {
    node.sh("systemctl show -P InvocationID ployz-gateway.socket ployz-gateway-tcp-5432.socket")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn deploy(node: &Node, listen: &[u16]) -> Result<()> {
    node.put(manifest(listen).to_string(), "/run/manifest.json", 0o644)?;
    node.sh_for(Duration::from_secs(120), "ployzctl -q deploy -f /run/manifest.json").map(drop)
}

fn manifest(listen: &[u16]) -> Value {
    let mut routes = vec![json!({"host": "shop.example.org", "port": "http"})];
    routes.extend(listen.iter().map(|port| json!({"listen": port, "port": "echo"})));
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web",
        "image": "lab/busybox",
        "command": ["sh", "-c", "mkdir /www; echo hello >/www/index.html; nc -ll -p 7000 -e cat & exec httpd -f -p 8080 -h /www"],
        "stop_grace_period": "1s",
        "ports": [{"name": "http", "port": 8080}, {"name": "echo", "port": 7000}],
        "routes": routes,
        "placement": {"replicas": 2},
        "readiness": {"kind": "http", "port": "http", "path": "/", "interval": "300ms"}
    }]})
}

/// On node 2, asking node 1 all the while: one TCP connection that never ends, one of HTTP that is made anew only when the
/// gateway says that it closes it, and new ones of both.
struct Client(Background);

impl Client {
    fn start(ctx: &Ctx) -> Result<Self> {
        let n2 = ctx.node(2);
        n2.put(CLIENT, "/run/client.py", 0o644)?;
        let client =
            n2.spawn(&format!("rm -f /run/stop; exec python3 -u /run/client.py {}", ctx.node(1).ip(1)))?;
        ctx.wait(10, "the client to be answered", || {
            ensure!(client.stdout().contains("begun"), "{}{}", client.stdout(), client.stderr());
            Ok(Some(()))
        })?;
        Ok(Self(client))
    }

    fn stop(self, ctx: &Ctx) -> Result<()> {
        ctx.node(2).sh("touch /run/stop")?;
        let output = self.0.wait(ctx.lab.secs(20))?;
        let Some(told) = output.stdout.lines().find(|line| line.starts_with("none lost")) else {
            bail!("lost: {}", product::told(&output));
        };
        ctx.say(told);
        Ok(())
    }
}

const CLIENT: &str = r#"
import os, socket, sys, time
at = sys.argv[1]

def connect(port):
    return socket.create_connection((at, port), 10)

def more(s, what):
    data = s.recv(4096)
    assert data, what + ' was ended'
    return data

def echo(s, n, what):
    sent = b'%d\n' % n
    s.sendall(sent)
    got = b''
    while len(got) < len(sent):
        got += more(s, what)
    assert got == sent, (what, got)

def ask(s, what):
    s.sendall(b'GET / HTTP/1.1\r\nHost: shop.example.org\r\n\r\n')
    got = b''
    while b'\r\n\r\n' not in got:
        got += more(s, what)
    head, body = got.lower().split(b'\r\n\r\n', 1)
    assert head.startswith(b'http/1.1 200'), (what, head)
    length = int(head.split(b'content-length:')[1].split()[0])
    while len(body) < length:
        body += more(s, what)
    return b'connection: close' in head

long, kept, n, closed = connect(5432), connect(80), 0, 0
while not os.path.exists('/run/stop'):
    n += 1
    echo(long, n, 'the TCP connection')
    if ask(kept, 'the HTTP connection'):
        kept, closed = connect(80), closed + 1
    with connect(5432) as s:
        echo(s, n, 'a new TCP connection')
    with connect(80) as s:
        ask(s, 'a new HTTP connection')
    if n == 1:
        print('begun')
    time.sleep(0.01)
print('none lost: %d rounds on one TCP connection, %d HTTP connections ended in order' % (n, closed))
"#;
