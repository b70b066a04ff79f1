//! Three machines, from the package to a mesh that an operator can look at.

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::{Captured, Node};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "mesh-of-three",
    needs: &[Need::Systemd, Need::Package],
    nodes: 3,
    underlays: 1,
    run: mesh_of_three,
}];

fn mesh_of_three(ctx: &mut Ctx) -> Result<()> {
    let capture = ctx.lab.capture(1)?;
    product::mesh(ctx, 3)?;
    handshakes(ctx)?;
    ctx.lab.each(sockets)?;
    one_prefix(ctx)?;
    everyone_reaches_everyone(ctx)?;
    only_wireguard(ctx, &capture.stop()?)?;
    ctx.lab.each(what_an_operator_sees)?;
    closed_to_outsiders(ctx)
}

/// Two peers, each with a handshake, in the namespace an operator looks into; a closed invite's peer stays for 5 s.
fn handshakes(ctx: &Ctx) -> Result<()> {
    ctx.wait(40, "two peers with handshakes on every node", || {
        let shown =
            ctx.lab.each(|node| node.sh("ip netns exec ployz wg show wg0 latest-handshakes | cut -f2"))?;
        let times: Vec<Vec<u64>> =
            shown.iter().map(|text| text.lines().filter_map(|time| time.parse().ok()).collect()).collect();
        ensure!(times.iter().all(|all| all.len() == 2 && all.iter().all(|time| *time > 0)), "{times:?}");
        Ok(Some(()))
    })
}

/// The host namespace has one UDP port open, 51820, and one TCP port, the gateway's, of both families.
fn sockets(node: &Node) -> Result<()> {
    let udp = node.sh("ss -Huln | awk '{print $4}' | sed 's/.*://' | sort -u")?;
    ensure!(udp == "51820", "UDP ports of the host: {udp}");
    let tcp = node.sh("ss -Htln | awk '{print $4}' | sort")?;
    ensure!(tcp == "0.0.0.0:80\n[::]:80", "TCP listeners of the host: {tcp}");
    let seen = node.sh("ss -Hulnp | grep -c 'users:' || true")?;
    socket_owner(node, &seen)
}

/// The userspace tunnel's socket is its unit's; the kernel's has no owner.
fn socket_owner(node: &Node, owners: &str) -> Result<()> {
    let userspace = node.run("systemctl is-active -q ployz-wireguard")?.ok();
    ensure!((owners != "0") == userspace, "sockets with an owner: {owners}, userspace tunnel: {userspace}");
    Ok(())
}

/// All overlay addresses lie in one fdxx::/48, all service addresses in slices of their own.
fn one_prefix(ctx: &Ctx) -> Result<()> {
    let all = ctx.lab.each(product::addresses)?;
    let prefixes: Vec<String> =
        all.iter().map(|[v6, _]| v6.split(':').take(3).collect::<Vec<_>>().join(":")).collect();
    ensure!(prefixes[0].starts_with("fd") && prefixes.iter().all(|p| *p == prefixes[0]), "{all:?}");
    let services: Vec<&str> = all.iter().map(|[_, v4]| v4.as_str()).collect();
    ensure!(services == ["10.101.0.2", "10.101.1.2", "10.101.2.2"], "{services:?}");
    Ok(())
}

