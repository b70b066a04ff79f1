//! A machine goes away in the middle of a deploy: the others are brought to its end, the namespace is free, and the machine
//! does its own part when it is back.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::deploy::{all_ready, curl, deploy, done, manifest, published, refused, running, versions};
use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::Background;

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "deploy-away-before-the-commit",
        needs: &[Need::Systemd, Need::Docker, Need::Package],
        nodes: 3,
        underlays: 1,
        run: before_the_commit,
    },
    Scenario {
        name: "deploy-away-after-the-commit",
        needs: &[Need::Systemd, Need::Docker, Need::Package],
        nodes: 3,
        underlays: 1,
        run: after_the_commit,
    },
];

/// Old instances were stopped for candidates that never become ready, and a machine that has both is gone.
fn before_the_commit(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    deploy(n1, &published("1"))?;
    let before = running(ctx)?;
    let mut never = published("2");
    never["services"][0]["rollout"] = json!({"parallelism": 3});
    never["services"][0]["readiness"] =
        json!({"kind": "exec", "command": ["false"], "interval": "300ms", "deadline": "20s"});
    let call = n1.spawn(&curl(&json!({"command": "deploy", "manifest": never})))?;
    ctx.wait(20, "n3's candidate", || {
        let ids = n3.sh("docker ps -q --no-trunc --filter label=ployz.namespace=shop")?;
        Ok((ids.lines().count() == 1 && !before.values().any(|id| *id == ids.trim())).then_some(()))
    })?;
    n3.sh("systemctl stop ployzd")?;
    let answer = last(ctx, call)?;
    ensure!(answer["payload"]["state"] == "undo-pending", "{answer}");
    for i in [1, 2] {
        let node = ctx.node(i);
        let ids = node.sh("docker ps -q --no-trunc --filter label=ployz.namespace=shop")?;
        ensure!(Some(ids.trim()) == before.get(&node.name()).map(String::as_str), "{}: {ids}", node.name());
    }
    is_free(ctx)?;

    n3.sh("systemctl start ployzd")?;
    product::started(ctx, n3)?;
    all_ready(ctx, n1)?;
    ctx.wait(30, "n3 to be as it was", || Ok((running(ctx)? == before).then_some(())))?;
    deploy(n1, &published("3"))?;
    ensure!(versions(ctx)? == BTreeSet::from(["3".to_owned()]), "{:?}", versions(ctx)?);
    all_ready(ctx, n1)
}

/// The deploy is committed, and a machine that should drain and remove its old instance is gone.
fn after_the_commit(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    deploy(n1, &manifest("1"))?;
    let call = n1.spawn(&curl(&json!({"command": "deploy", "manifest": manifest("2")})))?;
    ctx.wait(60, "the draining", || Ok(call.stdout().contains("draining").then_some(())))?;
    n3.sh("systemctl stop ployzd")?;
    let answer = last(ctx, call)?;
    ensure!(answer["ok"] == true && answer["payload"]["state"] == "cleanup-pending", "{answer}");
    is_free(ctx)?;
    let old = n3.sh("docker ps -q --filter label=ployz.namespace=shop")?;
    ensure!(old.lines().count() == 2, "n3 was to owe something: {old}");

    n3.sh("systemctl start ployzd")?;
    product::started(ctx, n3)?;
    ctx.wait(30, "n3 to remove what it owes", || {
        let ids = n3.sh("docker ps -aq --filter label=ployz.namespace=shop")?;
        Ok((ids.lines().count() == 1).then_some(()))
    })?;
    ensure!(versions(ctx)? == BTreeSet::from(["2".to_owned()]), "{:?}", versions(ctx)?);
    all_ready(ctx, n1)
}

/// Another service of the namespace comes and goes while the machine is away.
fn is_free(ctx: &Ctx) -> Result<()> {
    let n2 = ctx.node(2);
    let side = json!({"version": 1, "namespace": "shop", "services": [{
        "name": "side",
        "image": "lab/busybox",
        "command": ["sleep", "1000"],
        "placement": {"machines": ["n2"]},
        "stop_grace_period": "1s"
    }]});
    let made = done(n2, &json!({"command": "deploy", "manifest": side, "only": "side"}))?;
    ensure!(made["state"] == "committed", "{made}");
    let gone = done(n2, &json!({"command": "service-remove", "namespace": "shop", "service": "side"}))?;
    ensure!(gone["state"] == "committed", "{gone}");
    let whole = json!({"command": "deploy", "manifest": manifest("x")});
    refused(n2, &whole, "PARTICIPANT_UNREACHABLE").map(drop)
}

/// What a call that was begun ended with.
fn last(ctx: &Ctx, call: Background) -> Result<Value> {
    let output = call.wait(ctx.lab.secs(150))?;
    ensure!(output.ok(), "{}", product::told(&output));
    Ok(serde_json::from_str(output.stdout.lines().last().unwrap_or_default())?)
}
