//! Tokens that are not good: each refused with its own code, and nothing half done on either side.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::product::{self, NETWORK, join_refused};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 4] = [
    scenario("tokens-refused", 3, refused),
    scenario("tokens-for-another-network", 2, elsewhere),
    scenario("tokens-of-a-created-network", 2, created),
    scenario("tokens-over-unique-local-addresses", 2, unique_local),
];

const fn scenario(name: &'static str, nodes: usize, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Package], nodes, underlays: 1, run }
}

fn refused(ctx: &mut Ctx) -> Result<()> {
    product::init(ctx)?;
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));

    let token = product::token(ctx)?;
    for (what, bad) in spoiled(&token)? {
        join_refused(n2, &bad, "INVALID_TOKEN").with_context(|| what)?;
    }
    let nothing = n2.run("echo | ployzctl mesh join --token-stdin")?;
    ensure!(nothing.code == 2, "no token is wrong usage: {}", product::told(&nothing));
    product::gone(ctx, n2)?;

    let expired = n1.sh("ployzctl machine invite create --plain --ttl-secs 1")?;
    wait_for(ctx, "expired", 1)?;
    join_refused(n2, &expired, "TOKEN_EXPIRED")?;
    product::gone(ctx, n2)?;

    let (revoked, id) = invite(n1)?;
    n1.sh(&format!("ployzctl machine invite revoke {id}"))?;
    n1.sh(&format!("ployzctl machine invite revoke {id}")).context("revoking twice is no error")?;
    wait_for(ctx, "revoked", 1)?;
    join_refused(n2, &revoked, "TOKEN_REVOKED")?;
    product::gone(ctx, n2)?;
    product::refused(n1, "ployzctl machine invite revoke 0123456789abcdef", "INVITE_NOT_FOUND")?;

    // No failure has reserved anything: the untouched token still works and gets the next slice.
    only_founder(n1)?;
    product::join_with(n2, &token)?;
    ensure!(product::addresses(n2)?[1] == "10.101.1.2", "{:?}", product::addresses(n2)?);

    join_refused(n3, &token, "TOKEN_CONSUMED")?;
    product::gone(ctx, n3)?;
    n2.sh(&format!("ployzctl mesh destroy {NETWORK} --local"))?;
    join_refused(n2, &token, "TOKEN_CONSUMED").context("replayed by the machine that used it")?;
    product::gone(ctx, n2)?;

    product::join(ctx, 3)?;
    ensure!(product::addresses(n3)?[1] == "10.101.2.2", "{:?}", product::addresses(n3)?);
    product::ready(ctx, 3)?;
    let names = n1.sh("ployzctl --plain machine ls | cut -f1")?;
    ensure!(names == "n1\nn2\nn3", "members: {names}");
    let rows = n1.sh("ployzctl --plain machine invite list | cut -f2 | sort | uniq -c | tr -s ' '")?;
    ensure!(rows == " 2 consumed\n 1 expired\n 1 revoked", "{rows}");
    Ok(())
}

