//! A service on three nodes is asked in every way, and nobody who asks notices what is done to daemons, gateways, DNS servers,
//! other services, and to the service itself.
//!
//! Each part has a load of its own, so that a loss tells its cause. `PLOYZ_FULL=1` does everything as often as it was asked
//! for, `PLOYZ_PARTS=daemons,replicas` only the parts named.

use std::env;

use anyhow::{Result, ensure};

use super::killed::{DROP_IN, FAST, KILL};
use super::served::{self, ALL, Clients, Load, times};
use super::{Ctx, Need, Scenario, product};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "services-under-load",
    needs: &[Need::Systemd, Need::Docker, Need::Package, Need::Native],
    nodes: 3,
    underlays: 1,
    run: under_load,
}];

type Part = (&'static str, fn(&Ctx) -> Result<()>);

const PARTS: [Part; 1] = [("daemons", daemons_killed)];

fn under_load(ctx: &mut Ctx) -> Result<()> {
    served::begin(ctx)?;
    served::deploy(ctx.node(1), &served::manifest(SERVICE, 3, 0))?;
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
    kept_open(&counted, &["http1", "http2", "websocket"])
}

/// What a load's clients of these kinds held open was never closed.
fn kept_open(counted: &served::Counted, kinds: &[&str]) -> Result<()> {
    for kind in kinds {
        let closed = counted.closed(kind);
        ensure!(closed == Some(0), "connections of {kind} were closed: {closed:?}");
    }
    Ok(())
}

const SERVICE: &str = "shop";
