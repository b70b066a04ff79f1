//! Names of others: the namespace asks the host's resolvers, wherever those are, and is nobody else's way out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::upstream::{self, list};
use super::{Ctx, Need, Scenario, product};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "external-names",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 2,
    underlays: 1,
    run: external_names,
}];

fn external_names(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.docker_busybox()?;
    product::docker_network(ctx, n1)?;
    n1.sh(
        "docker run -d --name asker --network ployz0 --ip 10.101.0.3 --dns 10.101.0.2 lab/busybox sleep 600",
    )?;
    let at = |node: &Node| node.ip(1).to_string();
    let servers =
        [upstream::start(ctx, n1, &at(n1), "192.0.2.11")?, upstream::start(ctx, n2, &at(n2), "192.0.2.12")?];
    n1.sh("cp /etc/resolv.conf /run/resolv.conf.before")?;

    let (own, other) = (at(n1), at(n2));
    list(n1, "/etc/resolv.conf", &own)?;
    answers(ctx, "192.0.2.11")?;
    list(n1, "/etc/resolv.conf", &other)?;
    answers(ctx, "192.0.2.12")?;
    // As with systemd-resolved: what it asks itself is in another file.
    list(n1, "/run/systemd/resolve/resolv.conf", &own)?;
    list(n1, "/etc/resolv.conf", "127.0.0.53")?;
    answers(ctx, "192.0.2.11")?;
    for (server, asker) in [(&servers[0], "10.101.0.254".to_owned()), (&servers[1], n1.ip(1).to_string())] {
        let seen = server.stdout();
        ensure!(!seen.is_empty() && seen.lines().all(|line| line == asker), "asked by {seen}, not {asker}");
    }

    of_the_host_alone(ctx)?;
    product::all_adopt(&product::restart(ctx, n1)?)?;
    only_answers_come_in(ctx)?;
    nobody_elses_way_out(ctx)?;

    n1.sh("docker rm -f asker; cp /run/resolv.conf.before /etc/resolv.conf")?;
    for node in [n2, n1] {
        node.sh(&format!("ployzctl -q mesh destroy {} --local", product::NETWORK))?;
        product::gone(ctx, node)?;
    }
    Ok(())
}

