//! What scenarios do with the product: form a mesh, ask the daemon, and remember what must not change.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Ctx;
use crate::lab::{Node, Output, quote};

/// The name of every scenario's network.
pub(super) const NETWORK: &str = "prod";

/// Node 1 founds, nodes 2 to `n` join one after another, and all of them say that they are ready.
pub(super) fn mesh(ctx: &Ctx, n: usize) -> Result<()> {
    init(ctx)?;
    for i in 2..=n {
        join(ctx, i)?;
    }
    (1..=n).try_for_each(|i| meets(ctx, i, n - 1))?;
    // The peers of used invites stay for a few seconds; what follows begins from rest.
    (1..=n).try_for_each(|i| settled(ctx, i))
}

/// Node 1 founds the network.
pub(super) fn init(ctx: &Ctx) -> Result<()> {
    ctx.node(1).sh(&format!("ployzctl -q mesh init {NETWORK}"))?;
    ready(ctx, 1)
}

/// A fresh token of node 1.
pub(super) fn token(ctx: &Ctx) -> Result<String> {
    ctx.node(1).sh("ployzctl machine invite create --plain")
}

/// Node `i` joins with a fresh token of node 1.
pub(super) fn join(ctx: &Ctx, i: usize) -> Result<()> {
    join_with(ctx.node(i), &token(ctx)?)
}

/// Joins with this token.
pub(super) fn join_with(node: &Node, token: &str) -> Result<()> {
    node.sh(&format!("echo {} | ployzctl -q mesh join --token-stdin", quote(token))).map(drop)
}

/// Waits until `mesh ready` of node `i` exits with 0.
pub(super) fn ready(ctx: &Ctx, i: usize) -> Result<()> {
    let node = ctx.node(i);
    ctx.wait(30, &format!("`mesh ready` of {}", node.name()), || {
        node.sh("ployzctl --json mesh ready").map(|_| Some(()))
    })
}

/// Waits until node `i` is ready and `peers` peers answer its probes.
pub(super) fn meets(ctx: &Ctx, i: usize, peers: usize) -> Result<()> {
    ready(ctx, i)?;
    let node = ctx.node(i);
    ctx.wait(30, &format!("{} to reach {peers} peers", node.name()), || {
        let status = json(node, &format!("mesh status {NETWORK}"))?;
        let seen = status["peers"].as_array().context("peers")?;
        let reached = seen.iter().filter(|peer| peer["reachable"] == true).count();
        ensure!(seen.len() == peers && reached == peers, "{reached} of {}", seen.len());
        Ok(Some(()))
    })
}

/// The payload of `ployzctl --json ...`, which must succeed.
pub(super) fn json(node: &Node, args: &str) -> Result<Value> {
    let envelope = envelope(node, args)?;
    ensure!(envelope["ok"] == true, "{}: ployzctl {args}: {envelope}", node.name());
    Ok(envelope["payload"].clone())
}

/// The whole answer of `ployzctl --json ...`.
pub(super) fn envelope(node: &Node, args: &str) -> Result<Value> {
    let output = node.run(&format!("ployzctl --json {args}"))?;
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("{}: ployzctl {args}: {}", node.name(), told(&output)))
}

/// Runs a command of ours that must fail with exit code 1 and this error code; returns what it printed.
pub(super) fn refused(node: &Node, cmd: &str, code: &str) -> Result<String> {
    let output = node.run(cmd)?;
    let expected =
        output.code == 1 && output.stderr.lines().any(|l| l.starts_with(&format!("error [{code}]: ")));
    ensure!(expected, "{}: `{cmd}` must be refused with {code}: {}", node.name(), told(&output));
    Ok(output.stderr)
}

/// Joining with this token must be refused with this code.
pub(super) fn join_refused(node: &Node, token: &str, code: &str) -> Result<String> {
    refused(node, &format!("echo {} | ployzctl mesh join --token-stdin", quote(token)), code)
}

/// Exit code, standard output and standard error in one line of an error.
pub(super) fn told(output: &Output) -> String {
    format!("exit {}\n--- stdout\n{}\n--- stderr\n{}", output.code, output.stdout, output.stderr)
}

/// Overlay IPv6 and IPv4 service address of a node.
pub(super) fn addresses(node: &Node) -> Result<[String; 2]> {
    let status = json(node, &format!("mesh status {NETWORK}"))?;
    let text =
        |key: &str| status[key].as_str().map(str::to_owned).with_context(|| format!("{key}: {status}"));
    Ok([text("overlay_ip")?, text("service_ip")?])
}

