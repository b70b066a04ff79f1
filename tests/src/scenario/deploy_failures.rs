//! Deploys that are cut off or cannot be: the coordinator dies at every phase, and is taken over; two at once; a machine out of
//! reach, an image that only some have, a full disk. What runs is always wholly one of two manifests, the answer says why, and a
//! retry works.
//!
//! `PLOYZ_FULL=1` kills at every phase, otherwise at one before the commit and one after it; `PLOYZ_PARTS` names parts.

use std::collections::BTreeSet;
use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Ctx, Need, Scenario, product, served};
use crate::lab::{Background, Node, Output, quote};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "deploy-failures",
    needs: &[Need::Systemd, Need::Docker, Need::Package, Need::Native],
    nodes: 3,
    underlays: 1,
    run: failures,
}];

type Part = (&'static str, fn(&Ctx) -> Result<()>);

const PARTS: [Part; 7] = [
    ("coordinator", coordinator_killed),
    ("participant", participant_killed),
    ("takeover", taken_over),
    ("two", two_at_once),
    ("reach", out_of_reach),
    ("image", image_of_some),
    ("disk", disk_full),
];

fn failures(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    deploy(ctx.node(1), 0)?.committed()?;
    let wanted = env::var("PLOYZ_PARTS").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, part) in PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        ctx.say(name);
        let done = part(ctx).and_then(|()| if served::full() { retry_works(ctx) } else { Ok(()) });
        if let Err(error) = done {
            ctx.say(format!("{name}: {error:#}"));
            failed.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    retry_works(ctx)
}

/// The lines by which a deploy tells that a phase begins, and whether it is committed by then.
const PHASES: [(&str, bool); 7] = [
    ("querying the state", false),
    ("probing", false),
    ("stopping", false),
    ("starting", false),
    ("is committed", true),
    ("draining", true),
    ("removing", true),
];

/// The phases to kill at, all or these few; `stopping` is of deploys that roll stop-first only.
fn phases(few: &[&str]) -> impl Iterator<Item = (&'static str, bool)> {
    PHASES.into_iter().filter(|(name, _)| served::full() || few.contains(name))
}

/// The daemon that coordinates dies at each phase. What is committed is finished by its successor, all else undone.
fn coordinator_killed(ctx: &Ctx) -> Result<()> {
    for (round, (phase, committed)) in phases(&["starting", "is committed"]).enumerate() {
        let node = ctx.node(round % 3 + 1);
        let (old, new) = (version(ctx)?, 100 + round);
        let deploy =
            Deploy::watched(node, &manifest(new, phase == "stopping"), phase, "kill -9 $(pidof ployzd)")?;
        ctx.wait(60, &format!("`{phase}`"), || {
            ensure!(node.run("test -e /run/phase-seen")?.ok(), "{}", deploy.call.stdout());
            Ok(Some(()))
        })?;
        product::started(ctx, node)?;
        let found = settled(ctx)?;
        let wanted = if committed { new } else { old };
        ctx.say(format!("coordinator killed at `{phase}`: {found} runs"));
        ensure!(found == wanted, "coordinator killed at `{phase}`: {found} runs, not {wanted}");
    }
    Ok(())
}

/// A daemon that takes part dies at each phase. The coordinator says what became of it, and that is so.
fn participant_killed(ctx: &Ctx) -> Result<()> {
    for (round, (phase, _)) in phases(&["stopping"]).enumerate() {
        let (node, other) = (ctx.node(round % 3 + 1), ctx.node((round + 1) % 3 + 1));
        let (old, new) = (version(ctx)?, 200 + round);
        let trap = other.spawn("exec socat TCP-LISTEN:9999,reuseaddr SYSTEM:'kill -9 $(pidof ployzd)'")?;
        ctx.wait(20, "the trap", || other.sh("ss -Hltn sport = :9999 | grep .").map(|_| Some(())))?;
        let spring = format!("echo >/dev/tcp/{}/9999", other.ip(1));
        let answer =
            Deploy::watched(node, &manifest(new, phase == "stopping"), phase, &spring)?.answer(ctx)?;
        ensure!(node.run("test -e /run/phase-seen")?.ok(), "no `{phase}`: {}", answer.all);
        trap.wait(ctx.lab.secs(10))?;
        product::started(ctx, other)?;
        let found = settled(ctx)?;
        let said = answer.code();
        ctx.say(format!("participant killed at `{phase}`: {said}, {found} runs"));
        let wanted = if answer.last["ok"] == true { new } else { old };
        ensure!(found == wanted, "participant killed at `{phase}`: {said}, {found} runs, not {wanted}");
    }
    Ok(())
}

/// The coordinator dies and does not come back. It has no part in the deploy itself, so another machine can finish or undo
/// all of it, once the lock has run out.
fn taken_over(ctx: &Ctx) -> Result<()> {
    let (gone, next) = (ctx.node(2), ctx.node(3));
    run(next, &apart(300))?.committed()?;
    let cases = [("starting", "undoing", 310), ("draining", "finishing", 320)];
    for (phase, what, new) in cases.into_iter().take(if served::full() { 2 } else { 1 }) {
        let cut = Deploy::watched(
            gone,
            &apart(new),
            phase,
            "systemctl stop --no-block ployzd; kill -9 $(pidof ployzd)",
        )?;
        ctx.wait(60, &format!("`{phase}`"), || {
            gone.sh("test -e /run/phase-seen && ! pidof ployzd").map(|_| Some(()))
        })?;
        run(next, &apart(new + 1))?.refused(&["DEPLOY_IN_PROGRESS"])?;
        let answer = ctx.wait(60, "the lock to run out", || {
            let answer = run(next, &apart(new + 1))?;
            ensure!(answer.code() != "DEPLOY_IN_PROGRESS", "{}", answer.all);
            Ok(Some(answer))
        })?;
        answer.committed()?;
        ensure!(answer.all.contains(what), "nothing of {what} what was cut off: {}", answer.all);
        let found = version_of(ctx, "apart", 2)?;
        ctx.say(format!("coordinator gone at `{phase}`: {what} by another, then {found} runs"));
        ensure!(found == new + 1, "{found} runs");
        drop(cut);
        gone.sh("systemctl start ployzd")?;
        product::started(ctx, gone)?;
    }
    Ok(())
}

/// A service of nodes 1 and 3 alone.
fn apart(version: usize) -> Value {
    let mut wanted = manifest(version, false);
    wanted["namespace"] = json!("apart");
    wanted["services"][0]["placement"] = json!({"replicas": 2, "machines": ["n1", "n3"]});
    wanted
}

/// Two machines deploy to one namespace: one of them does it, the other says that it cannot now.
fn two_at_once(ctx: &Ctx) -> Result<()> {
    let one = Deploy::start(ctx.node(1), &manifest(400, false))?;
    let two = Deploy::start(ctx.node(2), &manifest(401, false))?;
    let (one, two) = (one.answer(ctx)?, two.answer(ctx)?);
    let found = settled(ctx)?;
    ctx.say(format!("400: {}, 401: {}, {found} runs", one.code(), two.code()));
    let (winner, loser, wanted) = if one.last["ok"] == true { (one, two, 400) } else { (two, one, 401) };
    winner.committed()?;
    loser.refused(&["DEPLOY_IN_PROGRESS"])?;
    ensure!(found == wanted, "{found} runs");
    Ok(())
}

/// A machine is cut off, before a deploy and in the middle of one.
fn out_of_reach(ctx: &Ctx) -> Result<()> {
    if !served::full() {
        return Ok(()); // `deploy-a-service` asks the first half of it
    }
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    let old = version(ctx)?;
    n3.cut_link(1)?;
    let answer = deploy(n1, 500)?;
    answer.refused(&["PARTICIPANT_UNREACHABLE"])?;
    n3.heal_link(1)?;
    ensure!(settled(ctx)? == old, "a refused deploy changed something");
    let middle = Deploy::watched(n1, &manifest(501, false), "starting", "true")?;
    ctx.wait(60, "`starting`", || n1.sh("test -e /run/phase-seen").map(|_| Some(())))?;
    n3.cut_link(1)?;
    let answer = middle.answer(ctx)?;
    ctx.say(format!("cut off while starting: {}", answer.code()));
    n3.heal_link(1)?;
    let found = settled(ctx)?;
    let wanted = if answer.last["ok"] == true { 501 } else { old };
    ensure!(found == wanted, "{}, {found} runs, not {wanted}", answer.code());
    Ok(())
}

/// One machine of three does not have the image.
fn image_of_some(ctx: &Ctx) -> Result<()> {
    let old = version(ctx)?;
    for i in [1, 2] {
        ctx.node(i).sh("docker tag lab/busybox lab/some:1")?;
    }
    let mut wanted = manifest(600, false);
    wanted["services"][0]["image"] = json!("lab/some:1");
    let answer = Deploy::start(ctx.node(1), &wanted)?.answer(ctx)?;
    answer.refused(&["IMAGE_MISSING"])?;
    ensure!(answer.all.contains("n3"), "it does not say where: {}", answer.all);
    ensure!(settled(ctx)? == old, "a refused deploy changed something");
    Ok(())
}

/// The engine's disk is full on one machine, then the daemon's own.
fn disk_full(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let old = version(ctx)?;
    n2.sh(FILL_OWN)?;
    let answer = deploy(n1, 700)?;
    n2.sh(EMPTY_OWN)?;
    ctx.say(format!("no room for the daemon's own files: {}", answer.code()));
    answer.refused(&["DISK_FULL"])?;
    ensure!(settled(ctx)? == old, "a failed deploy changed something");
    if !served::full() {
        return Ok(()); // two restarts of an engine
    }
    deploy(n1, 701)?.committed()?;
    n2.sh_for(Duration::from_secs(120), FILL_ENGINE)?;
    ensure!(settled(ctx)? == 701, "the engine's restart changed something");
    let answer = deploy(n1, 702)?;
    n2.sh_for(Duration::from_secs(120), EMPTY_ENGINE)?;
    ctx.say(format!("no room for the engine: {}", answer.code()));
    answer.refused(&["DISK_FULL"])?;
    ensure!(settled(ctx)? == 701, "a refused deploy changed something");
    Ok(())
}

/// After whatever happened, another machine deploys, and that is what runs.
fn retry_works(ctx: &Ctx) -> Result<()> {
    let new = version(ctx)? + 1000;
    deploy(ctx.node(2), new)?.committed()?;
    let found = settled(ctx)?;
    ensure!(found == new, "{found} runs, not {new}");
    Ok(())
}

/// Three web servers that differ by one variable.
fn manifest(version: usize, stop_first: bool) -> Value {
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web",
        "image": "lab/busybox",
        "command": ["httpd", "-f", "-p", "8080", "-h", "/bin"],
        "env": {"VERSION": version.to_string()},
        "ports": [{"name": "http", "port": 8080}],
        "placement": {"replicas": 3},
        "rollout": {"order": if stop_first { "stop-first" } else { "start-first" }},
        "readiness": {"kind": "tcp", "port": 8080, "interval": "300ms"},
        "stop_grace_period": "1s"
    }]})
}

