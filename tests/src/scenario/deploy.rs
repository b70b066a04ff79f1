//! Services on real engines: deployed, changed, left alone and removed, whatever happens to the daemons meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "deploy-a-service",
        needs: &[Need::Systemd, Need::Docker, Need::Package],
        nodes: 3,
        underlays: 1,
        run: deploy_a_service,
    },
    Scenario {
        name: "deploy-published-port",
        needs: &[Need::Systemd, Need::Docker, Need::Package],
        nodes: 3,
        underlays: 1,
        run: published_port,
    },
];

fn deploy_a_service(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let n1 = ctx.node(1);
    let first = deploy(n1, &manifest("1"))?;
    ensure!(first["state"] == "committed", "{first}");
    let before = running(ctx)?;
    ensure!(before.len() == 3, "on three machines, one each: {before:?}");
    all_ready(ctx, n1)?;
    everybody_answers(ctx, n1)?;

    let again = deploy(ctx.node(2), &manifest("1"))?;
    ensure!(again["state"] == "unchanged" && again["deploy_id"].is_null(), "{again}");
    ensure!(running(ctx)? == before, "an unchanged deploy changed something");

    for i in 1..=3 {
        ctx.node(i).sh("systemctl kill -s KILL ployzd")?;
    }
    for i in 1..=3 {
        product::started(ctx, ctx.node(i))?;
    }
    all_ready(ctx, n1)?;
    ensure!(running(ctx)? == before, "killing ployzd changed what runs");

    what_cannot_be_changes_nothing(ctx)?;
    ensure!(running(ctx)? == before, "a deploy that was refused or undone changed something");

    let changed = deploy(ctx.node(3), &manifest("2"))?;
    ensure!(changed["state"] == "committed", "{changed}");
    let after = running(ctx)?;
    ensure!(after.len() == 3 && after.values().all(|id| !before.values().any(|old| old == id)), "{after:?}");
    all_ready(ctx, n1)?;

    let request = json!({"command": "service-remove", "namespace": "shop", "service": "web"});
    let removed = done(n1, &request)?;
    ensure!(removed["state"] == "committed", "{removed}");
    ensure!(running(ctx)?.is_empty(), "{:?}", running(ctx)?);
    let listed = done(n1, &json!({"command": "service-list"}))?;
    ensure!(listed["services"] == json!([]), "{listed}");
    refused(n1, &request, "SERVICE_NOT_FOUND").map(drop)
}

/// An image that nobody has, a check that nobody answers, a machine that is away.
fn what_cannot_be_changes_nothing(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let mut wanted = manifest("x");
    wanted["services"][0]["image"] = json!("lab/nothing");
    wanted["services"][0]["pull"] = json!("never");
    refused(n1, &json!({"command": "deploy", "manifest": wanted}), "IMAGE_MISSING")?;

    let mut wanted = manifest("x");
    wanted["services"][0]["ports"] = json!([{"name": "http", "port": 8081}]);
    wanted["services"][0]["readiness"] =
        json!({"kind": "tcp", "port": 8081, "interval": "300ms", "deadline": "2s"});
    let answer = refused(n1, &json!({"command": "deploy", "manifest": wanted}), "READINESS_FAILED")?;
    ensure!(answer["payload"]["state"] == "failed", "{answer}");

    ctx.node(3).sh("systemctl stop ployzd")?;
    let request = json!({"command": "deploy", "manifest": manifest("x")});
    refused(n1, &request, "PARTICIPANT_UNREACHABLE")?;
    let listed = done(n1, &json!({"command": "service-list"}))?;
    ensure!(listed["unreachable"] == json!(["n3"]) && listed["services"][0]["ready"] == 2, "{listed}");
    ctx.node(3).sh("systemctl start ployzd")?;
    product::started(ctx, ctx.node(3))?;
    all_ready(ctx, n1)
}

/// A port of the machine can be held by one container only: the old one stops first, and comes back if it is given up.
fn published_port(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let holder = n2.spawn("socat TCP-LISTEN:18080,fork,reuseaddr -")?;
    ctx.wait(20, "the port to be held", || n2.sh("ss -Hltn sport = :18080 | grep .").map(|_| Some(())))?;
    let request = json!({"command": "deploy", "manifest": published("1")});
    refused(n1, &request, "PORT_TAKEN")?;
    ensure!(running(ctx)?.is_empty(), "a refused deploy started something");
    holder.stop()?;

    deploy(n1, &published("1"))?;
    let before = running(ctx)?;
    on_every_machine(ctx)?;
    let mut never = published("2");
    never["services"][0]["readiness"] =
        json!({"kind": "exec", "command": ["false"], "interval": "300ms", "deadline": "2s"});
    refused(n1, &json!({"command": "deploy", "manifest": never}), "READINESS_FAILED")?;
    ensure!(running(ctx)? == before, "what was stopped for it is not what runs now");
    all_ready(ctx, n1)?;
    on_every_machine(ctx)?;

    deploy(n2, &published("3"))?;
    ensure!(versions(ctx)? == BTreeSet::from(["3".to_owned()]), "{:?}", versions(ctx)?);
    all_ready(ctx, n1)?;
    on_every_machine(ctx)
}