/// Another network runs or is known here, another range is configured, the range is in use here.
/// Invites of a network that is only created: kept, listed, taken back, and good once it is started.
fn created(ctx: &mut Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh(&format!("ployzctl -q mesh create {NETWORK}"))?;
    product::refused(n1, "ployzctl machine invite create", "NO_RUNNING_NETWORK")?;
    product::refused(n1, "ployzctl machine invite create --network other", "NETWORK_NOT_FOUND")?;
    let made = format!("ployzctl machine invite create --plain --network {NETWORK}");
    let (token, unwanted) = (n1.sh(&made)?, n1.sh(&made)?);
    ensure!(token != unwanted, "one token twice");
    let listed = || n1.sh(&format!("ployzctl --plain machine invite list --network {NETWORK} | cut -f1,2"));
    let rows = listed()?;
    let id =
        rows.lines().nth(1).and_then(|row| row.strip_suffix("\tactive")).with_context(|| rows.clone())?;
    n1.sh(&format!("ployzctl machine invite revoke {id} --network {NETWORK}"))?;
    ensure!(listed()?.lines().count() == 1, "{}", listed()?);
    n1.sh("systemctl restart ployzd")?;
    ensure!(listed()?.lines().count() == 1, "forgotten by a restart: {}", listed()?);

    n1.sh(&format!("ployzctl -q mesh start {NETWORK}"))?;
    product::ready(ctx, 1)?;
    let joined = n2.sh(&format!("echo {token} | ployzctl mesh join --token-stdin"))?;
    let row = joined.lines().find(|line| line.starts_with("n1 ")).with_context(|| joined.clone())?;
    ensure!(row.ends_with("yes") && !joined.contains("no peers"), "{joined}");
    product::meets(ctx, 2, 1)?;
    ensure!(n2.sh("ployzctl mesh status")?.contains("n1 "), "the running network needs no name");
    let rows = listed()?;
    ensure!(rows.lines().count() == 1 && rows.ends_with("\tconsumed"), "{rows}");
    n2.sh("ployzctl mesh stop")?;
    let stopped = n2.sh("ployzctl mesh status")?;
    ensure!(stopped.contains("stopped") && stopped.contains("n1 "), "{stopped}");
    n2.sh("ployzctl -q mesh start")?;
    product::meets(ctx, 2, 1)
}

fn elsewhere(ctx: &mut Ctx) -> Result<()> {
    product::init(ctx)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let token = product::token(ctx)?;
    n2.sh("ployzctl -q mesh init other")?;
    let before = product::identity(n2)?;
    join_refused(n2, &token, "NETWORK_ALREADY_RUNNING")?;
    product::unchanged(n2, &before)?;
    n2.sh("ployzctl -q mesh destroy other && ployzctl -q mesh create prod")?;
    join_refused(n2, &token, "NETWORK_ALREADY_EXISTS")?;
    n2.sh("ployzctl -q mesh destroy prod")?;
    product::gone(ctx, n2)?;

    for line in ["cluster_cidr = \"10.102.0.0/16\"", "subnet_prefix_len = 25"] {
        n2.sh(&format!("cp -p /etc/ployz/config.toml /run/config; echo '{line}' >>/etc/ployz/config.toml; systemctl restart ployzd"))?;
        let told = join_refused(n2, &token, "CIDR_MISMATCH")?;
        ensure!(told.contains("10.101.0.0/16"), "{told}");
        n2.sh("cp -p /run/config /etc/ployz/config.toml; systemctl restart ployzd")?;
    }
    n2.sh("ip addr add 10.101.77.1/32 dev lo")?;
    let told = join_refused(n2, &token, "ADDRESS_CONFLICT")?;
    ensure!(
        told.contains("10.101.77.1") && told.contains("cannot be changed by a joining machine"),
        "{told}"
    );
    n2.sh("ip addr del 10.101.77.1/32 dev lo")?;
    product::gone(ctx, n2)?;

    only_founder(n1)?;
    product::join_with(n2, &token)?;
    product::meets(ctx, 1, 1)?;
    ensure!(product::addresses(n2)?[1] == "10.101.1.2");
    let again = product::token(ctx)?;
    join_refused(n2, &again, "NETWORK_ALREADY_RUNNING").map(drop)
}