/// The WireGuard key of a node.
pub(super) fn key(node: &Node) -> Result<String> {
    let record = json(node, "mesh self-record")?;
    record["record"]["public_key"].as_str().map(str::to_owned).with_context(|| record.to_string())
}

/// The endpoint at which a node has the peer with this key.
pub(super) fn endpoint(node: &Node, key: &str) -> Result<String> {
    let all = node.sh("ip netns exec ployz wg show wg0 endpoints")?;
    let found = all.lines().find_map(|line| line.strip_prefix(key));
    found.map(|text| text.trim().to_owned()).with_context(|| format!("no {key} in {all}"))
}

/// Everything of the data plane that lives on while ployzd does not: pids, namespace, link indices, the unit's start.
pub(super) fn identity(node: &Node) -> Result<BTreeMap<String, String>> {
    let text = node.sh(concat!(
        "for u in nats wireguard gateway dns; do echo \"$u $(systemctl show -P MainPID,InvocationID --value ployz-$u | tr '\\n' ' ')\"; done; ",
        "echo \"netns $(stat -Lc %i /run/netns/ployz)\"; ",
        "echo \"wg0 $(ip -n ployz -o link show wg0 | cut -d: -f1)\"; ",
        "echo \"veth $(cat /sys/class/net/ployz-veth/ifindex)\"; echo \"bridge $(cat /sys/class/net/ployz0/ifindex)\""
    ))?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// Fails when [`identity`] is not what it was.
pub(super) fn unchanged(node: &Node, before: &BTreeMap<String, String>) -> Result<()> {
    let now = identity(node)?;
    ensure!(now == *before, "{}: was {before:?}\nis {now:?}", node.name());
    Ok(())
}

/// How many networks the machine has.
pub(super) fn networks(node: &Node) -> Result<usize> {
    Ok(json(node, "mesh list")?["networks"].as_array().context("networks")?.len())
}

/// Restarts ployzd and returns the plan of the start, one line a component.
pub(super) fn restart(ctx: &Ctx, node: &Node) -> Result<Vec<String>> {
    node.sh("systemctl restart ployzd")?;
    started(ctx, node)
}

/// The plan of the running daemon's start.
pub(super) fn started(ctx: &Ctx, node: &Node) -> Result<Vec<String>> {
    run_of(ctx, node, "daemon start")
}

/// The plan lines of the first run with this trigger that the running daemon remembers.
pub(super) fn run_of(ctx: &Ctx, node: &Node, trigger: &str) -> Result<Vec<String>> {
    ctx.wait(20, &format!("a run of {} with trigger `{trigger}`", node.name()), || {
        let explain = json(node, "explain")?;
        let runs = explain["runs"].as_array().context("runs")?;
        let Some(run) = runs.iter().find(|run| run["trigger"] == trigger) else { bail!("{runs:?}") };
        let lines = run["lines"].as_array().context("lines")?;
        Ok(Some(lines.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()))
    })
}

/// Every plan line that the daemon logged after `since` (a cursor of [`cursor`]), in order.
pub(super) fn logged(node: &Node, since: &str) -> Result<Vec<String>> {
    let text = node.sh(&format!("journalctl -u ployzd -o cat --after-cursor={}", quote(since)))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The journal's end.
pub(super) fn cursor(node: &Node) -> Result<String> {
    let text = node.sh("journalctl --sync; journalctl -n 0 --show-cursor")?;
    text.lines().find_map(|l| l.strip_prefix("-- cursor: ").map(str::to_owned)).context("no cursor")
}

/// Waits for a logged line that begins with this component and verdict; returns it. Longer than the 30 s after which ployzd
/// looks around by itself.
pub(super) fn logs(ctx: &Ctx, node: &Node, since: &str, component: &str, verdict: &str) -> Result<String> {
    ctx.wait(40, &format!("{} to {verdict} {component}", node.name()), || {
        let lines = logged(node, since)?;
        let found = lines.iter().rfind(|line| is_step(line, component, verdict));
        let Some(line) = found else { bail!("{}", lines.join("\n")) };
        Ok(Some(line.clone()))
    })
}

/// Waits until nothing is left to do on node `i`: no peer of a closed invite is there any more, and the last run left every
/// component as it should be.
pub(super) fn settled(ctx: &Ctx, i: usize) -> Result<()> {
    let node = ctx.node(i);
    ctx.wait(60, &format!("{} to be at rest", node.name()), || {
        let members = json(node, "machine ls")?["rows"].as_array().context("rows")?.len();
        let peers = node.sh("ip netns exec ployz wg show wg0 peers | wc -l")?;
        ensure!(peers == (members - 1).to_string(), "{peers} peers of {members} members");
        let explain = json(node, "explain")?;
        let components = explain["runs"].as_array().and_then(|runs| runs.last()?["components"].as_array());
        let components = components.context("no run")?;
        ensure!(components.iter().all(|part| part["outcome"] == "ok"), "{components:?}");
        Ok(Some(()))
    })
}

/// Whether a plan line is about this component with this verdict.
pub(super) fn is_step(line: &str, component: &str, verdict: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some(component) && words.next() == Some(verdict)
}

/// Fails unless every line of a plan says `adopt`.
pub(super) fn all_adopt(plan: &[String]) -> Result<()> {
    let other: Vec<_> = plan.iter().filter(|line| line.split_whitespace().nth(1) != Some("adopt")).collect();
    ensure!(plan.len() >= 5 && other.is_empty(), "not all is adopted: {plan:#?}");
    Ok(())
}

/// Fails unless the plan says this of this component, and the rest of the line contains `words`; returns the line.
pub(super) fn says<'a>(plan: &'a [String], component: &str, verdict: &str, words: &str) -> Result<&'a str> {
    let line = plan.iter().find(|line| is_step(line, component, verdict) && line.contains(words));
    line.map(String::as_str).with_context(|| format!("no `{component} {verdict} ...{words}` in {plan:#?}"))
}

