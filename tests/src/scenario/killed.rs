//! ployzd is killed again and again: tunnels and store do not notice, and every start adopts all without a write.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pings::Pings;
use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::{Background, Lane, Node};

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "daemon-killed-under-load",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: under_load,
    },
    Scenario {
        name: "daemon-restart-writes-nothing",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: writes_nothing,
    },
];

fn under_load(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let kills = if ctx.lane() == Lane::Ns { 200 } else { 50 };
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.put(FAST, DROP_IN, 0o644)?;
    n1.sh("systemctl daemon-reload")?;
    product::settled(ctx, 1)?;
    product::settled(ctx, 2)?;
    let leaves = leaf_connections(n1)?;
    let (before, peer) = (product::identity(n1)?, product::identity(n2)?);
    let since = product::cursor(n1)?;

    let load = Load::start(ctx)?;
    n1.put(KILL, "/run/kill-ployzd", 0o755)?;
    let killer = n1.spawn(&format!("/run/kill-ployzd {kills}"))?;
    let limit = ctx.lab.secs(240);
    let killed = killer.wait(limit)?;
    ensure!(killed.ok(), "{}", product::told(&killed));
    load.stop(ctx)?;

    product::ready(ctx, 1)?;
    product::unchanged(n1, &before)?;
    product::unchanged(n2, &peer)?;
    ensure!(leaf_connections(n1)? == leaves, "the leaf node's connection was made anew");
    let adopted = plans(&product::logged(n1, &since)?)?;
    ensure!(adopted >= kills, "{adopted} starts that adopted all, of {kills}");
    ctx.say(format!("{kills} kills, {adopted} plans, all adopted"));
    n1.sh(&format!("rm -r {DROP_IN} && rmdir $(dirname {DROP_IN}) && systemctl daemon-reload"))?;
    product::all_adopt(&product::restart(ctx, n1)?)
}

/// Counts the plans in these log lines; a line of one that is not `adopt` is an error.
fn plans(lines: &[String]) -> Result<usize> {
    let other: Vec<_> = lines
        .iter()
        .filter(|line| {
            ["converge", "create", "recreate", "hold"]
                .iter()
                .any(|v| line.split_whitespace().nth(1) == Some(v))
        })
        .collect();
    ensure!(other.is_empty(), "plans that are not all adopt: {other:#?}");
    Ok(lines.iter().filter(|line| line.starts_with("daemon start: adopted ")).count())
}

fn leaf_connections(founder: &Node) -> Result<Vec<String>> {
    let text = founder.sh("ip netns exec ployz curl -sf http://127.0.0.1:8222/leafz")?;
    let leaves: Value = serde_json::from_str(&text)?;
    let list = leaves["leafs"].as_array().context("leafs")?;
    ensure!(list.len() == 1, "{leaves}");
    Ok(list.iter().map(|leaf| format!("{} {}", leaf["id"], leaf["port"])).collect())
}

/// Ping at 100 a second from host to overlay, requests and new connections to the store, health checks on the loopback.
struct Load {
    pings: Pings,
    asking: Vec<(&'static str, Background)>,
}

impl Load {
    fn start(ctx: &Ctx) -> Result<Self> {
        let (n1, n2) = (ctx.node(1), ctx.node(2));
        let ([own, _], [peer, _]) = (product::addresses(n1)?, product::addresses(n2)?);
        n1.sh("rm -f /run/load-stop")?;
        n1.put(include_str!("load.py"), "/run/load.py", 0o644)?;
        let record = product::json(n1, "mesh self-record")?;
        let key = record["record"]["nats_key"].as_str().with_context(|| record.to_string())?.to_owned();
        let seed = n1.sh("jq -r .nats_seed /var/lib/ployz/networks/prod/keys.json")?;
        let pings = Pings::start(ctx, n1, &peer, 0.01)?;
        let asking = vec![
            ("requests", n1.spawn(&format!("exec python3 /run/load.py requests {own} {key} {seed}"))?),
            ("connects", n1.spawn(&format!("exec python3 /run/load.py connects {own}"))?),
            ("health", n1.spawn("exec ip netns exec ployz python3 /run/load.py health")?),
        ];
        ctx.wait(20, "the load to begin", || {
            let idle = asking.iter().find(|(_, load)| !load.stdout().contains("begun"));
            ensure!(idle.is_none(), "{:?}", idle.map(|(name, load)| (name, load.stderr())));
            Ok(Some(()))
        })?;
        Ok(Self { pings, asking })
    }

