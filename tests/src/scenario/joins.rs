//! Joins that are cut off at any moment, and many at once: a machine is a member or it is not.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "join-killed-joiner",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: joiner,
    },
    Scenario {
        name: "join-killed-issuer",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: issuer,
    },
    Scenario {
        name: "twenty-joiners",
        needs: &[Need::Native, Need::Package],
        nodes: 5,
        underlays: 1,
        run: twenty,
    },
];

/// Milliseconds into the join at which ployzd dies, for lane `ns`.
const MOMENTS: [u64; 14] = [5, 20, 40, 60, 90, 120, 160, 200, 250, 300, 400, 500, 650, 800];

fn joiner(ctx: &mut Ctx) -> Result<()> {
    product::init(ctx)?;
    let n2 = ctx.node(2);
    let mut alone = 0;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let token = product::token(ctx)?;
        attempt(ctx, n2, &token, moment)?;
        // By itself it becomes a member or nothing; if nothing, the same token still serves it.
        let ended = ctx.wait(60, &format!("the join killed after {moment} ms to end"), || {
            if n2.run("ployzctl -q mesh ready")?.ok() {
                return Ok(Some(true));
            }
            ensure!(product::networks(n2)? == 0, "a network that is not ready");
            Ok(Some(false))
        })?;
        if ended {
            alone += 1;
        } else {
            product::gone_but_keys(ctx, n2).with_context(|| format!("killed after {moment} ms"))?;
            product::join_with(n2, &token)
                .with_context(|| format!("again with the same token, after {moment} ms"))?;
        }
        one_more_member(ctx, round + 2).with_context(|| format!("killed after {moment} ms"))?;
        n2.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
        product::gone(ctx, n2)?;
    }
    ctx.say(format!("{alone} of {} joins went on by themselves", MOMENTS.len()));
    Ok(())
}

fn issuer(ctx: &mut Ctx) -> Result<()> {
    product::init(ctx)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let token = product::token(ctx)?;
        let join = n2.spawn(&format!("echo {} | ployzctl mesh join --token-stdin", quote(&token)))?;
        thread::sleep(ctx.lane().scale(Duration::from_millis(moment)));
        n1.sh("systemctl kill -s KILL ployzd")?;
        let output = join.wait(ctx.lab.secs(90))?;
        product::ready(ctx, 1)?;
        if !output.ok() {
            ensure!(output.stderr.contains("error ["), "no code: {}", product::told(&output));
            ctx.say(format!(
                "killed after {moment} ms: {}",
                output.stderr.lines().next().unwrap_or_default()
            ));
            product::join_with(n2, &token)
                .with_context(|| format!("again with the same token, after {moment} ms"))?;
        }
        one_more_member(ctx, round + 2).with_context(|| format!("killed after {moment} ms"))?;
        n2.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local"))?;
        product::gone(ctx, n2)?;
    }
    Ok(())
}

/// Starts a join and kills the joiner's ployzd so many milliseconds later; waits until it is back.
fn attempt(ctx: &Ctx, node: &Node, token: &str, moment: u64) -> Result<()> {
    let seconds = ctx.lane().scale(Duration::from_millis(moment)).as_secs_f64();
    node.sh(&format!(
        "pid=$(systemctl show -P MainPID ployzd); \
         (echo {} | ployzctl mesh join --token-stdin >/run/join.log 2>&1 &); sleep {seconds}; kill -9 $pid",
        quote(token)
    ))?;
    ctx.wait(20, "ployzd to be back", || node.sh("ployzctl -q status").map(|_| Some(())))
}

/// Node 2 is ready, the founder counts so many members, each with a slice of its own, and the two talk.
fn one_more_member(ctx: &Ctx, members: usize) -> Result<()> {
    product::ready(ctx, 2)?;
    let rows = ctx.wait(20, &format!("{members} members"), || {
        let rows = product::json(ctx.node(1), "machine ls")?;
        let list = rows["rows"].as_array().context("rows")?.clone();
        ensure!(list.len() == members, "{} members", list.len());
        Ok(Some(list))
    })?;
    let slices: BTreeSet<String> = rows.iter().map(|row| row["subnet"].to_string()).collect();
    ensure!(slices.len() == members, "slices are shared: {slices:?}");
    product::carries(ctx, 1, 2)?;
    product::carries(ctx, 2, 1)
}

/// Four nodes join at once, leave and join again, five times: twenty machines, twenty slices.
fn twenty(ctx: &mut Ctx) -> Result<()> {
    let ctx: &Ctx = ctx;
    product::init(ctx)?;
    let mut slices = BTreeSet::new();
    for round in 1..=5 {
        let tokens = tokens_at_once(ctx, 4)?;
        let joined = thread::scope(|scope| {
            let joins: Vec<_> = tokens
                .iter()
                .zip(2..)
                .map(|(token, i)| (i, scope.spawn(move || product::join_with(ctx.node(i), token))))
                .collect();
            joins
                .into_iter()
                .map(|(i, join)| join.join().expect("no panic").with_context(|| format!("n{i}")))
                .collect::<Result<Vec<_>>>()
        });
        joined.with_context(|| format!("round {round}"))?;
        for i in 2..=5 {
            product::ready(ctx, i)?;
            product::carries(ctx, i, 1)?;
            slices.insert(product::addresses(ctx.node(i))?[1].clone());
        }
        if round < 5 {
            ctx.lab.each(|node| match node.index() {
                1 => Ok(()),
                _ => node.sh(&format!("ployzctl -q mesh destroy {NETWORK} --local")).map(drop),
            })?;
        }
    }
    ensure!(slices.len() == 20, "{} different slices: {slices:?}", slices.len());
    let rows = product::json(ctx.node(1), "machine ls")?;
    ensure!(rows["rows"].as_array().context("rows")?.len() == 21, "{rows}");
    let invites =
        ctx.node(1).sh("ployzctl --plain machine invite list | cut -f2 | sort | uniq -c | tr -s ' '")?;
    ensure!(invites == " 20 consumed", "{invites}");
    for (from, to) in [(2, 3), (3, 4), (4, 5), (5, 2)] {
        product::carries(ctx, from, to)?;
    }
    Ok(())
}

fn tokens_at_once(ctx: &Ctx, count: usize) -> Result<Vec<String>> {
    thread::scope(|scope| {
        let asked: Vec<_> = (0..count).map(|_| scope.spawn(|| product::token(ctx))).collect();
        asked.into_iter().map(|token| token.join().expect("no panic")).collect()
    })
}
