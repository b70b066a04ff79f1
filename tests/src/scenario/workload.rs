//! Containers on the bridge: what they reach, with which address, and what does not interrupt them.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::{Background, Node};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "container-on-the-bridge",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 2,
    underlays: 1,
    run: container_on_the_bridge,
}];

fn container_on_the_bridge(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let id = network_id(n1)?;
    for node in [n1, n2] {
        node.docker_busybox()?;
        product::docker_network(ctx, node)?;
    }
    let marks = [links(n1)?, links(n2)?];
    contain(n1, 0, &id)?;
    contain(n2, 1, &id)?;
    ensure!([links(n1)?, links(n2)?] == marks, "a container changed our links");
    let _answering = answer(n2)?;
    everything_is_reached(ctx)?;
    product::refused(n1, "ployzctl mesh stop", "WORKLOADS_RUNNING")?;

    for node in [n1, n2] {
        node.sh("systemctl kill -s KILL ployzd; systemctl stop ployzd")?;
    }
    everything_is_reached(ctx)?;
    for i in [1, 2] {
        let plan = product::restart(ctx, ctx.node(i))?;
        product::all_adopt(&plan)?;
    }
    everything_is_reached(ctx)?;

    for node in [n1, n2] {
        node.sh_for(Duration::from_secs(120), "systemctl restart docker")?;
        ctx.wait(20, "Docker to start the container again", || {
            node.sh("docker exec web true").map(|_| Some(()))
        })?;
    }
    everything_is_reached(ctx)?;
    ensure!([links(n1)?, links(n2)?] == marks, "Docker's restart changed our links");
    product::all_adopt(&product::restart(ctx, n1)?)?;

    n1.sh("nft flush ruleset")?;
    ctx.wait(5, "our tables to be back", || n1.sh("nft list chain inet ployz egress").map(|_| Some(())))?;
    everything_is_reached(ctx)?;

    docker_is_up_first(ctx)?;
    everything_is_reached(ctx)?;
    leave_nothing(ctx)
}

/// A container with all our labels, whose only service says from where it is asked.
fn contain(node: &Node, slice: u8, network: &str) -> Result<()> {
    let labels = [
        "config-hash=v1:0",
        "parent-container-id=",
        "namespace=prod",
        "service=web",
        "instance=web",
        "slot=0",
        "machine=n1",
        "deploy=0123456789abcdef",
        "revision=1",
    ];
    let labels: String = labels.iter().map(|label| format!(" --label ployz.{label}")).collect();
    node.sh(&format!(
        "docker run -d --name web --network ployz0 --ip 10.101.{slice}.3 --dns 10.101.{slice}.2 --restart unless-stopped --stop-timeout 1 \
         --label ployz.network={network}{labels} lab/busybox httpd -f -p 8080 -h /"
    ))
    .map(drop)
}

/// On a node: answers with the asker's address, in the host and in the namespace.
fn answer(node: &Node) -> Result<[Background; 2]> {
    let serve = "socat TCP-LISTEN:7000,fork,reuseaddr SYSTEM:'echo from $SOCAT_PEERADDR'";
    Ok([node.spawn(serve)?, node.spawn(&format!("ip netns exec ployz {serve}"))?])
}

fn everything_is_reached(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let web = |cmd: &str| format!("docker exec web {cmd}");
    let ask = |to: &str| web(&format!("nc -w 3 {to} 7000"));
    let fetch =
        |slice: u8| format!("timeout 3 wget -q -O /dev/null http://10.101.{slice}.3:8080/bin/busybox");
    let curl = |slice: u8| format!("curl -sf -m 3 -o /dev/null http://10.101.{slice}.3:8080/bin/busybox");
    let underlay = n2.ip(1).to_string();
    let seen = format!("from {}", n1.ip(1));
    let steps: Vec<(&Node, String, &str)> = vec![
        (n1, web("ping -c1 -W2 10.101.0.2"), "1 packets received"),
        (n1, web("ping -c1 -W2 10.101.1.2"), "1 packets received"),
        (n2, ask("10.101.1.2"), "from 10.101.1.3"),
        (n1, ask("10.101.1.2"), "from 10.101.0.3"),
        (n1, ask("10.101.1.1"), "from 10.101.0.3"),
        (n1, ask(&underlay), &seen),
        (n1, web(&fetch(1)), ""),
        (n2, web(&fetch(0)), ""),
        (n1, curl(0), ""),
        (n1, curl(1), ""),
        (n1, format!("ip netns exec ployz {}", curl(0)), ""),
        (n1, format!("ip netns exec ployz {}", curl(1)), ""),
        // The store is no workload's business.
        (n1, format!("! {}", web("nc -w 2 10.101.0.2 4222 </dev/null")), ""),
    ];
    for (node, cmd, says) in steps {
        ctx.wait(15, &format!("{}: {cmd}", node.name()), || {
            let said = node.sh(&cmd)?;
            ensure!(said.contains(says), "it said {said:?}, not {says:?}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// As after a boot: no link of ours is there, Docker finds its network without a bridge and makes one.
fn docker_is_up_first(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    n1.sh_for(
        Duration::from_secs(120),
        "systemctl stop ployzd; systemctl stop docker.socket docker; ip link del ployz0; systemctl start docker",
    )?;
    ensure!(
        n1.sh("ip link show ployz0")?.contains("ployz0"),
        "Docker makes the bridge of a network it knows"
    );
    n1.sh("systemctl start ployzd")?;
    let line = product::started(ctx, n1)?;
    product::says(&line, "link", "converge", "ployz0.owner: none")?;
    product::meets(ctx, 1, 1)
}

/// A destroyed network leaves no Docker network either, once no container is on it.
fn leave_nothing(ctx: &Ctx) -> Result<()> {
    for i in [2, 1] {
        let node = ctx.node(i);
        node.sh("docker rm -f web")?;
        node.sh(&format!("ployzctl -q mesh destroy {} --local", product::NETWORK))?;
        product::gone(ctx, node)?;
        ensure!(
            !node.sh("docker network ls --format '{{.Name}}'")?.contains("ployz0"),
            "a Docker network is left"
        );
    }
    Ok(())
}

/// What Docker must leave as it is: index, hardware address, alias, MTU and addresses of our links.
fn links(node: &Node) -> Result<String> {
    node.sh("for l in ployz0 ployz-port ployz-veth; do ip -j addr show $l | jq -c '.[] | [.ifindex, .address, .ifalias, .mtu, .master, [.addr_info[].local]]'; done")
}

fn network_id(node: &Node) -> Result<String> {
    let alias = node.sh("cat /sys/class/net/ployz0/ifalias")?;
    let id = alias.rsplit(':').next().unwrap_or_default().to_owned();
    ensure!(id.len() == 32, "{alias}");
    Ok(id)
}