    fn stop(self, ctx: &Ctx) -> Result<()> {
        ctx.node(1).sh("touch /run/load-stop")?;
        for (name, load) in self.asking {
            let output = load.wait(ctx.lab.secs(30))?;
            let last = output.stdout.lines().last().unwrap_or_default();
            let told: Value = serde_json::from_str(last).with_context(|| product::told(&output))?;
            let none_failed = told["failed"].as_array().is_some_and(Vec::is_empty);
            ensure!(none_failed && told["asked"].as_u64() > Some(50), "{name}: {told}");
            ctx.say(format!("{name}: {told}"));
        }
        let answered = self.pings.all_answered(ctx)?;
        ctx.say(format!("ping: {answered} sent and answered"));
        ensure!(answered > 500, "only {answered} pings were sent");
        Ok(())
    }
}

/// Monitors of netlink, nftables and D-Bus stay silent while ployzd is killed and starts.
fn writes_nothing(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    for i in [1, 2] {
        let node = ctx.node(i);
        product::settled(ctx, i)?;
        let tunnel = |node: &Node| node.sh("ip netns exec ployz wg showconf wg0 | sort");
        let (before, config) = (product::identity(node)?, tunnel(node)?);
        let files = node.sh(FILES)?;
        let monitors = MONITORS.map(|(name, cmd)| node.spawn(cmd).map(|monitor| (name, monitor)));
        let monitors = monitors.into_iter().collect::<Result<Vec<_>>>()?;
        seen_by_all(ctx, node, &monitors)?;
        let heard = silence(ctx, &monitors)?;
        for round in 1..=3 {
            node.sh("systemctl kill -s KILL ployzd")?;
            ctx.wait(20, "ployzd to be back", || {
                let state = node.sh("systemctl show -P NRestarts,SubState --value ployzd | tr '\\n' ' '")?;
                ensure!(state.contains("running") && state.starts_with(&format!("{round} ")), "{state}");
                Ok(Some(()))
            })?;
            product::all_adopt(&product::started(ctx, node)?)?;
            product::meets(ctx, i, 1)?;
        }
        for ((name, monitor), heard) in monitors.into_iter().zip(heard) {
            let told = monitor.stop()?.stdout[heard..].to_owned();
            let writes: Vec<&str> = told.lines().filter(|line| is_write(name, line)).collect();
            ensure!(writes.is_empty(), "n{i}: {name} heard {}", writes.join("\n"));
        }
        product::unchanged(node, &before)?;
        ensure!(tunnel(node)? == config, "n{i}: the tunnel's configuration was changed");
        let now = node.sh(FILES)?;
        ensure!(now == files, "n{i}: files were written:\n{files}\n{now}");
    }
    Ok(())
}

/// Proves that each monitor hears: one change of ours for each, undone again.
fn seen_by_all(ctx: &Ctx, node: &Node, monitors: &[(&str, Background)]) -> Result<()> {
    ctx.wait(20, "all monitors to hear", || {
        node.sh(concat!(
            "for n in 'ip' 'ip -n ployz'; do $n link add probe0 type veth peer name probe1; $n link del probe0; done; ",
            "for n in '' 'ip netns exec ployz'; do $n nft add table inet probe; $n nft delete table inet probe; done; ",
            "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager ResetFailed"
        ))?;
        let deaf: Vec<_> = monitors
            .iter()
            .filter(|(_, m)| !m.stdout().contains("probe") && !m.stdout().contains("ResetFailed"))
            .map(|(name, m)| format!("{name}: {}", m.stderr()))
            .collect();
        ensure!(deaf.is_empty(), "{deaf:?}");
        Ok(Some(()))
    })?;
    Ok(())
}

/// Waits until the monitors hear nothing new; returns how much each has heard.
fn silence(ctx: &Ctx, monitors: &[(&str, Background)]) -> Result<Vec<usize>> {
    let mut last = (Vec::new(), 0);
    ctx.wait(30, "silence", || {
        let heard: Vec<usize> = monitors.iter().map(|(_, m)| m.stdout().len()).collect();
        last = if heard == last.0 { (heard, last.1 + 1) } else { (heard, 0) };
        Ok((last.1 == 10).then(|| last.0.clone()))
    })
}

/// Whether a monitor's line tells of a change.
fn is_write(monitor: &str, line: &str) -> bool {
    if line.contains("probe") {
        return false;
    }
    if monitor != "dbus" {
        // A new tun device, process or neighbour is not ours to silence; links, addresses, routes and rules are watched alone.
        return !line.trim().is_empty() && !line.starts_with("# new generation");
    }
    let Ok(message) = serde_json::from_str::<Value>(line) else { return false };
    let member = message["member"].as_str().unwrap_or_default();
    message["type"] == "method_call"
        && message["destination"] == "org.freedesktop.systemd1"
        && !READS.contains(&member)
}

const READS: [&str; 10] = [
    "Get",
    "GetAll",
    "GetUnit",
    "GetUnitByPID",
    "ListUnits",
    "ListUnitsByNames",
    "ListUnitsByPatterns",
    "Ping",
    "Introspect",
    "ResetFailed",
];

/// The monitors. `ip monitor` without neighbours, which change by themselves.
const MONITORS: [(&str, &str); 5] = [
    ("netlink-host", "exec stdbuf -oL ip monitor link address route rule netconf nexthop"),
    (
        "netlink-netns",
        "exec ip netns exec ployz stdbuf -oL ip monitor link address route rule netconf nexthop",
    ),
    ("nft-host", "exec stdbuf -oL nft monitor"),
    ("nft-netns", "exec ip netns exec ployz stdbuf -oL nft monitor"),
    (
        "dbus",
        "exec busctl monitor --json=short --match \"type='method_call',destination='org.freedesktop.systemd1'\"",
    ),
];

/// When the files that describe the data plane were last written.
const FILES: &str =
    "cd /var/lib/ployz; stat -c '%n %i %y' active_network networks/prod/*.json networks/prod/nats/*.conf";

pub(super) const DROP_IN: &str = "/run/systemd/system/ployzd.service.d/test.conf";
pub(super) const FAST: &str = "[Service]\nRestartSec=20ms\n";

/// Kills ployzd so many times; each time waits until systemd says that it is back.
pub(super) const KILL: &str = r#"#!/bin/bash
set -e
pid() { systemctl show -P MainPID ployzd; }
for i in $(seq "$1"); do
  old=$(pid)
  kill -9 "$old"
  for t in $(seq 400); do
    new=$(pid)
    if [ "$new" != "$old" ] && [ "$new" != 0 ] && [ "$(systemctl show -P SubState ployzd)" = running ]; then continue 2; fi
    sleep 0.05
  done
  echo "kill $i: not back"; exit 1
done
"#;