/// Machines with nothing but unique local addresses: no token without an address, one by hand, and from then on by the
/// configuration.
fn unique_local(ctx: &mut Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let only_ipv6 = |node: &Node| node.sh(&format!("ip addr del {}/24 dev eth0", node.ip(1))).map(drop);
    only_ipv6(n1)?;
    only_ipv6(n2)?;
    product::init(ctx)?;
    let said = product::refused(n1, "ployzctl machine invite create", "NO_ENDPOINT")?;
    ensure!(said.contains("fd77::11 of eth0") && said.contains("--endpoint"), "{said}");
    ensure!(n1.run("ployzctl doctor --plain")?.stdout.contains("endpoints\twarn"), "doctor says so");
    let made = n1.run("ployzctl machine invite create --plain --endpoint fd77::11")?;
    ensure!(made.ok() && made.stderr.contains("advertise_endpoints"), "{}", product::told(&made));
    let token = made.stdout.trim();

    // A machine without a way to the only address: said at once, and nothing is left of it.
    n2.sh("ip -6 addr del fd77::12/64 dev eth0; ip -6 route flush fd77::/64; true")?;
    let said = join_refused(n2, token, "ISSUER_UNREACHABLE")?;
    ensure!(said.contains("no route to any address") && said.contains("[fd77::11]:51820"), "{said}");
    product::gone(ctx, n2)?;
    n2.sh("ip -6 addr add fd77::12/64 dev eth0 nodad")?;
    let joined = n2.sh(&format!("echo {token} | ployzctl mesh join --token-stdin"))?;
    ensure!(joined.contains("no address that others can dial"), "{joined}");
    product::meets(ctx, 2, 1)?;

    n1.sh("cp -p /etc/ployz/config.toml /run/config; echo 'advertise_endpoints = [\"fd77::11\"]' >>/etc/ployz/config.toml")?;
    n1.sh("systemctl restart ployzd")?;
    ctx.wait(60, "n2 to know the address of the configuration", || {
        let status = product::json(n2, "mesh status")?;
        ensure!(status["peers"][0]["candidates"][0] == "[fd77::11]:51820", "{status}");
        Ok(Some(()))
    })?;
    let made = n1.run("ployzctl machine invite create --plain")?;
    ensure!(made.ok() && made.stderr.is_empty(), "{}", product::told(&made));
    n2.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
    n1.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local; cp -p /run/config /etc/ployz/config.toml"))?;
    for node in [n1, n2] {
        node.sh(&format!("ip addr add {}/24 dev eth0", node.ip(1)))?;
    }
    Ok(())
}

/// The founder knows nobody but itself.
fn only_founder(n1: &Node) -> Result<()> {
    let names = n1.sh("ployzctl --plain machine ls | cut -f1")?;
    ensure!(names == "n1", "half-members: {names}");
    Ok(())
}

fn invite(node: &Node) -> Result<(String, String)> {
    let made = product::json(node, "machine invite create")?;
    let text = |key: &str| made[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {made}"));
    ensure!(made["expires_at"].as_u64().is_some(), "{made}");
    Ok((text("token")?, text("invite_id")?))
}

fn wait_for(ctx: &Ctx, status: &str, count: usize) -> Result<()> {
    ctx.wait(20, &format!("an invite to be {status}"), || {
        let invites = product::json(ctx.node(1), "machine invite list")?;
        let list: &Vec<Value> = invites["invites"].as_array().context("invites")?;
        let found = list.iter().filter(|invite| invite["status"] == status).count();
        ensure!(found == count, "{invites}");
        Ok(Some(()))
    })
}

/// The token with one character changed in its claims or signature, cut short, doubled, emptied, and swapped signatures.
fn spoiled(token: &str) -> Result<Vec<(&'static str, String)>> {
    ensure!(token.starts_with("eyJ"), "a token begins with eyJ");
    let (claims, signature) = token.split_once('.').context("a token has two parts")?;
    let flip = |text: &str, at: usize| {
        let new = if &text[at..=at] == "A" { "B" } else { "A" };
        format!("{}{new}{}", &text[..at], &text[at + 1..])
    };
    Ok(vec![
        ("claims changed", format!("{}.{signature}", flip(claims, claims.len() / 2))),
        ("signature changed", format!("{claims}.{}", flip(signature, 10))),
        ("cut in the claims", claims[..claims.len() / 2].to_owned()),
        ("without a signature", claims.to_owned()),
        ("with an empty signature", format!("{claims}.")),
        ("cut in the signature", token[..token.len() - 8].to_owned()),
        ("twice", format!("{token}{token}")),
        ("no token", "hello".to_owned()),
    ])
}
