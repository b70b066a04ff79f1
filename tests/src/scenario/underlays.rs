//! Paths between two nodes that die, and peers that move: the tunnel follows, and ployzd does not fight it.

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::{Background, Node};

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario { name: "underlay-in-use-cut", needs: NEEDS, nodes: 2, underlays: 2, run: cut },
    Scenario { name: "roamed-peer-not-fought", needs: NEEDS, nodes: 2, underlays: 1, run: roamed },
    Scenario { name: "peer-readdressed", needs: NEEDS, nodes: 2, underlays: 1, run: readdressed },
];

const NEEDS: &[Need] = &[Need::Systemd, Need::Package];

/// The underlay in use goes silent: traffic flows over the other within 10 s, in both directions, each time.
fn cut(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    ctx.wait(30, "both nodes to know both addresses of the other", || {
        for node in [n1, n2] {
            let status = product::json(node, &format!("mesh status {NETWORK}"))?;
            let candidates = status["peers"][0]["candidates"].as_array().context("candidates")?.len();
            ensure!(candidates == 2, "{status}");
        }
        Ok(Some(()))
    })?;
    let watch = [Watch::start(ctx, 1, 2)?, Watch::start(ctx, 2, 1)?];
    let (key1, key2) = (product::key(n1)?, product::key(n2)?);
    for _ in 0..3 {
        let used = underlay_of(n1, &key2)?;
        ctx.lab.cut_underlay(used)?;
        let other = 3 - used;
        ctx.wait(20, &format!("traffic over underlay {other}"), || {
            ensure!(underlay_of(n1, &key2)? == other && underlay_of(n2, &key1)? == other, "still on {used}");
            n1.sh(&format!("ping -nqc1 -W1 {}", watch[0].address)).map(|_| Some(()))
        })?;
        product::meets(ctx, 1, 1)?;
        product::meets(ctx, 2, 1)?;
        ctx.lab.heal_underlay(used)?;
        ensure!(underlay_of(n1, &key2)? == other, "a path that works was left when the old one came back");
    }
    for watch in watch {
        let (gap, count) = watch.stop()?;
        ctx.say(format!("three cuts, longest silence {gap:.1} s of {count} answers"));
        ensure!(gap < 10.0, "{gap:.1} s without an answer");
    }
    Ok(())
}

/// The peer is behind an address translation that begins to give it another port: its new source is kept.
fn roamed(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    // Rewritten packet by packet: connection tracking would keep whichever direction it saw first.
    n2.sh("nft add table ip roam; \
           nft add chain ip roam out '{ type filter hook postrouting priority 300; }'; \
           nft add chain ip roam in '{ type filter hook prerouting priority -300; }'; \
           nft add rule ip roam out ip daddr 10.77.0.11 udp sport 51820 udp sport set 40000; \
           nft add rule ip roam in ip saddr 10.77.0.11 udp dport 40000 udp dport set 51820")?;
    let (since, key) = (product::cursor(n1)?, product::key(n2)?);
    ctx.wait(60, "n1 to see n2 at its new port", || {
        n2.sh(&format!("ping -nqc1 -W1 {}", product::addresses(n1)?[0]))?;
        let endpoint = product::endpoint(n1, &key)?;
        ensure!(endpoint == "10.77.0.12:40000", "{endpoint}");
        Ok(Some(()))
    })?;
    let watch = Watch::start(ctx, 1, 2)?;
    product::all_adopt(&product::restart(ctx, n1)?).context("roaming is not drift")?;
    let mut seen = 0;
    ctx.wait(60, "twenty looks at a roamed endpoint", || {
        let endpoint = product::endpoint(n1, &key)?;
        ensure!(endpoint == "10.77.0.12:40000", "the endpoint was fought: {endpoint}");
        n1.sh("ping -nqc5 -i0.2 10.77.0.12 >/dev/null")?;
        seen += 1;
        Ok((seen == 20).then_some(()))
    })?;
    let (gap, _) = watch.stop()?;
    ensure!(gap < 2.0, "{gap:.1} s of silence while nothing was wrong");
    let moves: Vec<_> =
        product::logged(n1, &since)?.into_iter().filter(|l| l.contains("path is dead")).collect();
    ensure!(moves.is_empty(), "{moves:?}");
    n2.sh("nft delete table ip roam").map(drop)
}

/// The peer gets another address: found again, and told to everybody.
fn readdressed(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let (watch, key) = (Watch::start(ctx, 1, 2)?, product::key(n2)?);
    n2.sh("ip addr add 10.77.0.112/24 dev eth0; ip addr del 10.77.0.12/24 dev eth0")?;
    ctx.wait(30, "n1 to find n2 at its new address", || {
        let endpoint = product::endpoint(n1, &key)?;
        ensure!(endpoint == "10.77.0.112:51820", "{endpoint}");
        n1.sh(&format!("ping -nqc1 -W1 {}", watch.address)).map(|_| Some(()))
    })?;
    ctx.wait(60, "n2's record to name the new address alone", || {
        let status = product::json(n1, &format!("mesh status {NETWORK}"))?;
        let text = status["peers"][0]["candidates"].to_string();
        ensure!(text.contains("10.77.0.112:") && !text.contains("10.77.0.12:"), "{text}");
        Ok(Some(()))
    })?;
    product::meets(ctx, 2, 1)?;
    let (gap, _) = watch.stop()?;
    ctx.say(format!("longest silence {gap:.1} s"));
    n2.sh("ip addr add 10.77.0.12/24 dev eth0; ip addr del 10.77.0.112/24 dev eth0")?;
    product::meets(ctx, 1, 1)?;
    ensure!(gap < 30.0, "{gap:.1} s without an answer");
    Ok(())
}

/// Which underlay a node reaches the peer with this key over.
fn underlay_of(node: &Node, key: &str) -> Result<usize> {
    let endpoint = product::endpoint(node, key)?;
    let found = [1, 2].into_iter().find(|k| endpoint.starts_with(["10.77.", "10.78."][k - 1]));
    found.with_context(|| format!("endpoint {endpoint}"))
}

/// Pings a node's overlay address ten times a second and notes when each answer came.
struct Watch {
    ping: Background,
    address: String,
    node: Node,
}

impl Watch {
    fn start(ctx: &Ctx, from: usize, to: usize) -> Result<Self> {
        let [address, _] = product::addresses(ctx.node(to))?;
        let node = ctx.node(from).clone();
        let ping = node.spawn(&format!("exec ping -nD -i0.1 {address}"))?;
        ctx.wait(20, "the first answers", || Ok((ping.stdout().lines().count() > 5).then_some(())))?;
        Ok(Self { ping, address, node })
    }

    /// The longest time between two answers, in seconds, up to now; and how many there were.
    fn stop(self) -> Result<(f64, usize)> {
        let now: f64 = self.node.sh("date +%s.%N")?.parse()?;
        let text = self.ping.stop()?.stdout;
        let stamp = |line: &str| line.strip_prefix('[')?.split_once(']')?.0.parse::<f64>().ok();
        let mut times: Vec<f64> =
            text.lines().filter(|l| l.contains("bytes from")).filter_map(stamp).collect();
        let count = times.len();
        times.push(now);
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        Ok((gap, count))
    }
}