/// Node 1, its container and node 2 by node 1's service address get this answer. The list is read again every 5 seconds.
fn answers(ctx: &Ctx, wanted: &str) -> Result<()> {
    let dig = "dig +short +time=3 +tries=1 @10.101.0.2 example.org A";
    for (i, cmd) in [(1, dig), (1, "docker exec asker nslookup example.org"), (2, dig)] {
        ctx.wait(15, &format!("node {i}: `{cmd}` to say {wanted}"), || {
            let said = ctx.node(i).sh(cmd)?;
            ensure!(said.contains(wanted), "{said}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// Resolvers that the namespace has no way to, each the only one that the list names; with ployzd dead, and the process that opens
/// their sockets killed; and none at all.
fn of_the_host_alone(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh("rm /run/systemd/resolve/resolv.conf")?;
    let link = n2.sh("ip -6 -o addr show dev eth0 scope link | grep -o 'fe80[0-9a-f:]*' | head -n 1")?;
    let places = [
        (n1, "127.0.0.1".to_owned(), "192.0.2.21"),
        (n1, "::1".to_owned(), "192.0.2.22"),
        (n1, "127.0.0.53".to_owned(), "192.0.2.23"),
        (n2, n2.ip6().to_string(), "192.0.2.24"),
        (n2, format!("{link}%eth0"), "192.0.2.25"),
    ];
    let mut servers = Vec::new();
    for (node, at, answer) in &places {
        servers.push(upstream::start(ctx, node, at, answer)?);
        list(n1, "/etc/resolv.conf", at)?;
        answers(ctx, answer)?;
        names_upstreams(ctx, n1, "ok", at)?;
    }
    n1.sh("systemctl stop ployzd && pkill -KILL -x ployz-sockets")?;
    for address in ["192.0.2.25", "192.0.2.25"] {
        answers(ctx, address)?;
    }
    n1.sh("systemctl start ployzd")?;
    n1.put("search lan\n", "/etc/resolv.conf", 0o644)?;
    drop(servers);
    names_upstreams(ctx, n1, "fail", "the host has no resolver")?;
    list(n1, "/etc/resolv.conf", &n1.ip(1).to_string())?;
    answers(ctx, "192.0.2.11")?;
    names_upstreams(ctx, n1, "ok", "10.77.0.11")
}

/// What `doctor` says of resolvers.
fn names_upstreams(ctx: &Ctx, node: &Node, level: &str, words: &str) -> Result<()> {
    ctx.wait(30, &format!("doctor to say {level} of {words}"), || {
        let envelope = product::envelope(node, "doctor")?;
        let checks = envelope["payload"]["checks"].as_array().context("checks")?;
        let found = checks.iter().find(|one| one["check"] == "dns-upstreams").context("dns-upstreams")?;
        let seen = found["seen"].as_str().unwrap_or_default();
        ensure!(found["level"] == level && seen.contains(words), "{found}");
        Ok(Some(()))
    })
}

/// Nothing begins a conversation with the address that the namespace asks from.
fn only_answers_come_in(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let knock = |address: &str| format!("! nc -w 1 {address} 7000 </dev/null && ! ping -c1 -W1 {address}");
    let _open = n1.spawn("ip netns exec ployz socat TCP4-LISTEN:7000,fork,reuseaddr SYSTEM:'echo open'")?;
    ctx.wait(20, "the service address to answer the container", || {
        let said = n1.sh("docker exec asker nc -w 2 10.101.0.2 7000")?;
        ensure!(said == "open", "{said}");
        Ok(Some(()))
    })?;
    n1.sh(&format!("docker exec asker sh -c '{}'", knock("10.101.0.254")))?;
    n1.sh(&knock("10.101.0.254").replace("nc", "busybox nc"))?;
    n2.sh(&format!("ip netns exec ployz sh -c '{}'", knock("10.101.0.254").replace("nc", "busybox nc")))?;
    Ok(())
}

/// What a peer sends through the tunnel to an address outside, as one does that is not ours any more, goes no further.
fn nobody_elses_way_out(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let key = product::key(n1)?;
    let target = "10.77.0.99";
    n2.sh("systemctl stop ployzd")?;
    let known = n2.sh("ip netns exec ployz wg show wg0 allowed-ips")?;
    let nets = known.lines().find_map(|line| line.strip_prefix(&key)).context("node 1 is a peer")?;
    let nets = nets.split_whitespace().collect::<Vec<_>>().join(",");
    n2.sh(&format!(
        "ip netns exec ployz wg set wg0 peer {key} allowed-ips {nets},{target}/32 && ip -n ployz route replace {target} dev wg0"
    ))?;
    let arrives = n1.spawn("exec ip netns exec ployz tcpdump -lni wg0 udp port 5399")?;
    let leaves = n1.spawn("exec tcpdump -lni any udp port 5399 or arp host 10.77.0.99")?;
    ctx.wait(20, "tcpdump to listen", || {
        ensure!([&arrives, &leaves].iter().all(|one| one.stderr().contains("listening on")));
        Ok(Some(()))
    })?;
    let send = format!("for i in 1 2 3; do echo x | ip netns exec ployz socat -u - UDP4:{target}:5399; done");
    n2.sh(&send)?;
    ctx.wait(20, "node 1 to get it through the tunnel", || {
        // Some versions of socat send an empty datagram more at the end.
        let whole = |line: &&str| line.contains(".5399") && line.ends_with("length 2");
        ensure!(arrives.stdout().lines().filter(whole).count() == 3, "{}", arrives.stdout());
        Ok(Some(()))
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let left = leaves.stop()?.stdout;
    ensure!(!left.contains(target), "node 1 sends for node 2: {left}");
    n2.sh("systemctl start ployzd").map(drop)
}
