//! `ployzctl doctor`: quiet on a healthy machine, and naming what was broken on one that is not, with ployzd and without.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::{Ctx, Need, Scenario, product, upstream};
use crate::lab::{Background, Node};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "doctor-names-what-is-broken",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 2,
    underlays: 1,
    run: doctor,
}];

fn doctor(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let mut resolvers = Vec::new();
    for i in [1, 2] {
        ctx.node(i).sh("cp /etc/resolv.conf /run/resolv.conf.before")?;
        upstream::list(ctx.node(i), "/etc/resolv.conf", "127.0.0.1")?;
        resolvers.push(upstream::start(ctx, ctx.node(i), "127.0.0.1", "192.0.2.1")?);
        healthy(ctx, ctx.node(i))?;
    }
    let n2 = ctx.node(2);
    ctx.say(n2.sh("ployzctl doctor")?);
    let again = no_resolver(ctx, n2, resolvers.pop().context("a resolver")?)?;
    resolvers.push(again);
    config_refused(ctx, n2)?;
    docker_stopped(ctx, n2)?;
    port_taken(ctx, n2)?;
    gateway_hangs(ctx, n2)?;
    certificate_ends(ctx, n2)?;
    store_stopped(ctx, n2)?;
    founder_away(ctx)?;
    ctx.lab.each(|node| node.sh("cp /run/resolv.conf.before /etc/resolv.conf"))?;
    product::settled(ctx, 2)
}

fn no_resolver(ctx: &Ctx, node: &Node, resolver: Background) -> Result<Background> {
    resolver.stop()?;
    names(ctx, node, &[("dns-upstreams", "no resolver of the host answers: 127.0.0.1 does not answer")])?;
    let again = upstream::start(ctx, node, "127.0.0.1", "192.0.2.1")?;
    healthy(ctx, node)?;
    Ok(again)
}

fn config_refused(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh("cp -p /etc/ployz/config.toml /run/config; echo 'nonsense = 1' >>/etc/ployz/config.toml")?;
    names(ctx, node, &[("config", "nonsense")])?;
    node.run("systemctl restart ployzd")?;
    names(ctx, node, &[("daemon", "does not answer"), ("config", "nonsense")])?;
    node.sh("cp -p /run/config /etc/ployz/config.toml; rm /run/config; systemctl start ployzd")?;
    healthy(ctx, node)
}

fn docker_stopped(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh("systemctl stop docker.socket docker")?;
    names(ctx, node, &[("docker", "not available")])?;
    ctx.wait(20, "status to say so too", || {
        let status = product::json(node, "status")?;
        let parts = status["control_plane"].as_array().context("control_plane")?.clone();
        let docker = parts.iter().find(|part| part["component"] == "docker").context("docker")?;
        ensure!(docker["healthy"] == false && docker["stale_since_unix_secs"].is_u64(), "{docker}");
        Ok(Some(()))
    })?;
    node.sh("systemctl start docker.socket docker")?;
    healthy(ctx, node)
}

fn port_taken(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh("systemctl stop ployzd && systemctl stop 'ployz-gateway*.socket' ployz-gateway")?;
    let holder = node.spawn("exec socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:true")?;
    ctx.wait(10, "somebody else to have port 80", || {
        node.sh("ss -Hltn 'sport = :80' | grep -q .").map(Some)
    })?;
    node.run("systemctl start ployzd")?;
    names(ctx, node, &[("gateway-port", "socat (pid "), ("gateway", "")])?;
    holder.stop()?;
    healthy(ctx, node)
}

/// Its sockets are there, and what it last said of its routes.
fn gateway_hangs(ctx: &Ctx, node: &Node) -> Result<()> {
    let signal = |name: &str| node.sh(&format!("pkill -{name} -x ployz-gateway"));
    signal("STOP")?;
    names(ctx, node, &[("gateway-answers", "timed out")])?;
    signal("CONT")?;
    healthy(ctx, node)
}

/// One of the store that ends soon, until its successor is there.
fn certificate_ends(ctx: &Ctx, node: &Node) -> Result<()> {
    let import = |days: u32| {
        node.sh(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=shop -days {days} -addext \
             subjectAltName=DNS:shop.example.org -keyout /run/shop.key -out /run/shop.crt 2>&1 && \
             ployzctl cert import --cert /run/shop.crt --key /run/shop.key"
        ))
    };
    node.sh("cp -p /etc/ployz/config.toml /run/config; echo 'gateway_https_listen_addr = \"0.0.0.0:443\"' >>/etc/ployz/config.toml; systemctl restart ployzd")?;
    healthy(ctx, node)?;
    import(10)?;
    names(ctx, node, &[("certificates", "shop.example.org expires in 9 days")])?;
    import(90)?;
    healthy(ctx, node)?;
    node.sh("ployzctl cert rm shop.example.org; mv /run/config /etc/ployz/config.toml; rm /run/shop.*; systemctl restart ployzd")?;
    healthy(ctx, node)
}

fn store_stopped(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    names(ctx, node, &[("daemon", "does not answer"), ("nats", "missing"), ("store", "does not answer")])?;
    names(ctx, node, &[("dns-names", "as last known"), ("gateway-routes", "as last known")])?;
    node.sh("systemctl start ployzd")?;
    healthy(ctx, node)
}

fn founder_away(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    names(
        ctx,
        n2,
        &[("store-links", "not connected to the store on n1"), ("peer n1", "its ployzd does not")],
    )?;
    n1.sh("systemctl start ployzd")?;
    healthy(ctx, n1)?;
    healthy(ctx, n2)
}

/// Nothing to say but how full the build machine's disk is.
fn healthy(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(60, &format!("{} to be healthy", node.name()), || {
        let found = findings(node)?;
        let told = found.iter().filter(|(name, (level, _))| !name.contains("disk") && level != "ok");
        let told: Vec<_> = told.collect();
        ensure!(told.is_empty() && found.len() > 20, "{told:?}");
        Ok(Some(()))
    })
}

/// These checks fail, or warn where a machine is only worse off, with these words; the exit code says so.
fn names(ctx: &Ctx, node: &Node, wanted: &[(&str, &str)]) -> Result<()> {
    ctx.wait(20, &format!("{} to name {wanted:?}", node.name()), || {
        let found = findings(node)?;
        for (check, words) in wanted {
            let (level, seen) = found.get(*check).with_context(|| format!("no {check} in {found:?}"))?;
            ensure!(level != "ok" && seen.contains(words), "{check}: {level} {seen}");
        }
        let failed = found.values().any(|(level, _)| level == "fail");
        ensure!(failed == (node.run("ployzctl -q doctor")?.code == 1), "the exit code: {found:?}");
        Ok(Some(()))
    })
}

/// Each check with its level and what was seen.
pub(super) fn findings(node: &Node) -> Result<BTreeMap<String, (String, String)>> {
    let envelope = product::envelope(node, "doctor")?;
    let checks = envelope["payload"]["checks"].as_array().with_context(|| envelope.to_string())?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(checks.iter().map(|one| (text(&one["check"]), (text(&one["level"]), text(&one["seen"])))).collect())
}
