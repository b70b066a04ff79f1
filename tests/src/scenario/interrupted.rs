//! Ctrl-C during a deploy: the deploy goes on and is followed again, or it is given up and undone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Ctx, Need, Scenario, product};
use crate::lab::{Background, Node};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "deploy-interrupted-and-attached",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 2,
    underlays: 1,
    run: interrupted,
}];

fn interrupted(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 2)?;
    goes_on(ctx)?;
    let before = running(ctx)?;
    undone_by_the_second(ctx)?;
    given_up_from_elsewhere(ctx)?;
    ensure!(running(ctx)? == before, "was {before:?}, is {:?}", running(ctx)?);
    after_a_restart(ctx)?;
    ensure!(running(ctx)? == before, "was {before:?}, is {:?}", running(ctx)?);
    Ok(())
}

/// Interrupted once it goes on; who attaches sees all of it, on another machine its phases, and its end for a while.
fn goes_on(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let deploy = begin(ctx, 1)?;
    interrupt(n1)?;
    let ended = deploy.wait(ctx.lab.secs(20))?;
    ensure!(ended.code == 130 && ended.stderr.contains("continues"), "{}", product::told(&ended));
    let id = attach_hint(&ended.stderr)?;
    let attached = n1.spawn("ployzctl --json deploy attach")?;
    let elsewhere = n2.spawn(&format!("ployzctl deploy attach {id}"))?;
    ready(ctx)?;
    let ended = attached.wait(ctx.lab.secs(60))?;
    let envelope: Value = serde_json::from_str(&ended.stdout).with_context(|| product::told(&ended))?;
    let report = &envelope["payload"];
    ensure!(report["state"] == "committed" && report["deploy_id"] == id.as_str(), "{envelope}");
    ensure!(report["events"].as_array().is_some_and(|events| events.len() > 2), "{envelope}");
    let ended = elsewhere.wait(ctx.lab.secs(30))?;
    ensure!(ended.code == 0 && ended.stdout.contains(&id), "{}", product::told(&ended));
    let again = n1.sh("ployzctl deploy attach")?;
    ensure!(again.contains(&id) && again.contains("is committed"), "{again}");
    product::refused(n1, &format!("ployzctl deploy attach {id} --abort"), "DEPLOY_COMMITTED")?;
    product::refused(n2, "ployzctl deploy attach 00000000000000aa", "DEPLOY_NOT_FOUND").map(drop)
}

fn undone_by_the_second(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let deploy = begin(ctx, 2)?;
    interrupt(n1)?;
    ctx.wait(10, "the first Ctrl-C to be answered", || {
        n1.sh("grep -q 'continues' /run/deploy.err").map(Some)
    })?;
    interrupt(n1)?;
    let ended = deploy.wait(ctx.lab.secs(60))?;
    ensure!(
        ended.code == 130 && ended.stderr.contains("was aborted and undone"),
        "{}",
        product::told(&ended)
    );
    Ok(())
}

/// The same command again follows the deploy that is under way; both end when it is given up from a third place.
fn given_up_from_elsewhere(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let deploy = begin(ctx, 3)?;
    let again = n1.spawn("ployzctl --json deploy -f /run/shop.toml")?;
    let id = ctx.wait(20, "the deploy's id", || {
        let all = n1.sh("docker ps -q --filter label=ployz.namespace=shop | xargs docker inspect -f '{{index .Config.Labels \"ployz.deploy\"}} {{.Config.Env}}' | grep VERSION=3 | cut -d' ' -f1")?;
        ensure!(!all.is_empty(), "no container");
        Ok(Some(all))
    })?;
    product::refused(ctx.node(2), &format!("ployzctl deploy attach {id} --abort"), "DEPLOY_IN_PROGRESS")?;
    let undone = n1.sh_for(Duration::from_secs(60), &format!("ployzctl deploy attach {id} --abort"))?;
    ensure!(undone.contains("was aborted and undone"), "{undone}");
    for command in [deploy, again] {
        let ended = command.wait(ctx.lab.secs(20))?;
        ensure!(ended.code == 1 && ended.stderr.contains("DEPLOY_ABORTED"), "{}", product::told(&ended));
        ensure!(ended.stderr.contains(&id), "{}", product::told(&ended));
    }
    Ok(())
}

/// A ployzd that starts again undoes what was not committed, and attaching shows that.
fn after_a_restart(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let deploy = begin(ctx, 4)?;
    n1.sh("systemctl kill -s KILL ployzd")?;
    let ended = deploy.wait(ctx.lab.secs(20))?;
    ensure!(ended.code == 1, "{}", product::told(&ended));
    product::started(ctx, n1)?;
    let ended = n1.run_for(ctx.lab.secs(60), "ployzctl deploy attach")?;
    let over = ended.stderr.contains("failed and was undone") || ended.stderr.contains("DEPLOY_NOT_FOUND");
    ensure!(ended.code == 1 && over, "{}", product::told(&ended));
    ctx.wait(60, "the candidates to be gone", || {
        let left = n1.sh("docker ps -q --filter label=ployz.namespace=shop | xargs docker inspect -f '{{.Config.Env}}' | grep -c VERSION=4 || true")?;
        ensure!(left == "0", "{left} left");
        Ok(Some(()))
    })
}

/// A deploy whose containers run and are not ready before [`ready`].
fn begin(ctx: &Ctx, version: usize) -> Result<Background> {
    let n1 = ctx.node(1);
    n1.put(MANIFEST.replace("VERSION_HERE", &version.to_string()), "/run/shop.toml", 0o644)?;
    let cmd =
        "echo $$ >/run/deploy.pid; exec ployzctl deploy -f /run/shop.toml 2> >(tee /run/deploy.err >&2)";
    let deploy = n1.spawn(&format!("exec bash -c '{cmd}'"))?;
    let seen = format!(
        "docker ps -q --filter label=ployz.namespace=shop | xargs docker inspect -f '{{{{.Config.Env}}}}' | grep -q VERSION={version}"
    );
    ctx.wait(30, "the candidate to run", || n1.sh(&seen).map(Some))?;
    Ok(deploy)
}

fn interrupt(node: &Node) -> Result<()> {
    node.sh("kill -INT $(cat /run/deploy.pid)").map(drop)
}

/// Lets the containers be ready.
fn ready(ctx: &Ctx) -> Result<()> {
    ctx.lab.each(|node| {
        node.sh("for c in $(docker ps -q --filter label=ployz.namespace=shop); do docker exec $c touch /tmp/go; done")
    })?;
    Ok(())
}

/// The id in what was said to a Ctrl-C.
fn attach_hint(said: &str) -> Result<String> {
    let after = said.split("deploy attach ").nth(1).with_context(|| said.to_owned())?;
    Ok(after.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// Containers of the namespace by node.
fn running(ctx: &Ctx) -> Result<Vec<String>> {
    ctx.lab.each(|node| node.sh("docker ps -aq --no-trunc --filter label=ployz.namespace=shop"))
}

const MANIFEST: &str = r#"version = 1
namespace = "shop"

[[services]]
name = "web"
image = "lab/busybox"
command = ["sleep", "100000"]
env = { VERSION = "VERSION_HERE" }
stop_grace_period = "1s"
placement = { mode = "global" }
readiness = { kind = "exec", command = ["test", "-e", "/tmp/go"], interval = "300ms", threshold = 1, deadline = "90s" }
"#;