/// Both ends reach each other over the overlay, by ping and by TCP to the store's port.
pub(super) fn carries(ctx: &Ctx, from: usize, to: usize) -> Result<()> {
    let [overlay, _] = addresses(ctx.node(to))?;
    ctx.wait(20, &format!("node {from} to reach node {to} over the overlay"), || {
        let cmd = format!(
            "ping -c1 -W2 {overlay} && socat -u TCP6:[{overlay}]:4222,connect-timeout=3 - | grep -m1 INFO"
        );
        ctx.node(from).sh(&cmd).map(|_| Some(()))
    })
}

/// What of ours is on a node: namespaces, links, addresses, routes, rules, nftables, units, processes, networks on disk.
pub(super) fn traces(node: &Node) -> Result<String> {
    node.sh(TRACES)
}

/// Waits until nothing of a network is left on the node, the package apart.
pub(super) fn gone(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(20, &format!("nothing to be left on {}", node.name()), || {
        let left = traces(node)?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })
}

/// [`gone`] after a join that may be tried again with the same token: the keys made for it may wait for that.
pub(super) fn gone_but_keys(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(20, &format!("nothing but keys to be left on {}", node.name()), || {
        let left = traces(node)?;
        let files = node.sh("find /var/lib/ployz/networks -type f")?;
        let only_keys = left.lines().all(|line| line == format!("network {NETWORK}"));
        ensure!(only_keys && files.lines().all(|file| file.ends_with("/keys.json")), "left: {left}\n{files}");
        Ok(Some(()))
    })
}

/// A mesh whose machines have the image `lab/busybox` and the network of containers.
pub(super) fn mesh_with_image(ctx: &Ctx, machines: usize) -> Result<()> {
    mesh(ctx, machines)?;
    ctx.lab.each(|node| {
        node.docker_busybox()?;
        docker_network(ctx, node)
    })?;
    Ok(())
}

/// Waits until the node's ployzd has made the network of containers.
pub(super) fn docker_network(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(20, "ployzd to make the Docker network", || {
        node.sh("docker network inspect ployz0").map(|_| Some(()))
    })
}

const TRACES: &str = "ls -A /var/lib/ployz/networks 2>/dev/null | sed 's/^/network /'
[ ! -e /var/lib/ployz/active_network ] || echo active $(cat /var/lib/ployz/active_network)
ls -A /run/netns 2>/dev/null | sed 's/^/netns /'
ls -A /run/wireguard 2>/dev/null | sed 's/^/uapi /'
systemctl list-units --all --plain --no-legend 'ployz-*' 'ployz.slice' | grep -v '^ployz.slice' | sed 's/^/unit /'
ls /run/systemd/transient 2>/dev/null | grep ployz | sed 's/^/transient /'
nft list tables | grep ployz
ip -br link | grep -vE '^(lo |eth[0-9]|docker0)' | sed 's/^/link /'
ip route show table all proto 76; ip -6 route show table all proto 76
ip rule | grep -vE 'lookup (local|main|default)'
(ip rule; ip -6 rule) | grep 'proto 76'
ps -eo comm | grep -E '^(nats-server|ployz-wireguard|ployz-front|ployz-gateway|ployz-dns)'
true";
