//! Input that cannot be right: refused at once, with the place and what would be right, and without effect.

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK, refused, told};
use super::{Ctx, Need, Scenario};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 3] = [
    scenario("bad-configuration", configuration),
    scenario("bad-arguments", arguments),
    scenario("bad-addresses", addresses),
];

const fn scenario(name: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Package], nodes: 1, underlays: 1, run }
}

/// A file, and what the complaint must contain besides `FILE:LINE:`.
const FILES: [(&str, usize, &[&str]); 9] = [
    ("region = \"a\"\nnope = 1\n", 2, &["nope", "unknown key"]),
    ("wireguard_port = 1\n", 1, &["wireguard_port", "wireguard_listen_port"]),
    ("\n\nwireguard_listen_port = \"x\"\n", 3, &["wireguard_listen_port", "integer"]),
    ("wireguard_listen_port = 70000\n", 1, &["wireguard_listen_port", "65535"]),
    ("subnet_prefix_len = 31\n", 1, &["subnet_prefix_len", "17", "29"]),
    ("cluster_cidr = \"10.101.0.0/24\"\nsubnet_prefix_len = 16\n", 2, &["subnet_prefix_len", "25", "29"]),
    ("cluster_cidr = \"fd00::/16\"\n", 1, &["cluster_cidr"]),
    ("wireguard_backend = \"magic\"\n", 1, &["auto", "kernel", "userspace"]),
    ("[storage]\novercommit_ratio = -1.0\n", 2, &["overcommit_ratio"]),
];

fn configuration(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    for (text, line, words) in FILES {
        n1.put(text, "/run/bad.toml", 0o644)?;
        let output = n1.run("ployzd --config /run/bad.toml check-config")?;
        let place = format!("/run/bad.toml:{line}:");
        let all = output.code == 2
            && words.iter().chain([&place.as_str()]).all(|word| output.stderr.contains(word));
        ensure!(all, "`{text}` must be refused at {place} with {words:?}: {}", told(&output));
    }
    let output = n1.run("PLOYZ_SUBNET_PREFIX_LEN=99 ployzd check-config")?;
    ensure!(output.code == 2 && output.stderr.contains("PLOYZ_SUBNET_PREFIX_LEN"), "{}", told(&output));
    let output = n1.run("ployzd --config /run/none.toml check-config")?;
    ensure!(output.code == 2 && output.stderr.contains("/run/none.toml"), "{}", told(&output));
    let fine = n1.sh("PLOYZ_REGION=eu ployzd check-config")?;
    ensure!(fine.contains("PLOYZ_REGION") && fine.contains("wireguard_listen_port = 51820"), "{fine}");

    // The daemon itself: refused at start, not tried again, and the data plane does not care.
    product::init(ctx)?;
    let before = product::identity(n1)?;
    n1.sh("cp -p /etc/ployz/config.toml /run/good; echo 'nope = 1' >>/etc/ployz/config.toml")?;
    ensure!(!n1.run("systemctl restart ployzd")?.ok(), "it starts with a wrong configuration");
    ctx.wait(20, "ployzd to have given up", || {
        let state = n1.sh("systemctl show -P ActiveState,ExecMainStatus --value ployzd | tr '\\n' ' '")?;
        ensure!(state.trim() == "failed 2" || state.trim() == "2 failed", "{state}");
        Ok(Some(()))
    })?;
    let journal = n1.sh("journalctl -u ployzd -o cat -n 20")?;
    ensure!(journal.contains("/etc/ployz/config.toml:") && journal.contains("unknown key"), "{journal}");
    product::unchanged(n1, &before)?;
    n1.sh("cp -p /run/good /etc/ployz/config.toml; systemctl start ployzd")?;
    product::all_adopt(&product::started(ctx, n1)?)
}

