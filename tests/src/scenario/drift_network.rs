//! What somebody else did to the network parts, and what ployzd does about it: the least, and it says what.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::product::{self, says};
use super::{Ctx, Need, Scenario};
use crate::lab::{Lane, Node, poll};

pub(super) const SCENARIOS: [Scenario; 4] = [
    scenario("drift-netns", netns),
    scenario("drift-tunnel", tunnel),
    scenario("drift-port", port),
    scenario("drift-links-and-firewall", links),
];

const fn scenario(name: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Package], nodes: 2, underlays: 1, run }
}

/// The namespace is deleted, with ployzd away and with ployzd watching, on the leaf and on the founder.
fn netns(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    for (i, node) in [(2, n2), (1, n1)] {
        let before = product::identity(node)?;
        node.sh("systemctl stop ployzd && ip netns del ployz && systemctl start ployzd")?;
        let plan = product::started(ctx, node)?;
        says(&plan, "netns", "create", "")?;
        let line = says(&plan, "nats", "recreate", "netns")?;
        ctx.say(line);
        both_ways(ctx)?;
        let now = product::identity(node)?;
        for part in ["netns", "nats"] {
            ensure!(now[part] != before[part], "n{i}: {part} is the old one: {before:?} {now:?}");
        }
        product::all_adopt(&product::restart(ctx, node)?)?;
    }
    let line = namespace_alone(ctx)?;
    ctx.say(line);
    let names = n1.sh("ployzctl --plain machine ls | cut -f1")?;
    ensure!(names == "n1\nn2", "the founder's store has lost members: {names}");

    let since = product::cursor(n2)?;
    n2.sh("ip netns del ployz")?;
    product::logs(ctx, n2, &since, "netns", "create").context("deleted while ployzd runs")?;
    both_ways(ctx)
}

/// As a start leaves it that dies when it has made the namespace anew and nothing in it.
fn namespace_alone(ctx: &Ctx) -> Result<String> {
    let n2 = ctx.node(2);
    n2.sh(concat!(
        "systemctl stop ployzd; alias=$(ip -n ployz link show dev lo | sed -n 's/^ *alias //p'); test -n \"$alias\"; ",
        "systemctl stop ployz-nats ployz-gateway.socket ployz-gateway ployz-dns.socket ployz-dns; ",
        "ip netns del ployz && ip netns add ployz && ip -n ployz link set lo alias \"$alias\" up; systemctl start ployzd"
    ))?;
    let plan = product::started(ctx, n2)?;
    both_ways(ctx).with_context(|| plan.join("\n"))?;
    let line = match ctx.lane() {
        Lane::Ns => says(&plan, "tunnel", "recreate", "device: missing -> wg0")?,
        Lane::Vm => says(&plan, "wireguard", "create", "")?,
    };
    product::all_adopt(&product::restart(ctx, n2)?)?;
    Ok(line.to_owned())
}

/// wg0 deleted, peers removed and added by hand, addresses taken away.
fn tunnel(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let before = product::identity(n2)?;
    let since = product::cursor(n2)?;
    n2.sh("ip -n ployz link del wg0")?;
    both_ways(ctx).context("after wg0 was deleted under a running ployzd")?;
    let log = product::logged(n2, &since)?;
    let repaired = ["create", "recreate", "converge"]
        .iter()
        .any(|v| log.iter().any(|l| product::is_step(l, "wireguard", v)));
    ensure!(repaired, "{log:#?}");
    let now = product::identity(n2)?;
    ensure!(now["nats"] == before["nats"] && now["netns"] == before["netns"], "{before:?} {now:?}");

    let key = product::key(n1)?;
    n2.sh(&format!(
        "systemctl stop ployzd; ip netns exec ployz wg set wg0 peer {key} remove; systemctl start ployzd"
    ))?;
    let line = says(&product::started(ctx, n2)?, "wireguard", "converge", "peers: +")?.to_owned();
    ensure!(line.contains("(n1)") && !line.contains("addresses"), "{line}");
    ctx.say(line);
    both_ways(ctx)?;

    // With ployzd away: one that runs may look around just now and mend it before the start that is asked.
    let stranger = n2.sh("wg genkey | wg pubkey")?;
    let session = n2.sh("ip netns exec ployz wg show wg0 latest-handshakes")?;
    n2.sh(&format!(
        "systemctl stop ployzd; ip netns exec ployz wg set wg0 peer {stranger} allowed-ips fd99::1/128 endpoint 10.77.0.1:9; systemctl start ployzd"
    ))?;
    let line = says(&product::started(ctx, n2)?, "wireguard", "converge", "peers: -")?.to_owned();
    ctx.say(line);
    ensure!(
        n2.sh("ip netns exec ployz wg show wg0 latest-handshakes")? == session,
        "the member's session was touched"
    );

    n2.sh(&format!(
        "systemctl stop ployzd; ip netns exec ployz wg set wg0 peer {key} allowed-ips fd99::2/128; systemctl start ployzd"
    ))?;
    says(&product::started(ctx, n2)?, "wireguard", "converge", "(n1) allowed_ips")?;
    let since = product::cursor(n2)?;
    n2.sh("ip -n ployz addr flush dev wg0; ip -n ployz link set wg0 down mtu 1300")?;
    let line = product::logs(ctx, n2, &since, "wireguard", "converge")?;
    ctx.say(line);
    both_ways(ctx)?;
    product::all_adopt(&product::restart(ctx, n2)?)
}

