//! A service on three nodes is asked in every way, and nobody who asks notices what is done to daemons, gateways, DNS servers,
//! other services, and to the service itself.
//!
//! Each part has a load of its own, so that a loss tells its cause. `PLOYZ_FULL=1` does everything as often as it was asked
//! for, `PLOYZ_PARTS=daemons,replicas` only the parts named.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::killed::{DROP_IN, FAST, KILL};
use super::served::{self, ALL, Clients, Load, times};
use super::{Ctx, Need, Scenario, product, secured};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "services-under-load",
    needs: &[Need::Systemd, Need::Docker, Need::Package, Need::Native],
    nodes: 3,
    underlays: 1,
    run: under_load,
}];

type Part = (&'static str, fn(&Ctx) -> Result<()>);

const PARTS: [Part; 7] = [
    ("daemons", daemons_killed),
    ("sidecars", sidecars_replaced),
    ("certificates", certificates_replaced),
    ("routes", routes_change),
    ("tcp-routes", tcp_routes_change),
    ("redeploys", redeployed),
    ("replicas", replicas_killed),
];

fn under_load(ctx: &mut Ctx) -> Result<()> {
    secured::listen(ctx)?;
    served::begin(ctx)?;
    secured::begin(ctx, SERVICE)?;
    served::deploy(ctx.node(1), &manifest(0))?;
    for i in [1, 2] {
        let url = format!("http://{}:{}/echo/a", ctx.node(i).ip(1), served::TCP);
        ctx.wait(30, "the TCP route to be served", || {
            ctx.node(3).sh(&format!("curl -sf -m 2 {url}")).map(|_| Some(()))
        })?;
    }
    let wanted = env::var("PLOYZ_PARTS").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, part) in PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        ctx.say(format!("{name}, {} counts", if served::full() { "full" } else { "fewer" }));
        if let Err(error) = part(ctx) {
            ctx.say(format!("{name}: {error:#}"));
            failed.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// ployzd is killed on all nodes, again and again.
fn daemons_killed(ctx: &Ctx) -> Result<()> {
    let kills = times(200, 30).div_ceil(3);
    let before = ctx.lab.each(product::identity)?;
    ctx.lab.each(|node| {
        node.put(FAST, DROP_IN, 0o644)?;
        node.put(KILL, "/run/kill-ployzd", 0o755)?;
        node.sh("systemctl daemon-reload")
    })?;
    let load = Load::start(ctx, SERVICE, &Clients { kinds: ALL, download: 20 })?;
    ctx.lab.each(|node| node.sh_for(ctx.lab.secs(600), &format!("/run/kill-ployzd {kills}")))?;
    let counted = load.stop(ctx)?;
    ctx.say(format!("{} kills", 3 * kills));
    ctx.lab.each(|node| node.sh(&format!("rm {DROP_IN} && systemctl daemon-reload")))?;
    counted.none_lost()?;
    for (node, before) in ctx.lab.nodes().iter().zip(&before) {
        product::unchanged(node, before)?;
    }
    counted.kept_open(&KEPT)
}

/// Gateways are made anew by a change of the configuration, DNS servers by a restart as after an upgrade.
///
/// A gateway that is replaced ends what it holds open in order; a WebSocket and a download have no such end and stay.
fn sidecars_replaced(ctx: &Ctx) -> Result<()> {
    let counts = times(50, 6);
    let clients = Clients { kinds: ALL, download: if served::full() { 45 } else { 5 } };
    let load = Load::start(ctx, SERVICE, &clients)?;
    for i in [1, 2] {
        ctx.node(i).sh("cp -p /etc/ployz/config.toml /run/config")?;
    }
    for round in 0..counts {
        let node = ctx.node(round % 2 + 1);
        let threads = [1, 3, 4, 2][round / 2 % 4];
        node.sh(&format!(
            "cp /run/config /etc/ployz/config.toml; echo 'gateway_threads = {threads}' >>/etc/ployz/config.toml"
        ))?;
        let plan = product::restart(ctx, node)?;
        product::says(&plan, "gateway", "recreate", &format!("-> {threads}"))?;
        node.sh("systemctl restart ployz-dns")?;
    }
    let counted = load.stop(ctx)?;
    ctx.say(format!("{counts} recreations each of gateway and DNS"));
    counted.none_lost()?;
    counted.kept_open(&ENDLESS)?;
    for i in [1, 2] {
        one_of_each(ctx, ctx.node(i))?;
    }
    Ok(())
}

/// What was drained is gone, now that nobody asks it any more.
fn one_of_each(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(40, "what was drained to be gone", || {
        let left = node.sh("pgrep -xc ployz-gateway; pgrep -xc ployz-dns")?;
        ensure!(left == "1\n1", "{}: gateways and DNS servers: {left}", node.name());
        Ok(Some(()))
    })
}

/// The certificate is replaced: who comes then is shown the new one, and who is there notices nothing.
fn certificates_replaced(ctx: &Ctx) -> Result<()> {
    let counts = times(50, 4);
    let load = Load::start(ctx, SERVICE, &Clients { kinds: ALL, download: 3 })?;
    for version in 1..=counts {
        secured::import(ctx, ctx.node(version % 3 + 1), SERVICE, version)?;
    }
    let counted = load.stop(ctx)?;
    ctx.say(format!("{counts} certificates imported"));
    counted.none_lost()?;
    counted.kept_open(&KEPT)
}

/// Another service's instances come and go, and so do its routes.
fn routes_change(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    served::deploy(n1, &served::manifest(OTHER, 3, 0))?;
    let load = Load::start(ctx, SERVICE, &Clients { kinds: ALL, download: 20 })?;
    let (from, wanted) = (sequence(n1)?, times(200, 20) as u64);
    let restarts = "id=$(docker ps -q --filter label=ployz.namespace=other)
        while [ ! -e /run/enough ]; do docker restart -t 0 $id >/dev/null && sleep 0.3; done; rm /run/enough";
    let restarting = ctx.lab.nodes().iter().map(|node| node.spawn(restarts)).collect::<Result<Vec<_>>>()?;
    let changed = ctx.wait(600, "the routes to have changed often", || {
        let changed = sequence(n1)? - from;
        ensure!(changed >= wanted, "{changed} changes");
        Ok(Some(changed))
    });
    ctx.lab.each(|node| node.sh("touch /run/enough"))?;
    for one in restarting {
        one.wait(ctx.lab.secs(30))?;
    }
    served::deploy(n1, &served::manifest(OTHER, 2, 1))?;
    let counted = load.stop(ctx)?;
    ctx.say(format!("{} changes of another service's routes, and a deploy of it", changed?));
    counted.none_lost()?;
    counted.kept_open(&KEPT)
}

/// How far the gateway of a node has come with the events of routes.
fn sequence(node: &Node) -> Result<u64> {
    let text = node.sh(&format!("curl -sf http://{}/metrics", served::GATEWAY_METRICS))?;
    let value = text.lines().find_map(|line| line.strip_prefix("ployz_gateway_routing_sequence "));
    value.and_then(|value| Some(value.parse::<f64>().ok()? as u64)).with_context(|| text.clone())
}

/// Another service's TCP route comes and goes: each time the gateways are made anew with other sockets.
fn tcp_routes_change(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let counts = times(10, 2);
    let (without, with) =
        (served::manifest(OTHER, 1, 0), served::with_tcp(served::manifest(OTHER, 1, 0), OTHER_TCP));
    let load = Load::start(ctx, SERVICE, &Clients { kinds: ALL, download: 8 })?;
    for _ in 0..counts {
        served::deploy(n1, &with)?;
        ctx.wait(30, "the TCP route to be served", || {
            n1.sh(&format!("curl -sf -m 2 http://{}:{OTHER_TCP}/echo/a", n2.ip(1))).map(|_| Some(()))
        })?;
        served::deploy(n1, &without)?;
        ctx.wait(30, "its port to be closed", || {
            let left = n2.sh(&format!("ss -Hltn 'sport = :{OTHER_TCP}'"))?;
            ensure!(left.is_empty(), "{left}");
            Ok(Some(()))
        })?;
    }
    let counted = load.stop(ctx)?;
    ctx.say(format!("{counts} TCP routes of another service opened and closed"));
    counted.none_lost()?;
    counted.kept_open(&ENDLESS)
}

/// The service itself is deployed anew, with candidates that start first. Old instances close what they hold in order.
fn redeployed(ctx: &Ctx) -> Result<()> {
    let counts = times(20, 2);
    let load = Load::start(ctx, SERVICE, &Clients { kinds: ALL, download: 8 })?;
    for version in 1..=counts {
        served::deploy(ctx.node(version % 3 + 1), &manifest(version))?;
    }
    let counted = load.stop(ctx)?;
    ctx.say(format!("{counts} redeploys"));
    counted.none_lost()
}

/// A replica dies. What it was sending is lost; what was asked of it and can be asked again is.
fn replicas_killed(ctx: &Ctx) -> Result<()> {
    let counts = times(10, 2);
    let load = Load::start(ctx, SERVICE, &Clients { kinds: ALL, download: 8 })?;
    let mut killed = Vec::new();
    for round in 0..counts {
        let node = ctx.node(round % 3 + 1);
        let name = node.sh("docker inspect -f '{{.Config.Hostname}} {{.Id}}' $(docker ps -q --filter label=ployz.namespace=shop)")?;
        let (name, id) = name.split_once(' ').context("one container")?;
        killed.push((name.to_owned(), now()));
        // By the kernel, so that Docker starts it again; the last one by hand, which Docker leaves alone.
        if round + 1 < counts {
            node.sh(&format!("kill -9 $(docker inspect -f '{{{{.State.Pid}}}}' {id})"))?;
        } else {
            node.sh(&format!("docker kill {id} && docker start {id}"))?;
        }
        ctx.wait(30, "the replica to be back", || {
            let listed = product::json(ctx.node(1), &format!("service ls --namespace {SERVICE}"))?;
            let ready = &listed["services"][0]["ready"];
            ensure!(*ready == 3, "{listed}");
            node.sh(&format!("curl -sf -m 2 http://$(docker inspect -f '{{{{(index .NetworkSettings.Networks \"ployz0\").IPAddress}}}}' {id}):8080/echo/a"))?;
            Ok(Some(()))
        })?;
    }
    let counted = load.stop(ctx)?;
    ctx.say(format!("{counts} replicas killed"));
    // Who was asked by then, and when it died: nothing else may be lost.
    counted.only(|kind, failure| {
        let (replica, time) = (failure["replica"].as_str(), failure["time"].as_f64());
        let at_the_kill = killed.iter().any(|(name, at)| {
            // Nobody asks elsewhere for a TCP connection that was open already, answered or not.
            let of_it = replica == Some(name.as_str()) || (kind == "tcp" && replica.is_none());
            of_it && time.is_some_and(|time| (*at..at + FELT).contains(&time))
        });
        ["websocket", "wss", "download", "tcp"].contains(&kind) && at_the_kill
    })
}

/// The service that is asked, in this version.
fn manifest(version: usize) -> Value {
    served::with_tcp(served::manifest(SERVICE, 3, version), served::TCP)
}

/// Seconds of the clock that all nodes of the lane share.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Seconds within which a client must feel that its replica died.
const FELT: f64 = 5.0;

/// What has no end that a gateway could bring about in order.
const ENDLESS: [&str; 3] = ["websocket", "wss", "tcp"];
/// What stays open while its gateway does.
const KEPT: [&str; 7] = ["http1", "http2", "websocket", "https1", "https2", "wss", "tcp"];

const SERVICE: &str = "shop";
const OTHER: &str = "other";
const OTHER_TCP: u16 = 6379;
