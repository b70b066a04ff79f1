//! Stopping, starting and destroying: each does what it says on every machine or on none, and can be repeated.

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK, refused};
use super::{Ctx, Need, Scenario};

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario { name: "stop-and-start", needs: NEEDS, nodes: 2, underlays: 1, run: stop_and_start },
    Scenario { name: "destroy", needs: NEEDS, nodes: 3, underlays: 1, run: destroy },
    Scenario { name: "founder-away", needs: NEEDS, nodes: 3, underlays: 1, run: founder_away },
];

const NEEDS: &[Need] = &[Need::Systemd, Need::Package];

fn stop_and_start(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    refused(n1, "ployzctl mesh stop", "NO_RUNNING_NETWORK")?;
    refused(n1, "ployzctl mesh start nowhere", "NETWORK_NOT_FOUND")?;
    refused(n1, "ployzctl mesh destroy nowhere", "NETWORK_NOT_FOUND")?;
    refused(n1, "ployzctl mesh status nowhere", "NETWORK_NOT_FOUND")?;
    refused(n1, "ployzctl machine invite create", "NO_RUNNING_NETWORK")?;
    ensure!(n1.run("ployzctl mesh ready")?.code == 1);
    product::mesh(ctx, 2)?;
    refused(n1, &format!("ployzctl mesh start {NETWORK}"), "NETWORK_ALREADY_RUNNING")?;
    refused(n1, "ployzctl mesh init another", "NETWORK_ALREADY_RUNNING")?;
    refused(n1, &format!("ployzctl mesh create {NETWORK}"), "NETWORK_ALREADY_EXISTS")?;

    for i in [2, 1] {
        let node = ctx.node(i);
        let (addresses, before) = (product::addresses(node)?, product::traces(node)?);
        node.sh("ip link add load0 type veth peer name load1 && ip link set load0 master ployz0 up")?;
        refused(node, "ployzctl mesh stop", "WORKLOADS_RUNNING")?;
        ensure!(product::traces(node)? != before, "the workload's link is there");
        node.sh("ip link del load0")?;
        node.sh("ployzctl -q mesh stop")?;
        only_the_record(ctx, i)?;
        ensure!(node.run("ployzctl -q mesh ready")?.code == 1);
        refused(node, "ployzctl mesh stop", "NO_RUNNING_NETWORK")?;
        node.sh("systemctl restart ployzd")?;
        only_the_record(ctx, i).context("a stopped network stays stopped over a restart")?;
        node.sh(&format!("ployzctl -q mesh start {NETWORK}"))?;
        product::meets(ctx, i, 1)?;
        ensure!(product::addresses(node)? == addresses, "addresses changed");
        product::carries(ctx, 1, 2)?;
        product::carries(ctx, 2, 1)?;
    }
    let node = ctx.node(2);
    node.sh("ip link add load0 type veth peer name load1 && ip link set load0 master ployz0 up")?;
    node.sh("ployzctl -q mesh stop --force")?;
    node.sh("ip link del load0")?;
    only_the_record(ctx, 2)
}

/// Nothing is left of the network but its directory.
fn only_the_record(ctx: &Ctx, i: usize) -> Result<()> {
    ctx.wait(20, "the data plane to be gone", || {
        let left = product::traces(ctx.node(i))?;
        ensure!(left == format!("network {NETWORK}"), "left: {left}");
        Ok(Some(()))
    })
}

fn destroy(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    let before = ctx.lab.each(product::identity)?;
    ctx.node(3).cut_link(1)?;
    let told =
        refused(ctx.node(1), &format!("ployzctl mesh destroy {NETWORK}"), "MESH_DESTROY_PEERS_UNREACHABLE")?;
    ensure!(told.contains("n3"), "who is away? {told}");
    ctx.node(3).heal_link(1)?;
    let told = refused(ctx.node(2), &format!("ployzctl mesh destroy {NETWORK}"), "MESH_DESTROY_NOT_ALLOWED")?;
    ensure!(told.contains("n1"), "which is the bootstrap node? {told}");
    ctx.node(3).sh("systemctl stop ployzd")?;
    let told =
        refused(ctx.node(1), &format!("ployzctl mesh destroy {NETWORK}"), "MESH_DESTROY_PEERS_UNREACHABLE")?;
    ensure!(told.contains("n3"), "whose ployzd is away? {told}");
    ctx.node(3).sh("systemctl start ployzd")?;
    for i in 1..=3 {
        product::meets(ctx, i, 2)?;
        product::unchanged(ctx.node(i), &before[i - 1])?;
    }
    product::all_adopt(&product::restart(ctx, ctx.node(2))?)?;
    product::meets(ctx, 2, 2)?;

    // Only this machine's part: the others go on.
    ctx.node(3).sh(&format!("echo {NETWORK} | ployzctl -q mesh destroy --name-stdin --local"))?;
    product::gone(ctx, ctx.node(3))?;
    product::unchanged(ctx.node(1), &before[0])?;
    product::carries(ctx, 1, 2)?;
    ctx.node(1).sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
    product::gone(ctx, ctx.node(1))?;
    ctx.node(2).sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
    product::gone(ctx, ctx.node(2))?;

    product::mesh(ctx, 3)?;
    ctx.node(1).sh(&format!("ployzctl -q mesh destroy {NETWORK}")).context("by the bootstrap node")?;
    (1..=3).try_for_each(|i| product::gone(ctx, ctx.node(i)))?;
    // On another machine's word nothing is deleted at once; on the operator's it is.
    for i in 1..=3 {
        let aside = ctx.node(i).sh("ls /var/lib/ployz/removed 2>/dev/null || true")?;
        ensure!(
            aside.lines().filter(|name| name.starts_with(NETWORK)).count() == usize::from(i != 1),
            "n{i}: {aside}"
        );
    }
    Ok(())
}

/// The founder is off: the others keep their tunnels, restart from disk, and say what they lack.
fn founder_away(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    let n2 = ctx.node(2);
    let before = product::identity(n2)?;
    ctx.node(1).cut_link(1)?;
    ctx.wait(60, "n2 to say that the store is away", || {
        let status = product::json(n2, "status")?;
        ensure!(status["control_plane"][0]["healthy"] == false, "{}", status["control_plane"]);
        Ok(Some(()))
    })?;
    refused(n2, "ployzctl machine invite create", "STORE_UNAVAILABLE")?;
    product::carries(ctx, 2, 3)?;
    product::all_adopt(&product::restart(ctx, n2)?)?;
    product::unchanged(n2, &before)?;
    product::carries(ctx, 3, 2)?;
    n2.sh(&format!("ployzctl -q mesh stop && ployzctl -q mesh start {NETWORK}"))?;
    product::carries(ctx, 2, 3)?;
    product::carries(ctx, 3, 2)?;
    ctx.node(1).heal_link(1)?;
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2))
}