/// Another port in config.toml: set in place, and the peers find us there.
fn port(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n2 = ctx.node(2);
    let before = product::identity(n2)?;
    n2.sh("cp -p /etc/ployz/config.toml /run/config && echo 'wireguard_listen_port = 51999' >>/etc/ployz/config.toml")?;
    let line =
        says(&product::restart(ctx, n2)?, "wireguard", "converge", "listen_port: 51820 -> 51999")?.to_owned();
    ctx.say(line);
    product::unchanged(n2, &before)?;
    ensure!(n2.sh("ss -Huln | awk '{print $4}' | sed 's/.*://' | sort -u")? == "51999");
    both_ways(ctx)?;
    ctx.wait(20, "n1 to know the new endpoint", || {
        let status = product::json(ctx.node(1), "mesh status prod")?;
        let text = status["peers"][0]["candidates"].to_string();
        ensure!(text.contains(":51999") && !text.contains(":51820"), "{text}");
        Ok(Some(()))
    })?;
    n2.sh("cp -p /run/config /etc/ployz/config.toml")?;
    says(&product::restart(ctx, n2)?, "wireguard", "converge", "listen_port: 51999 -> 51820")?;
    both_ways(ctx)
}

/// Routes, addresses, the veth pair and the nftables tables.
fn links(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n2 = ctx.node(2);
    let before = product::identity(n2)?;
    n2.sh("for n in '' 'ip netns exec ployz'; do $n nft add table inet theirs; done")?;
    // The first change is answered at once; of many in a row each later than the one before, up to 5 s.
    for (limit, (what, cmd)) in [2, 7, 7, 7].into_iter().zip(FIREWALL_DRIFT) {
        let rules = "nft -s list table inet ployz; ip netns exec ployz nft -s list table inet ployz";
        let was = n2.sh(rules)?;
        n2.sh(cmd)?;
        let start = Instant::now();
        poll(ctx.lab.secs(limit), &format!("{what}: our tables to be back"), || {
            Ok((n2.sh(rules)? == was).then_some(()))
        })?;
        ctx.say(format!("{what}: back after {} ms", start.elapsed().as_millis()));
    }
    for cmd in LINK_DRIFT {
        let since = product::cursor(n2)?;
        n2.sh(cmd)?;
        let verdict = if cmd.ends_with("link del ployz-veth") { "recreate" } else { "converge" };
        let line = product::logs(ctx, n2, &since, "link", verdict).with_context(|| cmd)?;
        ctx.say(line);
        both_ways(ctx).with_context(|| cmd)?;
    }
    let now = product::identity(n2)?;
    ensure!(
        ["nats", "wireguard", "netns", "wg0"].iter().all(|part| now[*part] == before[*part]),
        "{before:?}\n{now:?}"
    );
    settles(ctx, n2)
}

/// After the last repair a restart finds nothing to do.
fn settles(ctx: &Ctx, node: &Node) -> Result<()> {
    product::all_adopt(&product::restart(ctx, node)?)?;
    both_ways(ctx)
}

fn both_ways(ctx: &Ctx) -> Result<()> {
    for (i, peer) in [(1, 2), (2, 1)] {
        product::meets(ctx, i, 1)?;
        product::carries(ctx, i, peer)?;
    }
    Ok(())
}

const FIREWALL_DRIFT: [(&str, &str); 4] = [
    ("nft flush ruleset in the host", "nft flush ruleset"),
    ("nft flush ruleset in the namespace", "ip netns exec ployz nft flush ruleset"),
    ("a chain emptied", "nft flush chain inet ployz leaked"),
    ("a rule added", "ip netns exec ployz nft add rule inet ployz forward drop"),
];

const LINK_DRIFT: [&str; 11] = [
    "ip route del 10.101.0.0/16 dev ployz-veth",
    "ip addr flush dev ployz0 scope global",
    "ip link set ployz-veth down",
    "ip link del ployz-veth",
    "ip link del ployz0",
    "ip link del ployz-port",
    "ip link set ployz-port nomaster",
    "ip link set ployz0 address 02:00:00:00:00:01",
    "ip -n ployz route del 10.101.1.0/24 dev svc0",
    "ip -n ployz route del default",
    "ip -n ployz addr del 10.101.1.254/32 dev svc0",
];
