//! Power cuts: a machine comes back from its disk alone, and what the founder acknowledged is there.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "reboot-alone-after-power-cut",
        needs: &[Need::Systemd, Need::Package, Need::PowerCut],
        nodes: 3,
        underlays: 1,
        run: alone,
    },
    Scenario {
        name: "founder-power-cut-during-writes",
        needs: &[Need::Systemd, Need::Package, Need::PowerCut],
        nodes: 3,
        underlays: 1,
        run: founder,
    },
    Scenario {
        name: "reboot-alone",
        needs: &[Need::Systemd, Need::Package],
        nodes: 3,
        underlays: 1,
        run: reboot,
    },
];

/// Two machines are off, the third loses power: it has its tunnels, namespace and store from disk, and the others find it.
fn alone(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    for i in [2, 1] {
        let others: Vec<usize> = (1..=3).filter(|other| *other != i).collect();
        comes_back_alone(ctx, i, &others)?;
    }
    Ok(())
}

/// The same by an orderly reboot and by processes killed at once, in every lane.
fn reboot(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    comes_back_alone(ctx, 2, &[1, 3])?;
    ctx.lab.each(|node| node.reboot())?;
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2)).context("after all were rebooted at once")
}

fn comes_back_alone(ctx: &Ctx, i: usize, others: &[usize]) -> Result<()> {
    let node = ctx.node(i);
    let addresses = product::addresses(node)?;
    let keys = others.iter().map(|other| product::key(ctx.node(*other))).collect::<Result<Vec<_>>>()?;
    for other in others {
        ctx.node(*other).power_cut()?;
    }
    node.power_cut()?;
    node.boot()?;
    ctx.wait(60, &format!("n{i} to have its tunnel and store with the others off"), || {
        node.sh(
            "systemctl is-active -q ployz-nats && ip netns exec ployz curl -sf http://127.0.0.1:8222/healthz",
        )?;
        keys.iter().try_for_each(|key| product::endpoint(node, key).map(drop))?;
        Ok(Some(()))
    })?;
    ensure!(product::addresses(node)? == addresses);
    let status = product::json(node, "status")?;
    ensure!(status["network"] == NETWORK, "{status}");
    let parts = status["components"].as_array().context("components")?;
    ensure!(parts.iter().all(|part| part["outcome"] == "ok"), "{status}");
    for other in others {
        ctx.node(*other).boot()?;
    }
    for i in 1..=3 {
        product::meets(ctx, i, 2)?;
    }
    product::carries(ctx, others[0], i)
}

/// Invites are made in a loop when the founder loses power; every one that was acknowledged is there after the boot.
fn founder(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    let n1 = ctx.node(1);
    for round in 1..=2 {
        let writer =
            n1.spawn("while ployzctl --json machine invite create | jq -r .payload.invite_id; do :; done")?;
        ctx.wait(
            60,
            "a dozen invites",
            || Ok((writer.stdout().lines().count() >= 12 * round).then_some(())),
        )?;
        n1.power_cut()?;
        let said = writer.stdout();
        drop(writer);
        // The last line may be cut off.
        let acknowledged: BTreeSet<String> =
            said.lines().filter(|line| line.len() == 16).map(str::to_owned).collect();
        n1.boot()?;
        product::meets(ctx, 1, 2)?;
        let listed = product::json(n1, "machine invite list")?;
        let there: BTreeSet<String> = listed["invites"]
            .as_array()
            .context("invites")?
            .iter()
            .filter_map(|invite| invite["invite_id"].as_str().map(str::to_owned))
            .collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ctx.say(format!("round {round}: {} acknowledged, {} there", acknowledged.len(), there.len()));
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let names = n1.sh("ployzctl --plain machine ls | cut -f1")?;
        ensure!(names == "n1\nn2\nn3", "{names}");
    }
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2))
}