fn arguments(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let long = "a".repeat(64);
    for name in ["Prod", "prod_1", "-prod", "prod-", "prod.x", "", " ", "prød", "../x", long.as_str()] {
        for verb in ["init", "create", "destroy"] {
            usage(n1, &format!("ployzctl mesh {verb} -- {}", quote(name)))?;
        }
        usage(n1, &format!("echo {} | ployzctl mesh init --name-stdin", quote(name)))?;
    }
    for cmd in [
        "echo x | ployzctl mesh init prod --name-stdin",
        "ployzctl mesh init",
        "ployzctl mesh init --name-stdin </dev/null",
        "echo x | ployzctl mesh join --token-stdin --token y",
        "ployzctl mesh join",
        "ployzctl mesh join eyJ",
        "ployzctl machine invite create --ttl-secs 0",
        "ployzctl machine invite create --ttl-secs 604801",
        "ployzctl machine invite create --ttl-secs x",
        "ployzctl machine invite revoke nonsense",
        "ployzctl --json --plain status",
        "ployzctl explain nothing",
        "ployzctl nonsense",
        "ployzctl",
    ] {
        usage(n1, cmd)?;
    }
    ensure!(product::networks(n1)? == 0);
    product::gone(ctx, n1)?;

    let output = n1.run("ployzctl --socket /run/none.sock status")?;
    ensure!(output.code == 1 && output.stderr.contains("/run/none.sock"), "{}", told(&output));
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let output = n1.run(&format!("{nobody} ployzctl status"))?;
    ensure!(output.code == 1 && output.stderr.contains("group ployz"), "{}", told(&output));
    n1.sh(
        "setpriv --reuid=65534 --regid=65534 --groups=$(getent group ployz | cut -d: -f3) ployzctl -q status",
    )
    .context("a member of the group")?;
    ensure!(n1.sh("stat -c '%a %G' /run/ployz/ployzd.sock")? == "660 ployz");
    n1.sh("systemctl stop ployzd")?;
    let output = n1.run("ployzctl --json status")?;
    ensure!(output.code == 1, "{}", told(&output));
    let envelope: serde_json::Value = serde_json::from_str(&output.stdout).with_context(|| told(&output))?;
    ensure!(envelope["ok"] == false, "{envelope}");
    n1.sh("systemctl start ployzd")?;
    n1.sh("ployzctl status | true; [ ${PIPESTATUS[0]} = 0 ]").context("a broken pipe is success").map(drop)
}

/// Exit code 2 and a word about it, and nothing done.
fn usage(node: &Node, cmd: &str) -> Result<()> {
    let output = node.run(cmd)?;
    ensure!(output.code == 2 && !output.stderr.is_empty(), "`{cmd}` is wrong usage: {}", told(&output));
    Ok(())
}

/// The cluster's range over an address that the machine has.
fn addresses(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    for (range, clash) in [("10.77.0.0/16", "10.77.0.11"), ("10.0.0.0/8", "10.77.0.11")] {
        n1.sh(&format!("cp -p /etc/ployz/config.toml /run/good; echo 'cluster_cidr = \"{range}\"' >>/etc/ployz/config.toml; systemctl restart ployzd"))?;
        let said = refused(n1, &format!("ployzctl mesh init {NETWORK}"), "ADDRESS_CONFLICT")?;
        ensure!(said.contains(clash) && said.contains(range), "{said}");
        refused(n1, &format!("ployzctl mesh create {NETWORK}"), "ADDRESS_CONFLICT")?;
        product::gone(ctx, n1)?;
        n1.sh("cp -p /run/good /etc/ployz/config.toml; systemctl restart ployzd")?;
    }
    // A range that is on the way already, as a route, belongs to somebody too.
    n1.sh("ip route add 10.101.0.0/16 via 10.77.0.1")?;
    let said = refused(n1, &format!("ployzctl mesh init {NETWORK}"), "ADDRESS_CONFLICT")
        .context("a route of the same range")?;
    ensure!(said.contains("10.101.0.0/16"), "{said}");
    n1.sh("ip route del 10.101.0.0/16 via 10.77.0.1")?;
    product::gone(ctx, n1)?;
    product::init(ctx)
}
