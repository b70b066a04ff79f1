//! What happens to containers behind ployzd's back: each gets the right verdict, and none is touched for it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "containers-held-and-adopted",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 3,
    underlays: 1,
    run: held_and_adopted,
}];

fn held_and_adopted(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    deploy(ctx.node(1))?;
    all_are(ctx, "adopt")?;
    docker_restarted(ctx)?;
    docker_absent(ctx)?;
    stopped_by_hand(ctx)?;
    changed_by_hand(ctx)?;
    removed_by_hand(ctx)?;
    foreign_under_our_name(ctx)?;
    half_labelled(ctx)
}

/// Docker starts its containers again; to ployzd they are the same.
fn docker_restarted(ctx: &Ctx) -> Result<()> {
    let before = ids(ctx)?;
    ctx.node(2).sh_for(ctx.lab.secs(120), "systemctl restart docker")?;
    all_are(ctx, "adopt")?;
    ensure!(ids(ctx)? == before, "Docker's restart made other containers");
    Ok(())
}

/// Without Docker the mesh goes on, nobody's state is guessed, and a deploy says which machine it lacks.
fn docker_absent(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let before = ids(ctx)?;
    n2.sh_for(ctx.lab.secs(120), "systemctl stop docker.socket docker.service")?;
    ctx.wait(20, "n2 to be missed", || {
        let list = product::json(n1, "service ls")?;
        ensure!(list["unreachable"] == json!(["n2"]) && list["services"][0]["ready"] == 2, "{list}");
        Ok(Some(()))
    })?;
    let mut wanted = manifest();
    wanted["services"][0]["env"]["VERSION"] = json!("2");
    let said = product::refused(n1, &deploy_cmd(&wanted), "PARTICIPANT_UNREACHABLE")?;
    ensure!(said.contains("n2"), "{said}");
    // Also for a daemon that starts meanwhile.
    let plan = product::restart(ctx, n2)?;
    product::all_adopt(&plan)?;
    product::ready(ctx, 2)?;
    let explained = product::json(n2, "explain containers")?;
    ensure!(explained["containers"]["unknown"].is_string(), "{explained}");
    n2.sh_for(ctx.lab.secs(120), "systemctl start docker.socket docker.service")?;
    all_are(ctx, "adopt")?;
    ensure!(ids(ctx)? == before, "other containers after Docker's absence");
    Ok(())
}

/// Who stopped it wanted it stopped.
fn stopped_by_hand(ctx: &Ctx) -> Result<()> {
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    let before = ids(ctx)?;
    n3.sh(&format!("docker stop -t 1 {}", before["n3"]))?;
    let row = verdict(ctx, "n3", "hold")?;
    ensure!(row["reasons"][0].as_str().unwrap_or_default().contains("is stopped"), "{row}");
    product::restart(ctx, n3)?;
    verdict(ctx, "n3", "hold")?;
    ensure!(product::json(n1, "service ls")?["services"][0]["ready"] == 2, "a stopped one is ready");
    n3.sh(&format!("docker start {}", before["n3"]))?;
    all_are(ctx, "adopt")?;
    ensure!(ids(ctx)? == before, "a stopped container was replaced");
    Ok(())
}

/// A field that was changed is named; the container runs on.
fn changed_by_hand(ctx: &Ctx) -> Result<()> {
    let before = ids(ctx)?;
    let n1 = ctx.node(1);
    n1.sh(&format!("docker update --restart=always {}", before["n1"]))?;
    let row = verdict(ctx, "n1", "recreate")?;
    ensure!(row["reasons"][0].as_str().unwrap_or_default().contains("restart"), "{row}");
    let own = product::json(n1, "explain containers")?["containers"]["rows"][0].clone();
    ensure!(own["verdict"] == "recreate" && own["reasons"] == row["reasons"], "{own} is not {row}");
    product::restart(ctx, n1)?;
    verdict(ctx, "n1", "recreate")?;
    n1.sh(&format!("docker update --restart=unless-stopped {}", before["n1"]))?;
    all_are(ctx, "adopt")?;
    ensure!(ids(ctx)? == before, "a changed container was replaced");
    Ok(())
}

/// Nobody makes it anew but a deploy, and that makes nothing else anew.
fn removed_by_hand(ctx: &Ctx) -> Result<()> {
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    let before = ids(ctx)?;
    n3.sh(&format!("docker rm -f {}", before["n3"]))?;
    ctx.wait(20, "two of three", || {
        let row = product::json(n1, "service ls")?["services"][0].clone();
        ensure!(row["ready"] == 2 && row["wanted"] == 3, "{row}");
        Ok(Some(()))
    })?;
    product::restart(ctx, n3)?;
    product::ready(ctx, 3)?;
    ensure!(!ids(ctx)?.contains_key("n3"), "ployzd made a container by itself");
    let explained = product::json(n3, "explain")?["containers"]["rows"].clone();
    ensure!(explained[0]["verdict"] == "create" && explained[1].is_null(), "{explained}");
    deploy(n1)?;
    all_are(ctx, "adopt")?;
    let after = ids(ctx)?;
    ensure!(after["n1"] == before["n1"] && after["n2"] == before["n2"], "{before:?}\n{after:?}");
    ensure!(after["n3"] != before["n3"], "{after:?}");
    Ok(())
}