/// Every host shell and every namespace: ping and TCP to every node's overlay and service address, its own too.
fn everyone_reaches_everyone(ctx: &Ctx) -> Result<()> {
    let listeners = ctx.lab.each(|node| {
        node.spawn(&format!(
            "exec ip netns exec ployz socat TCP6-LISTEN:7000,ipv6only=0,fork,reuseaddr SYSTEM:'echo here is {}'",
            node.name()
        ))
    })?;
    let targets: Vec<(String, String)> = ctx
        .lab
        .nodes()
        .iter()
        .map(|node| product::addresses(node).map(|all| all.map(|address| (node.name(), address))))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    let mut script = String::from("f() { ");
    for (name, address) in &targets {
        script += &format!("ping -nqc1 -W3 {address} >/dev/null || echo ping {address} of {name}; ");
        let peer = if address.contains(':') {
            format!("TCP6:[{address}]:7000")
        } else {
            format!("TCP4:{address}:7000")
        };
        script += &format!(
            "[ \"$(socat -u {peer},connect-timeout=3 - 2>&1)\" = 'here is {name}' ] || echo tcp {address} of {name}; "
        );
    }
    script += "}; f | sed 's/^/host: /'; export -f f; ip netns exec ployz bash -c f | sed 's/^/netns: /'";
    ctx.wait(30, "every node to reach every address from host and namespace", || {
        let failed = ctx.lab.each(|node| node.sh(&script))?;
        ensure!(failed.iter().all(String::is_empty), "unreached by n1, n2, n3: {failed:#?}");
        Ok(Some(()))
    })?;
    listeners.into_iter().try_for_each(|listener| listener.stop().map(drop))
}

/// Nothing passed between the nodes but WireGuard, ARP and what IPv6 needs to find its neighbours.
fn only_wireguard(ctx: &Ctx, captured: &Captured) -> Result<()> {
    let ours = captured.read(&["udp src port 51820 and udp dst port 51820"])?.lines().count();
    let other = captured.read(&[OTHER])?;
    ensure!(ours > 50, "only {ours} WireGuard packets were seen");
    ensure!(other.is_empty(), "on the underlay: {other}");
    ctx.say(format!("{ours} WireGuard packets on the underlay, nothing else"));
    Ok(())
}

fn what_an_operator_sees(node: &Node) -> Result<()> {
    let status = node.sh("systemctl status ployz-nats --no-pager")?;
    ensure!(status.contains("Active: active (running)") && status.contains("ployz.slice"), "{status}");
    let tree = node.sh("systemd-cgls --no-pager -u ployz.slice")?;
    ensure!(tree.contains("ployz-nats.service") && tree.contains("/usr/lib/ployz/nats-server"), "{tree}");
    let journal = node.sh("journalctl -u ployz-nats -o cat")?;
    ensure!(journal.contains("Server is ready"), "{journal}");
    let list = node.sh("ployzctl --plain mesh list")?;
    ensure!(list.contains(NETWORK) && list.contains("running"), "{list}");
    let names = node.sh("ployzctl --plain machine ls | cut -f1")?;
    ensure!(names == "n1\nn2\nn3", "{names}");
    let human = node.sh(&format!("ployzctl mesh status {NETWORK}"))?;
    ensure!(human.contains("10.77.0.1"), "no peer's endpoint: {human}");
    Ok(())
}

/// A machine of the underlay that is no member reaches no port of ours, at the host or at an overlay address.
fn closed_to_outsiders(ctx: &Ctx) -> Result<()> {
    for port in [80, 4222, 4318, 4319, 6222, 7422, 8222] {
        let tried =
            ctx.lab.outside(&format!("socat -u TCP:10.77.0.11:{port},connect-timeout=3 - </dev/null"));
        ensure!(tried.is_err(), "port {port} of n1 answers an outsider");
    }
    let [overlay, _] = product::addresses(ctx.node(1))?;
    let route = format!("ip -6 route replace {overlay}/128 via fd77::11 dev u1");
    let tried = ctx.lab.outside(&format!(
        "{route} 2>/dev/null; socat -u TCP6:[{overlay}]:4222,connect-timeout=3 - | grep INFO"
    ));
    ctx.lab
        .outside(&format!("ip -6 route del {overlay}/128 2>/dev/null; true"))
        .context("remove the route")?;
    ensure!(tried.is_err(), "the store answers an outsider who routes the overlay through n1");
    Ok(())
}

/// Not ARP, not WireGuard, not neighbour discovery (133-137), not multicast reports (behind a hop-by-hop header).
const OTHER: &str = "not (arp or (udp and src port 51820 and dst port 51820) or ip6[6] = 0 \
                     or (icmp6 and ip6[40] >= 133 and ip6[40] <= 137))";