/// A deploy under way.
struct Deploy {
    node: Node,
    call: Background,
}

/// How one ended.
struct Answer {
    node: String,
    last: Value,
    all: String,
}

fn deploy(node: &Node, version: usize) -> Result<Answer> {
    run(node, &manifest(version, false))
}

fn run(node: &Node, manifest: &Value) -> Result<Answer> {
    let output = node.run_for(LIMIT, &call(manifest))?;
    Answer::of(node, &output)
}

impl Deploy {
    fn start(node: &Node, manifest: &Value) -> Result<Self> {
        Ok(Self { node: node.clone(), call: node.spawn(&call(manifest))? })
    }

    /// Runs `action` on the coordinator the moment it says that a phase begins.
    fn watched(node: &Node, manifest: &Value, phase: &str, action: &str) -> Result<Self> {
        node.sh("rm -f /run/phase-seen")?;
        let cmd = format!(
            "{} | while IFS= read -r line; do echo \"$line\"; case $line in *{}*) [ -e /run/phase-seen ] || {{ {action}; touch /run/phase-seen; }};; esac; done",
            call(manifest),
            quote(phase)
        );
        Ok(Self { node: node.clone(), call: node.spawn(&cmd)? })
    }

    fn answer(self, ctx: &Ctx) -> Result<Answer> {
        let output = self.call.wait(ctx.lab.lane().scale(LIMIT))?;
        Answer::of(&self.node, &output)
    }
}

