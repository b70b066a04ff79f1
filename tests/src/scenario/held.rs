//! What is not ours or cannot be seen is held: nothing is touched, and the operator is told.

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK, says};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 3] = [
    scenario("hold-dbus-hangs", 2, dbus_hangs),
    scenario("hold-foreign-unit", 1, foreign_unit),
    scenario("hold-foreign-link", 1, foreign_link),
];

const fn scenario(name: &'static str, nodes: usize, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Package], nodes, underlays: 1, run }
}

/// dbus-daemon stops answering, under a running ployzd and before a start of it.
fn dbus_hangs(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n2 = ctx.node(2);
    let before = product::identity(n2)?;
    let since = product::cursor(n2)?;
    // The touch of nftables makes it look: without D-Bus the unit is unknown, and unknown is not absent.
    n2.sh("kill -STOP $(pidof dbus-daemon); nft add table inet probe; nft delete table inet probe")?;
    let line = product::logs(ctx, n2, &since, "nats", "hold")?;
    ensure!(line.contains("cannot inspect"), "{line}");
    ctx.say(line);
    product::carries(ctx, 1, 2)?;
    n2.sh("kill -CONT $(pidof dbus-daemon)")?;
    adopted(ctx, n2)?;
    product::meets(ctx, 2, 1)?;
    product::unchanged(n2, &before)?;

    let since = product::cursor(n2)?;
    n2.sh("kill -STOP $(pidof dbus-daemon); systemctl --no-block kill -s KILL ployzd")?;
    let hold = product::logs(ctx, n2, &since, "nats", "hold");
    let carried = product::carries(ctx, 1, 2);
    n2.sh("kill -CONT $(pidof dbus-daemon)")?;
    hold.context("a start while D-Bus hangs")?;
    carried?;
    adopted(ctx, n2)?;
    product::meets(ctx, 2, 1)?;
    product::unchanged(n2, &before)?;
    let plans = product::logged(n2, &since)?;
    ensure!(
        !plans.iter().any(|l| ["create", "recreate"].contains(&l.split_whitespace().nth(1).unwrap_or(""))),
        "{plans:#?}"
    );
    product::all_adopt(&product::restart(ctx, n2)?)
}

/// Waits until `status` says `adopt` of every component.
fn adopted(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(30, "all to be adopted again", || {
        let status = product::json(node, "status")?;
        let components = status["components"].as_array().context("components")?;
        ensure!(components.iter().all(|part| part["verdict"] == "adopt"), "{status}");
        Ok(Some(()))
    })
}

/// A unit of that name from a file: `mesh init` fails, says whose it is, and leaves no trace.
fn foreign_unit(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let file = "/etc/systemd/system/ployz-nats.service";
    n1.put("[Service]\nExecStart=/bin/sleep 100000\n", file, 0o644)?;
    n1.sh("systemctl daemon-reload && systemctl start ployz-nats")?;
    let pid = n1.sh("systemctl show -P MainPID ployz-nats")?;
    let told = product::refused(n1, &format!("ployzctl mesh init {NETWORK}"), "COMPONENT_HELD")?;
    ensure!(told.contains("nats is held: not ours") && told.contains(file), "{told}");
    ctx.say(told.trim().replace('\n', " "));
    ensure!(n1.sh("systemctl show -P MainPID ployz-nats")? == pid, "the foreign unit was touched");
    let left = product::traces(n1)?;
    ensure!(left.lines().all(|line| line.contains("ployz-nats.service")), "left: {left}");
    n1.sh(&format!("systemctl stop ployz-nats && rm {file} && systemctl daemon-reload"))?;
    product::gone(ctx, n1)?;
    product::init(ctx)
}

/// Links and a namespace that carry our names before we come.
fn foreign_link(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    for (name, make, unmake) in FOREIGN {
        n1.sh(make)?;
        let shown = "ip addr | sed 's/ tentative//'; bridge link; ip -n ployz addr 2>&1 || true";
        let before = n1.sh(shown)?;
        let told = product::refused(n1, &format!("ployzctl mesh init {NETWORK}"), "COMPONENT_HELD")
            .with_context(|| name)?;
        ensure!(told.contains("is held: not ours") && told.contains(name), "{name}: {told}");
        ctx.say(format!("{name}: {}", told.trim().replace('\n', " ")));
        let now = n1.sh(shown)?;
        ensure!(now == before, "{name} was touched:\n{before}\n{now}");
        ensure!(product::networks(n1)? == 0, "{name}: a network is left");
        n1.sh(unmake)?;
        product::gone(ctx, n1).with_context(|| name)?;
    }
    // A wg0 of somebody's in the host namespace is no matter of ours: the tunnel lives elsewhere.
    n1.sh("ip link add wg0 type veth peer name probe1; ip addr add 192.0.2.1/32 dev wg0")?;
    let before = n1.sh("ip addr show dev wg0")?;
    product::init(ctx).context("beside a wg0 of somebody's in the host namespace")?;
    ensure!(n1.sh("ip addr show dev wg0")? == before, "the host's wg0 was touched");
    product::all_adopt(&product::restart(ctx, n1)?)?;
    says(&product::started(ctx, n1)?, "wireguard", "adopt", "")?;
    n1.sh(&format!("ployzctl -q mesh destroy {NETWORK}"))?;
    ensure!(n1.sh("ip addr show dev wg0")? == before, "the host's wg0 was touched by destroy");
    cleaned(ctx, n1)
}

fn cleaned(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh("ip link del wg0")?;
    product::gone(ctx, node)
}

const FOREIGN: [(&str, &str, &str); 4] = [
    (
        "ployz-veth",
        "ip link add ployz-veth type veth peer name probe1; ip addr add 192.0.2.1/32 dev ployz-veth",
        "ip link del ployz-veth",
    ),
    (
        "ployz0",
        "ip link add ployz0 type bridge; ip addr add 192.0.2.2/24 dev ployz0; ip link set ployz0 up",
        "ip link del ployz0",
    ),
    ("ployz0", "ip link add ployz0 type veth peer name probe1", "ip link del ployz0"),
    (
        "ployz",
        "ip netns add ployz; ip -n ployz link add wg0 type veth peer name probe1",
        "ip netns del ployz",
    ),
];
