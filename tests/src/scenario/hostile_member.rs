//! A member, a local user and an issuer that lie: other machines' containers, ployzd's memory and descriptors, and other
//! networks stay as they were.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::product::{self, NETWORK, join_refused};
use super::{Ctx, Need, Scenario};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "hostile-member",
    needs: &[Need::Systemd, Need::Docker, Need::Package, Need::Native],
    nodes: 3,
    underlays: 1,
    run: hostile,
}];

fn hostile(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    ctx.node(1).docker_busybox()?;
    product::docker_network(ctx, ctx.node(1))?;
    let program = env::current_exe().context("the path of this program")?.with_file_name("hostile");
    ensure!(program.exists(), "{}: build it with `cargo build -p ployz-tests`", program.display());
    for i in [2, 3] {
        ctx.node(i).put_file(&program, PROGRAM, 0o755)?;
    }
    paths_lead_nowhere_else(ctx)?;
    commands_need_who_may_ask(ctx)?;
    records_give_no_identity(ctx)?;
    a_token_overwrites_no_other_network(ctx)?;
    a_flood_takes_nothing_away(ctx)
}

/// Each of these was another call of n1's engine, asked for by n2.
fn paths_lead_nowhere_else(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh(concat!(
        "docker volume create kept && docker run -d --name foreign -v kept:/kept lab/busybox sleep 100000 && ",
        "docker create --name idle lab/busybox true && docker run --name big lab/busybox dd if=/dev/zero of=/big bs=1M count=300"
    ))?;
    let look = "docker ps -a --format '{{.ID}} {{.Names}} {{.State}}' | sort; docker volume ls -q | sort; docker network ls -q | sort";
    let (before, memory) = (n1.sh(look)?, resident(n1)?);
    let network = network_id(n1)?;
    let since = product::cursor(n1)?;
    for id in [
        "../containers/foreign/kill?x=",
        "../containers/foreign/restart?x=",
        "../containers/prune?x=",
        "../volumes/prune?x=",
        "../networks/prune?x=",
        "../containers/big/export?x=",
    ] {
        for command in ["image.look", "image.name"] {
            let payload = json!({"command": command, "network": network, "image": "lab/busybox:latest",
                "facts": {"id": id, "content": "v1:x"}});
            let answer = asks(n2, "n1", command, &payload.to_string(), "signed")?;
            ensure!(answer.contains("INVALID_REQUEST"), "{command} {id}: {answer}");
        }
    }
    let after = n1.sh(look)?;
    ensure!(after == before, "was\n{before}\nis\n{after}");
    let grown = resident(n1)?.saturating_sub(memory);
    ensure!(grown < 20_000, "ployzd has grown by {grown} kB");
    let said = product::logged(n1, &since)?;
    let audited = said.iter().filter(|line| line.contains("image command refused")).count();
    ensure!(audited == 12, "{audited} of 12 commands are in the journal: {said:#?}");
    Ok(())
}

/// What n2 says to the ployzd of a machine, and what that answers.
fn asks(n2: &Node, machine: &str, command: &str, payload: &str, how: &str) -> Result<String> {
    let [overlay, _] = product::addresses(n2)?;
    n2.sh(&format!(
        "echo {} | {PROGRAM} ask [{overlay}]:4222 /var/lib/ployz/networks/{NETWORK} {machine} {command} {how}",
        quote(payload)
    ))
}

/// Writes over what a bucket has, as n2.
fn puts(n2: &Node, bucket: &str, key: &str, value: &str) -> Result<()> {
    let [overlay, _] = product::addresses(n2)?;
    let answer = n2.sh(&format!(
        "echo {} | {PROGRAM} put [{overlay}]:4222 /var/lib/ployz/networks/{NETWORK} {bucket} {key}",
        quote(value)
    ))?;
    ensure!(answer.contains("\"seq\""), "{bucket} {key}: {answer}");
    Ok(())
}

fn network_id(node: &Node) -> Result<String> {
    node.sh(&format!(
        "grep -o '\"id\": \"[0-9a-f]\\{{32\\}}\"' /var/lib/ployz/networks/{NETWORK}/network.json | cut -d'\"' -f4"
    ))
}

