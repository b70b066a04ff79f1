//! A machine's state copied to another one: the copy is held, and every side names the two.

use anyhow::{Context, Result, ensure};

use super::doctor::findings;
use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "cloned-state-is-held",
    needs: &[Need::Systemd, Need::Native, Need::Package],
    nodes: 3,
    underlays: 1,
    run: cloned,
}];

fn cloned(ctx: &mut Ctx) -> Result<()> {
    product::init(ctx)?;
    product::join(ctx, 2)?;
    product::meets(ctx, 1, 1)?;
    product::meets(ctx, 2, 1)?;
    product::settled(ctx, 2)?;
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));
    let before = product::identity(n2)?;

    // Another machine, by its machine-id: it never takes the tunnel.
    copy(n2, n3)?;
    n3.sh("systemctl start ployzd")?;
    held(ctx, n3, "machine-id")?;
    product::meets(ctx, 2, 1)?;
    product::unchanged(n2, &before)?;
    n3.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
    product::gone(ctx, n3)?;
    product::meets(ctx, 2, 1).context("the original, after its copy was removed")?;

    // With the machine-id too: its peers tell, and the one that came later stands back.
    n3.sh(&format!(
        "cp /etc/machine-id /run/lab-id; echo {} >/etc/machine-id",
        n2.sh("cat /etc/machine-id")?
    ))?;
    copy(n2, n3)?;
    let since = product::cursor(n1)?;
    n3.sh("systemctl start ployzd")?;
    let names = |node: &Node, check: &str, words: &str| -> Result<()> {
        ctx.wait(60, &format!("{} to name two machines", node.name()), || {
            let found = findings(node)?;
            let (level, seen) = found.get(check).with_context(|| format!("no {check} in {found:?}"))?;
            ensure!(level == "fail" && seen.contains(words), "{level} {seen}");
            ctx.say(format!("{}: {check}: {seen}", node.name()));
            Ok(Some(()))
        })
    };
    names(n1, "identity n2", "two machines use the key of n2")?;
    names(n3, "identity", "two machines with its key")?;
    held(ctx, n3, "two machines with its key")?;
    product::unchanged(n2, &before).context("the original keeps all of its data plane")?;
    let log = product::logged(n1, &since)?.join("\n");
    ensure!(log.contains("two machines, one key"), "{log}");
    n3.sh("systemctl restart ployzd")?;
    held(ctx, n3, "two machines with its key").context("after a restart")?;
    ctx.wait(90, "the original to be alone with its key again", || {
        let found = findings(n1)?;
        ensure!(!found.contains_key("identity n2"), "{found:?}");
        Ok(Some(()))
    })?;
    product::meets(ctx, 2, 1)?;
    product::carries(ctx, 1, 2)?;

    // The machine is gone for good and this is its disk, restored to another. (The journal is found by the machine-id.)
    n2.sh("ployzctl -q mesh stop")?;
    n3.sh("cat /run/lab-id >/etc/machine-id; rm /run/lab-id")?;
    n3.sh(&format!("ployzctl -q mesh start {NETWORK} --restored"))?;
    product::meets(ctx, 3, 1)?;
    product::carries(ctx, 1, 3)?;
    product::all_adopt(&product::restart(ctx, n3)?)
}

/// Copies the state, as the clone of an image has it.
fn copy(from: &Node, to: &Node) -> Result<()> {
    let packed = from.sh("tar -C /var/lib/ployz -cz . | base64 -w0")?;
    to.put(packed.as_bytes(), "/run/lab-state", 0o600)?;
    to.sh("systemctl stop ployzd; base64 -d /run/lab-state | tar -C /var/lib/ployz -xzp; rm /run/lab-state")
        .map(drop)
}

/// Soon the node has the state and does not run with it: what is told by peers is found before all of it is taken down.
fn held(ctx: &Ctx, node: &Node, words: &str) -> Result<()> {
    ctx.wait(30, &format!("{} to be held", node.name()), || is_held(node, words).map(Some))
}

/// The node does not run with the state that it has; every view says why and what to do.
fn is_held(node: &Node, words: &str) -> Result<()> {
    let ready = product::envelope(node, "mesh ready")?;
    ensure!(ready["code"] == "IDENTITY_HELD" && ready.to_string().contains(words), "{ready}");
    ensure!(ready["hint"].as_str().is_some_and(|hint| hint.contains("--restored")), "{ready}");
    let status = product::json(node, "status")?["control_plane"].to_string();
    ensure!(status.contains("identity") && status.contains("--local"), "{status}");
    let found = findings(node)?;
    ensure!(found["identity"].0 == "fail" && found["identity"].1.contains(words), "{:?}", found["identity"]);
    let refused = product::refused(node, &format!("ployzctl mesh start {NETWORK}"), "IDENTITY_HELD")?;
    ensure!(refused.contains("--restored"), "{refused}");
    let journal = node.sh("journalctl --merge -u ployzd -o cat | grep 'is held'")?;
    ensure!(journal.contains("its state belongs to another machine"), "{journal}");
    node.sh("! ip netns exec ployz true 2>/dev/null; ! ss -Huln | grep -q ':51820 '").map(drop)
}
