//! What somebody else did to the store's unit. A clone of the unit, started by hand with one thing changed, stands in for drift.

use anyhow::{Context, Result, ensure};

use super::product::{self, says};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 2] =
    [scenario("drift-nats-killed", killed), scenario("drift-nats-unit", unit)];

const fn scenario(name: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Package], nodes: 2, underlays: 1, run }
}

/// systemd restarts a killed store (and tunnel); ployzd adopts what comes back and recreates nothing.
fn killed(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n1 = ctx.node(1);
    for unit in ["nats", "wireguard"] {
        if !n1.run(&format!("systemctl is-active -q ployz-{unit}"))?.ok() {
            continue; // the kernel's tunnel has no process
        }
        let (since, before) = (product::cursor(n1)?, product::identity(n1)?);
        n1.sh(&format!("kill -9 $(systemctl show -P MainPID ployz-{unit})"))?;
        ctx.wait(20, &format!("{unit} to run again"), || {
            let now = product::identity(n1)?;
            ensure!(now[unit] != before[unit] && !now[unit].starts_with("0 "), "{now:?}");
            Ok(Some(()))
        })?;
        both_ways(ctx).with_context(|| format!("after {unit} was killed"))?;
        let plans = product::logged(n1, &since)?;
        let recreated: Vec<_> =
            plans.iter().filter(|l| l.split_whitespace().nth(1) == Some("recreate")).collect();
        if unit == "nats" {
            ensure!(recreated.is_empty(), "systemd had it already: {recreated:#?}");
            ensure!(product::identity(n1)?["netns"] == before["netns"]);
        }
        product::all_adopt(&product::restart(ctx, n1)?)?;
    }
    // The same while ployzd is away, and seen by its start.
    n1.sh("systemctl stop ployzd; kill -9 $(systemctl show -P MainPID ployz-nats)")?;
    ctx.wait(20, "the store to run again without ployzd", || {
        n1.sh("ip netns exec ployz curl -sf http://127.0.0.1:8222/healthz").map(|_| Some(()))
    })?;
    n1.sh("systemctl start ployzd")?;
    product::all_adopt(&product::started(ctx, n1)?)?;
    // Killed and looked at in the same moment: between states is no reason to touch it.
    let since = product::cursor(n1)?;
    n1.sh("systemctl stop ployzd; kill -9 $(systemctl show -P MainPID ployz-nats); systemctl start ployzd")?;
    both_ways(ctx)?;
    let plans = product::logged(n1, &since)?;
    ensure!(!plans.iter().any(|l| product::is_step(l, "nats", "recreate")), "{plans:#?}");
    product::all_adopt(&product::restart(ctx, n1)?)
}

fn unit(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n1 = ctx.node(1);
    n1.put(CLONE, "/run/clone-nats", 0o755)?;

    // As it was: the clone itself is no drift, whoever started it.
    let pid = clone(ctx, n1, "", "")?;
    product::all_adopt(&product::started(ctx, n1)?).context("an exact clone")?;
    same(n1, &pid)?;

    let pid = clone(ctx, n1, "s/PLOYZ_CONFIG_HASH=.*/PLOYZ_CONFIG_HASH=v0:deadbeef/", "")?;
    product::all_adopt(&product::started(ctx, n1)?).context("an older fingerprint version")?;
    same(n1, &pid)?;

    let drifts = [
        ("s/PLOYZ_NATS_ROLE=.*/PLOYZ_NATS_ROLE=other/", "", "env.PLOYZ_NATS_ROLE: other -> standalone"),
        ("s/PLOYZ_CONFIG_HASH=.*/PLOYZ_CONFIG_HASH=v0:deadbeef/", "-p ReadWritePaths=/srv", "writable: "),
        ("s/PLOYZ_CONFIG_HASH=.*/PLOYZ_CONFIG_HASH=v1:00000000/", "", "fingerprint: v1:00000000"),
        ("", "other", "netns: net:["),
    ];
    for (edit, extra, words) in drifts {
        let pid = clone(ctx, n1, edit, extra)?;
        let line = says(&product::started(ctx, n1)?, "nats", "recreate", words)?.to_owned();
        ctx.say(line);
        both_ways(ctx)?;
        ensure!(pid_of(n1)? != pid, "{words}: the old process runs on");
        product::all_adopt(&product::restart(ctx, n1)?)?;
    }

    // Without our mark it is somebody's: held, and nothing is done to it.
    let pid = clone(ctx, n1, "/PLOYZ_CONFIG_HASH/d", "")?;
    let line = says(&product::started(ctx, n1)?, "nats", "hold", "not ours")?.to_owned();
    ctx.say(line);
    same(n1, &pid)?;
    n1.sh("systemctl stop ployz-nats")?;
    both_ways(ctx).context("after the foreign unit went away")?;
    product::all_adopt(&product::restart(ctx, n1)?)
}

/// Stops ployzd, starts the clone, starts ployzd; returns the clone's pid as ployzd finds it.
fn clone(ctx: &Ctx, node: &Node, edit: &str, extra: &str) -> Result<String> {
    node.sh("systemctl stop ployzd")?;
    node.sh(&format!("/run/clone-nats '{edit}' {extra}"))?;
    ctx.wait(20, "the clone to run", || {
        node.sh("systemctl is-active -q ployz-nats")?;
        Ok(Some(()))
    })?;
    let pid = pid_of(node)?;
    node.sh("systemctl start ployzd")?;
    Ok(pid)
}

fn pid_of(node: &Node) -> Result<String> {
    node.sh("systemctl show -P MainPID ployz-nats")
}

fn same(node: &Node, pid: &str) -> Result<()> {
    let now = pid_of(node)?;
    ensure!(now == pid, "the store was restarted: {pid} -> {now}");
    Ok(())
}

fn both_ways(ctx: &Ctx) -> Result<()> {
    for (i, peer) in [(1, 2), (2, 1)] {
        product::meets(ctx, i, 1)?;
        product::carries(ctx, i, peer)?;
    }
    Ok(())
}

/// clone-nats EDIT [other | SYSTEMD-RUN-ARGUMENTS]   EDIT is for sed, on one variable a line. `other`: the process really runs in
/// another namespace, although the unit names the path of ours (a namespace mounted there for that moment).
const CLONE: &str = r#"#!/bin/bash
set -e
edit=$1; shift
mapfile -t env < <(systemctl show -P Environment ployz-nats | tr ' ' '\n' | tr -d '"' | sed -e "$edit")
exec=$(systemctl show -P ExecStart ployz-nats | sed 's/.*argv\[\]=\([^;]*\) ;.*/\1/')
writable=$(systemctl show -P ReadWritePaths ployz-nats)
systemctl stop ployz-nats
if [ "${1:-}" = other ]; then
  shift
  ip netns add other; ip -n other link set lo up
  ip -n other addr add "$(ip -n ployz -6 -o addr show wg0 scope global | awk '{print $4}')" dev lo nodad
  mount --bind /run/netns/other /run/netns/ployz
  trap 'umount -l /run/netns/ployz; ip netns del other' EXIT
fi
args=(); for e in "${env[@]}"; do args+=(-p "Environment=$e"); done
systemd-run -q --unit=ployz-nats -p Type=exec "${args[@]}" -p User=ployz-nats -p NetworkNamespacePath=/run/netns/ployz \
  -p ReadWritePaths="$writable" -p CapabilityBoundingSet= -p AmbientCapabilities= -p Slice=ployz.slice -p Restart=always \
  -p RestartSec=1 -p CollectMode=inactive-or-failed -p 'ExecReload=/bin/kill -1 $MAINPID' "$@" $exec
"#;