impl Answer {
    fn of(node: &Node, output: &Output) -> Result<Self> {
        let all = output.stdout.clone();
        let last = all.lines().last().with_context(|| product::told(output))?;
        let last = serde_json::from_str(last).with_context(|| product::told(output))?;
        Ok(Self { node: node.name(), last, all })
    }

    fn code(&self) -> String {
        match self.last["code"].as_str() {
            Some(code) if self.last["ok"] == false => code.to_owned(),
            _ => self.last["payload"]["state"].as_str().unwrap_or_default().to_owned(),
        }
    }

    fn committed(&self) -> Result<()> {
        ensure!(self.code() == "committed", "{}: {}", self.node, self.all);
        Ok(())
    }

    fn refused(&self, codes: &[&str]) -> Result<()> {
        let code = self.code();
        ensure!(codes.contains(&code.as_str()), "{}: {code}, not {codes:?}: {}", self.node, self.all);
        Ok(())
    }
}

fn call(manifest: &Value) -> String {
    let body = quote(&json!({"command": "deploy", "manifest": manifest}).to_string());
    format!("curl -sN -m 200 --unix-socket /run/ployz/ployzd.sock http://ployz/v1/call -d {body}")
}

/// Waits until no deploy is under way and all three are ready, and returns the one version that runs everywhere.
///
/// The lock of a coordinator that died may be there still: whoever deploys next waits for that to run out.
fn settled(ctx: &Ctx) -> Result<usize> {
    let found = ctx.wait(90, "the deploy to be over and all three to be ready", || {
        let listed = product::json(ctx.node(1), "service ls --namespace shop")?;
        let row = &listed["services"][0];
        let all_asked = listed["unreachable"].as_array().is_none_or(Vec::is_empty);
        ensure!(row["phase"].is_null() && row["ready"] == 3 && all_asked, "{listed}");
        version(ctx).map(Some)
    })?;
    ctx.wait(40, "the lock to run out", || {
        let answer = deploy(ctx.node(3), found)?;
        ensure!(answer.code() != "DEPLOY_IN_PROGRESS", "{}", answer.all);
        Ok(Some(()))
    })?;
    Ok(found)
}