/// One message destroyed the bootstrap node with the whole store, and removed any machine's containers.
fn commands_need_who_may_ask(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let (network, before, since) = (network_id(n1)?, product::identity(n1)?, product::cursor(n1)?);
    let destroy =
        |command: &str| json!({"command": command, "network": network, "id": "0011223344556677"}).to_string();
    let (prepare, execute) = (destroy("prepare-destroy"), destroy("execute-destroy"));
    let remove = json!({"command": "deploy.remove", "network": network, "namespace": "shop", "deploy": "0011223344556677",
        "not_after": u64::MAX, "instances": ["web-0-aaaaa"]})
    .to_string();
    let name =
        json!({"command": "pull.name", "network": network, "image": format!("lab/busybox@sha256:{:0>64}", 1),
        "name": "lab/other:1"})
        .to_string();
    for (command, payload, how, why) in [
        ("mesh.execute_destroy", &execute, "unsigned", "it is not signed"),
        ("mesh.prepare_destroy", &prepare, "signed", "only the bootstrap node"),
        ("mesh.execute_destroy", &execute, "signed", "only the bootstrap node"),
        ("mesh.execute_destroy", &execute, "n1", "its signature is not the one of n1"),
        ("mesh.execute_destroy", &execute, "n9", "its sender n9 is not a member"),
        ("deploy.remove", &remove, "unsigned", "it is not signed"),
        ("deploy.remove", &remove, "signed", "n2 does not hold the lock of shop, no machine does"),
        ("pull.name", &name, "twice", "it was taken before"),
        ("mesh.sudo", &name, "signed", "there is no such command"),
    ] {
        let answer = asks(n2, "n1", command, payload, how)?;
        ensure!(answer.contains("COMMAND_REFUSED") && answer.contains(why), "{command} {how}: {answer}");
    }
    product::unchanged(n1, &before)?;
    let said = product::logged(n1, &since)?;
    ensure!(
        said.iter().any(|line| line.contains("command of another machine refused")),
        "no audit line: {said:#?}"
    );
    // The same machine by the proper way: its operator's command.
    product::refused(n2, &format!("ployzctl mesh destroy {NETWORK}"), "MESH_DESTROY_NOT_ALLOWED").map(drop)
}