pub(super) fn published(version: &str) -> Value {
    let mut wanted = manifest(version);
    wanted["services"][0]["ports"] = json!([{"name": "http", "port": 8080, "publish": 18080}]);
    wanted
}

fn on_every_machine(ctx: &Ctx) -> Result<()> {
    for i in 1..=3 {
        let node = ctx.node(i);
        let cmd = format!("curl -sf -m 3 -o /dev/null http://{}:18080/busybox", node.ip(1));
        ctx.wait(10, &cmd, || node.sh(&cmd).map(|_| Some(())))?;
    }
    Ok(())
}

/// Three web servers that differ by one variable.
pub(super) fn manifest(version: &str) -> Value {
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web",
        "image": "lab/busybox",
        "command": ["httpd", "-f", "-p", "8080", "-h", "/bin"],
        "env": {"VERSION": version},
        "ports": [{"name": "http", "port": 8080}],
        "placement": {"replicas": 3},
        "readiness": {"kind": "tcp", "port": 8080, "interval": "300ms"},
        "stop_grace_period": "1s"
    }]})
}

pub(super) fn deploy(node: &Node, manifest: &Value) -> Result<Value> {
    done(node, &json!({"command": "deploy", "manifest": manifest}))
}

pub(super) fn curl(request: &Value) -> String {
    let body = quote(&request.to_string());
    format!("curl -sN -m 200 --unix-socket /run/ployz/ployzd.sock http://ployz/v1/call -d {body}")
}

/// The result line of a call.
fn call(node: &Node, request: &Value) -> Result<Value> {
    let said = node.sh_for(std::time::Duration::from_secs(220), &curl(request))?;
    let last = said.lines().last().with_context(|| format!("{}: no answer", node.name()))?;
    serde_json::from_str(last).with_context(|| last.to_owned())
}

pub(super) fn done(node: &Node, request: &Value) -> Result<Value> {
    let answer = call(node, request)?;
    ensure!(answer["ok"] == true, "{}: {answer}", node.name());
    Ok(answer["payload"].clone())
}

pub(super) fn refused(node: &Node, request: &Value, code: &str) -> Result<Value> {
    let answer = call(node, request)?;
    ensure!(answer["ok"] == false && answer["code"] == code, "{}: {answer}", node.name());
    Ok(answer)
}

/// The containers of the namespace that are there, by node, stopped ones too; no node has two.
pub(super) fn running(ctx: &Ctx) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for i in 1..=3 {
        let node = ctx.node(i);
        let ids = node.sh("docker ps -aq --no-trunc --filter label=ployz.namespace=shop")?;
        ensure!(ids.lines().count() <= 1, "{}: {ids}", node.name());
        found.extend(ids.lines().map(|id| (node.name().to_owned(), id.to_owned())));
    }
    Ok(found)
}

/// The values of the variable by which manifests differ.
pub(super) fn versions(ctx: &Ctx) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for i in 1..=3 {
        let cmd = "docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' $(docker ps -q --filter label=ployz.namespace=shop)";
        let all = ctx.node(i).sh(cmd)?;
        found.extend(all.lines().filter_map(|line| line.strip_prefix("VERSION=")).map(str::to_owned));
    }
    Ok(found)
}

pub(super) fn all_ready(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(30, "the service to be ready 3 of 3", || {
        let listed = done(node, &json!({"command": "service-list"}))?;
        let row = &listed["services"][0];
        ensure!(row["service"] == "web" && row["wanted"] == 3 && row["ready"] == 3, "{listed}");
        Ok(Some(()))
    })
}

/// Every instance is reached from this node, at the address that `service-inspect` says.
fn everybody_answers(ctx: &Ctx, node: &Node) -> Result<()> {
    let detail = done(node, &json!({"command": "service-inspect", "namespace": "shop", "service": "web"}))?;
    let instances = detail["instances"].as_array().context("instances")?;
    ensure!(instances.len() == 3, "{detail}");
    for one in instances {
        ensure!(one["verdict"] == "adopt" && one["current"] == true, "{one}");
        let address = one["address"].as_str().context("address")?;
        let cmd = format!("curl -sf -m 3 -o /dev/null http://{address}:8080/busybox");
        ctx.wait(15, &cmd, || node.sh(&cmd).map(|_| Some(())))?;
    }
    is_named(ctx, node, 3)
}

/// A container finds so many addresses under the service's name: what deploys and machines publish is followed.
fn is_named(ctx: &Ctx, node: &Node, addresses: usize) -> Result<()> {
    let cmd =
        "docker exec $(docker ps -q --filter label=ployz.namespace=shop) nslookup web.shop.ployz.internal";
    ctx.wait(15, cmd, || {
        let said = node.sh(cmd)?;
        let found: BTreeSet<&str> = said
            .lines()
            .filter_map(|line| {
                line.strip_prefix("Address")?.split_once(": ").map(|(_, address)| address.trim())
            })
            .filter(|address| address.starts_with("10.101.") && !address.contains(".2:"))
            .collect();
        ensure!(found.len() == addresses, "{said}");
        Ok(Some(()))
    })
}