/// The one version of the containers of all nodes, stopped ones too.
fn version(ctx: &Ctx) -> Result<usize> {
    version_of(ctx, "shop", 3)
}

fn version_of(ctx: &Ctx, namespace: &str, instances: usize) -> Result<usize> {
    let cmd = format!(
        "for c in $(docker ps -aq --filter label=ployz.namespace={namespace}); do docker inspect -f '{{{{range .Config.Env}}}}{{{{println .}}}}{{{{end}}}}' $c; done | sed -n 's/^VERSION=//p'"
    );
    let found = ctx.lab.each(|node| node.sh(&cmd))?;
    let all: Vec<&str> = found.iter().flat_map(|text| text.lines()).collect();
    let versions: BTreeSet<&str> = all.iter().copied().collect();
    match versions.first() {
        Some(version) if versions.len() == 1 && all.len() == instances => Ok(version.parse()?),
        _ => bail!("not {instances} of one version: {found:?}"),
    }
}

const LIMIT: Duration = Duration::from_secs(220);

/// The files of the network move to a small disk, which then is full.
const FILL_OWN: &str = "set -e; d=/var/lib/ployz/networks/prod; systemctl stop ployzd
mkdir /run/own; mount -t tmpfs -o size=64m tmpfs /run/own; cp -a $d/. /run/own/; chmod --reference=$d /run/own
mount --bind /run/own $d; systemctl start ployzd
for t in $(seq 100); do ! ployzctl -q mesh ready || break; sleep 0.1; done
head -c 64M /dev/zero >$d/ballast 2>/dev/null || true; ! echo x 2>/dev/null >$d/more";
const EMPTY_OWN: &str = "cd /var/lib/ployz/networks/prod; rm -f ballast more";

/// The engine's files do.
const FILL_ENGINE: &str = "set -e; d=/var/lib/docker; systemctl stop docker.socket docker
mkdir /run/engine; mount -t tmpfs -o size=512m tmpfs /run/engine; cp -a $d/. /run/engine/
mount --bind /run/engine $d; systemctl start docker
for t in $(seq 100); do ! docker exec $(docker ps -q --filter label=ployz.namespace=shop) true || break; sleep 0.1; done
head -c 512M /dev/zero >$d/ballast 2>/dev/null || true";
const EMPTY_ENGINE: &str = "rm /var/lib/docker/ballast";