/// One record took the bootstrap node's place, one a machine's traffic, one left a machine out for good.
fn records_give_no_identity(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let claim = |name: &str, change: &str| {
        n2.sh(&format!("{PROGRAM} claim /var/lib/ployz/networks/{NETWORK} {name} {}", quote(change)))
    };
    let before = [product::identity(n1)?, product::identity(n2)?];
    let theft = claim("n1", r#"{"verify_key": "own", "protocol": 0}"#)?;
    puts(n2, "machines", "n1", &theft)?;
    let network = network_id(n1)?;
    let execute =
        json!({"command": "execute-destroy", "network": network, "id": "0011223344556677"}).to_string();
    let answer = asks(n2, "n1", "mesh.execute_destroy", &execute, "n1")?;
    ensure!(answer.contains("its signature is not the one of n1"), "{answer}");
    // A machine on n1's own subnet, with a user of its choice.
    let ghost = claim("n2", r#"{"id": "n9", "created_at": 0}"#)?;
    let ghost = ghost.replace(&subnet(n2)?, &subnet(n1)?);
    puts(n2, "machines", "n9", &ghost)?;
    puts(n2, "machines", "n8", "what is this")?;
    puts(n2, "locks", "subnet.10-101-77-0_24", "what is this")?;
    puts(n2, "invites", "0011223344556677", "{}")?;
    ctx.wait(20, "doctor to name them", || {
        let found = super::doctor::findings(n1)?;
        let (level, seen) = found.get("store-records").context("no store-records")?;
        Ok((level == "warn" && seen.contains("n8") && seen.contains("n9")).then_some(()))
    })?;
    // Answers of the server to hostile reply subjects end there in the same way: n1 writes its own again.
    puts(n2, "machines", "n1", r#"{"type": "io.nats.jetstream.api.v1.consumer_create_response"}"#)?;
    ctx.wait(20, "n1 to write its record again", || {
        let found = super::doctor::findings(n1)?;
        let (_, seen) = found.get("store-records").context("no store-records")?;
        Ok((!seen.contains("n1:")).then_some(()))
    })?;
    product::restart(ctx, n1)?;
    product::ready(ctx, 1)?;
    product::unchanged(n1, &before[0])?;
    product::unchanged(n2, &before[1])?;
    n1.sh("ployzctl machine invite list >/dev/null")?;
    product::meets(ctx, 1, 1)?;
    product::carries(ctx, 1, 2)
}

/// A machine's node subnet.
fn subnet(node: &Node) -> Result<String> {
    node.sh(&format!(
        "sed -n 's/.*\"subnet\": \"\\([0-9./]*\\)\".*/\\1/p' /var/lib/ployz/networks/{NETWORK}/network.json | head -n 1"
    ))
    .map(|text| text.trim().to_owned())
}

/// A token with another network's name, of an issuer whose network is called like one that n3 has.
fn a_token_overwrites_no_other_network(ctx: &Ctx) -> Result<()> {
    let n3 = ctx.node(3);
    n3.sh(&format!("ployzctl -q mesh create {NETWORK}"))?;
    let look = format!("cd /var/lib/ployz/networks/{NETWORK} && sha256sum network.json peers.json keys.json");
    let before = n3.sh(&look)?;
    let token = n3.sh(&format!("echo {} | {PROGRAM} resign zzz", quote(&product::token(ctx)?)))?;
    join_refused(n3, &token, "INVALID_TOKEN")?;
    ensure!(n3.sh(&look)? == before, "the other network's files are changed");
    ensure!(product::networks(n3)? == 1, "{}", n3.sh("ls -R /var/lib/ployz/networks")?);
    n3.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local")).map(drop)
}

/// An unprivileged user of n2 floods the join listener of n1; meanwhile n3 joins.
fn a_flood_takes_nothing_away(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let [overlay, _] = product::addresses(n1)?;
    let (open, memory) = (descriptors(n1)?, resident(n1)?);
    let flood = n2.spawn(&format!(
        "ulimit -n 20000; setpriv --reuid 65534 --regid 65534 --clear-groups {PROGRAM} flood [{overlay}]:4318 15000 30"
    ))?;
    ctx.wait(10, "the flood to arrive", || Ok((descriptors(n1)? > open).then_some(())))?;
    product::join(ctx, 3)?;
    let mut most = 0;
    for _ in 0..10 {
        most = most.max(descriptors(n1)?);
        n1.sh("ployzctl mesh ready && nft list table inet ployz >/dev/null")?;
    }
    ensure!(most < open + 64, "{open} descriptors before, {most} meanwhile");
    let told = flood.wait(Duration::from_secs(60))?;
    let opened = told.stdout.split(' ').next().and_then(|text| text.parse::<u64>().ok());
    ensure!(opened.is_some_and(|opened| opened > 1_000), "it was no flood: {}", product::told(&told));
    let grown = resident(n1)?.saturating_sub(memory);
    ensure!(grown < 20_000, "ployzd has grown by {grown} kB");
    ctx.say(format!("{} flooded: {most} descriptors at most, {grown} kB more", opened.unwrap_or(0)));
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2))
}

/// Resident memory of ployzd, kB.
fn resident(node: &Node) -> Result<u64> {
    let text = node.sh("awk '/^VmRSS/ {print $2}' /proc/$(systemctl show -P MainPID ployzd)/status")?;
    text.trim().parse().with_context(|| text.clone())
}

/// Open descriptors of ployzd.
fn descriptors(node: &Node) -> Result<u64> {
    let text = node.sh("ls /proc/$(systemctl show -P MainPID ployzd)/fd | wc -l")?;
    text.trim().parse().with_context(|| text.clone())
}

const PROGRAM: &str = "/opt/hostile";
