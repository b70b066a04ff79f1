//! Underlays: who reaches whom, cuts, and what a capture sees.

use anyhow::{Result, ensure};

use crate::lab::Node;
use crate::scenario::Ctx;

/// Every kind of cut stops what it says, leaves the rest, and heals.
pub(super) fn cuts(ctx: &mut Ctx) -> Result<()> {
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));
    let hears = |from: &Node, to: &Node, k: usize| reaches(from, &to.ip(k).to_string());
    let heard = |from: &Node, to: &Node, k: usize| {
        ctx.wait(20, &format!("{} to hear {} on underlay {k}", from.name(), to.name()), || {
            Ok(hears(from, to, k)?.then_some(()))
        })
    };
    let all = || -> Result<()> {
        for (from, to) in [(n1, n2), (n1, n3), (n2, n3)] {
            for k in [1, 2] {
                heard(from, to, k)?;
            }
        }
        ensure!(reaches(n1, &n2.ip6().to_string())?, "IPv6 on underlay 1");
        Ok(())
    };
    all()?;
    ensure!(n1.sh("ip route show default")?.is_empty(), "nothing leads outside");

    n2.cut_link(1)?;
    ensure!(!hears(n1, n2, 1)? && hears(n1, n3, 1)? && hears(n1, n2, 2)?, "one link is cut and no other");
    ensure!(n2.sh("cat /sys/class/net/eth0/carrier")? == "1", "a cut is silent");
    n2.heal_link(1)?;
    all()?;

    ctx.lab.cut_pair(1, 2)?;
    ensure!(
        !hears(n1, n2, 1)? && !hears(n2, n1, 2)? && hears(n1, n3, 1)? && hears(n2, n3, 2)?,
        "one pair is cut"
    );
    ctx.lab.heal_pair(1, 2)?;
    all()?;

    ctx.lab.cut_underlay(1)?;
    ensure!(!hears(n1, n2, 1)? && !hears(n2, n3, 1)? && hears(n1, n2, 2)?, "one underlay is cut");
    n3.cut_link(2)?;
    ctx.lab.heal_all()?;
    all()?;
    ctx.lab.outside("ping -c1 -W2 10.77.0.11 && ping -c1 -W2 10.78.0.13 && ping -c1 -W2 fd77::12").map(drop)
}

/// A capture sees traffic between two nodes, as packets and as bytes.
pub(super) fn capture(ctx: &mut Ctx) -> Result<()> {
    let (first, second) = (ctx.lab.capture(1)?, ctx.lab.capture(2)?);
    say_over_tcp(ctx, &ctx.node(2).ip(1).to_string(), "tell-tale-words")?;
    let (first, second) = (first.stop()?, second.stop()?);
    ensure!(first.lines.iter().any(|line| line.contains("10.77.0.12.7000")), "{:#?}", first.lines);
    ensure!(first.contains(b"tell-tale-words")?);
    ensure!(!second.contains(b"tell-tale-words")?, "the other underlay has not seen it");
    ensure!(!first.read(&["tcp port 7000"])?.is_empty());
    Ok(())
}

/// The kernel's WireGuard between two nodes hides what it carries.
pub(super) fn wireguard(ctx: &mut Ctx) -> Result<()> {
    let nodes = [ctx.node(1), ctx.node(2)];
    let mut keys = Vec::new();
    for node in nodes {
        node.sh("ip link add wg0 type wireguard && umask 077 && wg genkey >/root/key")?;
        keys.push(node.sh("wg pubkey </root/key")?);
    }
    for (node, peer, key) in [(nodes[0], nodes[1], &keys[1]), (nodes[1], nodes[0], &keys[0])] {
        let (peer_ip, own, other) = (peer.ip(1), node.index(), peer.index());
        node.sh(&format!(
            "wg set wg0 private-key /root/key listen-port 51820 peer {key} endpoint {peer_ip}:51820 \
             allowed-ips 10.99.0.{other}/32 && ip addr add 10.99.0.{own}/24 dev wg0 && ip link set wg0 up"
        ))?;
    }
    let capture = ctx.lab.capture(1)?;
    say_over_tcp(ctx, "10.99.0.2", "tell-tale-words")?;
    let captured = capture.stop()?;
    ensure!(captured.lines.iter().any(|line| line.contains("10.77.0.12.51820")), "{:#?}", captured.lines);
    ensure!(!captured.contains(b"tell-tale-words")?, "the words are on the wire");
    for node in nodes {
        node.sh("ip link del wg0; rm /root/key")?;
    }
    Ok(())
}

/// Node 1 sends words to node 2's port 7000 and node 2 has them.
fn say_over_tcp(ctx: &Ctx, to: &str, words: &str) -> Result<()> {
    let server = ctx.node(2).spawn("socat -u TCP-LISTEN:7000,reuseaddr -")?;
    ctx.wait(20, "the words to arrive", || {
        if server.stdout().contains(words) {
            return Ok(Some(()));
        }
        ctx.node(1).sh(&format!("echo {words} | socat -u - TCP:{to}:7000,connect-timeout=5"))?;
        Ok(server.stdout().contains(words).then_some(()))
    })?;
    server.stop().map(drop)
}

fn reaches(from: &Node, address: &str) -> Result<bool> {
    Ok(from.run(&format!("ping -c1 -W1 {address}"))?.ok())
}