/// Somebody else's container has the name of one of ours: it is neither listed nor touched, and the slot gets another.
fn foreign_under_our_name(ctx: &Ctx) -> Result<()> {
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    let ours = ids(ctx)?["n3"].clone();
    let name = n3.sh(&format!("docker inspect -f '{{{{.Name}}}}' {ours}"))?;
    let name = name.trim_start_matches('/');
    let theirs = n3.sh(&format!(
        "docker rm -f {ours} >/dev/null; docker run -d --name {name} lab/busybox sleep 100000"
    ))?;
    ctx.wait(20, "n3's instance to be missed", || {
        let detail = product::json(n1, "service inspect shop/web")?;
        let rows = detail["instances"].as_array().context("instances")?;
        let gone =
            |row: &&Value| row["machine"] == "n3" && row["state"] == "gone" && row["verdict"] == "create";
        ensure!(rows.len() == 3 && rows.iter().filter(gone).count() == 1, "{detail}");
        Ok(Some(()))
    })?;
    product::restart(ctx, n3)?;
    deploy(n1)?;
    all_are(ctx, "adopt")?;
    n1.sh("ployzctl service rm shop/web")?;
    let left = n3.sh("docker ps -q --no-trunc")?;
    ensure!(left == theirs, "of {theirs} there is {left}");
    n3.sh(&format!("docker rm -f {theirs}")).map(drop)
}

/// Labels that are not whole prove nothing.
fn half_labelled(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let network = n2.sh("docker network inspect -f '{{index .Labels \"ployz.network\"}}' ployz0")?;
    let theirs = n2.sh(&format!(
        "docker run -d --label ployz.network={network} --label ployz.namespace=shop --label ployz.service=web lab/busybox sleep 100000"
    ))?;
    deploy(n1)?;
    all_are(ctx, "adopt")?;
    n1.sh("ployzctl service rm shop/web")?;
    let left = n2.sh("docker ps -q --no-trunc")?;
    ensure!(left == theirs, "of {theirs} there is {left}");
    n2.sh(&format!("docker rm -f {theirs}")).map(drop)
}

fn manifest() -> Value {
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web",
        "image": "lab/busybox",
        "command": ["httpd", "-f", "-p", "8080", "-h", "/bin"],
        "env": {"VERSION": "1"},
        "ports": [{"name": "http", "port": 8080}],
        "placement": {"mode": "global"},
        "readiness": {"kind": "tcp", "port": 8080, "interval": "300ms"},
        "stop_grace_period": "1s"
    }]})
}

fn deploy_cmd(manifest: &Value) -> String {
    format!("echo {} | ployzctl deploy -f -", quote(&manifest.to_string()))
}

fn deploy(node: &Node) -> Result<()> {
    node.sh_for(Duration::from_secs(120), &deploy_cmd(&manifest())).map(drop)
}

/// Container of the service by node; none has two.
fn ids(ctx: &Ctx) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for i in 1..=3 {
        let node = ctx.node(i);
        let all = node.sh("docker ps -aq --no-trunc --filter label=ployz.instance")?;
        ensure!(all.lines().count() <= 1, "{}: {all}", node.name());
        found.extend(all.lines().map(|id| (node.name(), id.to_owned())));
    }
    Ok(found)
}

/// Waits until three instances are ready and all have this verdict.
fn all_are(ctx: &Ctx, verdict: &str) -> Result<()> {
    ctx.wait(60, &format!("three ready instances to be {verdict}ed"), || {
        let list = product::json(ctx.node(1), "service ls")?;
        ensure!(list["services"][0]["ready"] == 3, "{list}");
        let detail = product::json(ctx.node(1), "service inspect shop/web")?;
        let rows = detail["instances"].as_array().context("instances")?;
        let good = rows.iter().filter(|row| row["verdict"] == verdict && row["current"] == true).count();
        ensure!(rows.len() == 3 && good == 3, "{detail}");
        Ok(Some(()))
    })
}

/// Waits until the instance of a machine has this verdict; returns its row.
fn verdict(ctx: &Ctx, machine: &str, verdict: &str) -> Result<Value> {
    ctx.wait(20, &format!("the verdict {verdict} on {machine}"), || {
        let detail = product::json(ctx.node(2), "service inspect shop/web")?;
        let rows = detail["instances"].as_array().context("instances")?;
        let row = rows.iter().find(|row| row["machine"] == machine).context("no instance there")?;
        ensure!(row["verdict"] == verdict, "{row}");
        Ok(Some(row.clone()))
    })
}
