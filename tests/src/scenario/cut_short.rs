//! What fails half-way: a full disk, a part that cannot be taken down. Nothing is left, or what is left has a record and the same
//! command finishes it.

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK, refused, told};
use super::{Ctx, Need, Scenario};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 3] = [
    scenario("mesh-on-a-full-disk", 1, full_disk),
    scenario("join-without-inodes", 2, no_inodes),
    scenario("leaving-can-be-repeated", 2, leaving),
];

const fn scenario(name: &'static str, nodes: usize, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Package], nodes, underlays: 1, run }
}

/// `mesh init` with room for the first files only, then for a few more, leaves nothing and says what it lacks.
fn full_disk(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    n1.sh(SMALL)?;
    for free in (0..=20).step_by(4) {
        let ballast =
            format!("head -c 64M /dev/zero >{BALLAST} 2>/dev/null || truncate -s -{free}K {BALLAST}");
        n1.sh(&ballast)?;
        let output = n1.run(&format!("ployzctl mesh init {NETWORK}"))?;
        let said = output.stderr.contains("No space left on device");
        ensure!(output.code == 1 && said, "with {free} KiB: {}", told(&output));
        let first = output.stderr.lines().next().unwrap_or_default();
        ctx.say(format!("{free} KiB: {first}"));
        n1.sh(&format!("rm {BALLAST}"))?;
        product::gone(ctx, n1).with_context(|| format!("with {free} KiB"))?;
    }
    product::init(ctx)?;
    // To destroy makes room: it needs none.
    n1.sh(&format!("! head -c 64M /dev/zero >{BALLAST} 2>/dev/null && ployzctl -q mesh destroy {NETWORK}"))?;
    n1.sh(&format!("rm {BALLAST}"))?;
    product::gone(ctx, n1)?;
    n1.sh("systemctl stop ployzd && umount /var/lib/ployz")?;
    n1.sh("systemctl start ployzd").map(drop)
}

/// A join that runs out of inodes, sooner and later, while bytes are free: it is named, and when there is room again all of it
/// comes up by itself.
fn no_inodes(ctx: &mut Ctx) -> Result<()> {
    product::init(ctx)?;
    let n2 = ctx.node(2);
    n2.sh(FEW_INODES)?;
    for left in [9, 19, 25, 31, 37] {
        let token = product::token(ctx)?;
        n2.sh(&format!("{FILL}; ls {FILLED} | head -n {left} | sed 's,^,{FILLED}/,' | xargs rm"))?;
        let join = format!("echo {} | ployzctl mesh join --token-stdin", quote(&token));
        let output = n2.run(&join)?;
        let first = output.stderr.lines().next().unwrap_or_default().to_owned();
        ctx.say(format!("{left} inodes: exit {} {first}", output.code));
        let found = super::doctor::findings(n2)?;
        let (level, seen) = &found["disk"];
        ensure!(level == "fail" && seen.contains("inodes free of"), "{level} {seen}");
        n2.sh(&format!("rm -r {FILLED}"))?;
        if output.code != 0 && !output.stderr.contains("continues in the background") {
            ensure!(output.stderr.contains("No space left on device"), "{}", told(&output));
            n2.sh(&join).context("the same again with room")?;
        }
        product::ready(ctx, 2).with_context(|| format!("with {left} inodes"))?;
        dns_answers(ctx, n2).with_context(|| format!("with {left} inodes"))?;
        n2.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
        product::gone(ctx, n2)?;
    }
    n2.sh("systemctl stop ployzd && umount /var/lib/ployz && systemctl start ployzd").map(drop)
}

fn dns_answers(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(30, "DNS to answer", || {
        let found = super::doctor::findings(node)?;
        let (level, seen) = found.get("dns-names").context("no dns-names")?;
        ensure!(level == "ok", "{level} {seen}");
        Ok(Some(()))
    })
}

/// D-Bus hangs while a member leaves, and while a join is given up.
fn leaving(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n2 = ctx.node(2);
    hangs(n2, &format!("ployzctl mesh destroy {NETWORK} --local"))?;
    let standing = refused(n2, &format!("ployzctl mesh start {NETWORK}"), "INVALID_TRANSITION")?;
    ensure!(standing.contains("destroy"), "{standing}");
    n2.sh(&format!("ployzctl -q mesh destroy {NETWORK}")).context("the same again")?;
    product::gone(ctx, n2)?;

    product::join(ctx, 2)?;
    n2.sh(JOINING)?;
    hangs(n2, "ployzctl mesh stop")?;
    ensure!(product::networks(n2)? == 1, "what could not be taken down has lost its record");
    n2.sh("ployzctl -q mesh stop").context("giving the join up again")?;
    product::gone(ctx, n2)?;

    product::join(ctx, 2)?;
    n2.sh(JOINING)?;
    hangs(n2, "ployzctl mesh stop")?;
    n2.sh("systemctl restart ployzd").context("finished by the next start")?;
    product::gone(ctx, n2)?;

    // A store that nobody has a record of is not taken over.
    n2.sh(&format!("mkdir -p {ORPHAN} && touch {ORPHAN}/theirs"))?;
    for command in [
        format!("ployzctl mesh init {NETWORK}"),
        format!("echo {} | ployzctl mesh join --token-stdin", product::token(ctx)?),
    ] {
        let said = refused(n2, &command, "NETWORK_ALREADY_EXISTS")?;
        ensure!(said.contains(ORPHAN) && said.contains("hint: move"), "{said}");
    }
    n2.sh(&format!("test -e {ORPHAN}/theirs && rm -r $(dirname {ORPHAN})"))?;
    product::gone(ctx, n2)?;
    product::join(ctx, 2)
}

/// The command fails while D-Bus hangs, and says that it can be repeated.
fn hangs(node: &Node, command: &str) -> Result<()> {
    node.sh("kill -STOP $(pidof dbus-daemon)")?;
    let said = refused(node, command, "NETWORK_DESTROY_FAILED");
    node.sh("kill -CONT $(pidof dbus-daemon)")?;
    let said = said?;
    ensure!(said.contains("cannot be inspected") && said.contains("can be repeated"), "{said}");
    Ok(())
}

/// State where files may be few.
const FEW_INODES: &str =
    "set -e; systemctl stop ployzd; mount -t tmpfs -o size=100m,nr_inodes=2000,mode=711 tmpfs /var/lib/ployz
chown root:ployz /var/lib/ployz; systemd-tmpfiles --create ployz.conf; systemctl start ployzd";
const FILLED: &str = "/var/lib/ployz/filled";
const FILL: &str = "mkdir /var/lib/ployz/filled && cd /var/lib/ployz/filled && for i in $(seq 2000); do : 2>/dev/null >$i || break; done";
const BALLAST: &str = "/var/lib/ployz/ballast";
const ORPHAN: &str = "/var/lib/ployz/networks/prod/nats";

/// State on a small disk.
const SMALL: &str = "set -e; systemctl stop ployzd; mount -t tmpfs -o size=40m,mode=711 tmpfs /var/lib/ployz
chown root:ployz /var/lib/ployz; systemd-tmpfiles --create ployz.conf; systemctl start ployzd";

/// The member's record as that of a machine whose join nobody confirms.
const JOINING: &str = r#"set -e; systemctl stop ployzd; f=/var/lib/ployz/networks/prod/network.json
jq '.lifecycle = {"state": "joining", "invite": "0123456789abcdef", "issuer": "fd00::1", "until": 9999999999}' $f >/run/joining
cat /run/joining >$f; rm /run/joining; systemctl start ployzd"#;
