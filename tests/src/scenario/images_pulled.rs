//! Images that come from a registry: the same one on every machine, also where there is no login and no way to the registry,
//! each reason why it cannot be had by its name, and nothing half done.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::registry::{self, HOST, PASSWORD, Registry};
use super::{Ctx, Need, Scenario, product};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "images-pulled",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 3,
    underlays: 1,
    run: pulled,
}];

fn pulled(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let mut registry = Registry::start(ctx)?;
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));
    registry::log_in(n1, PASSWORD)?;
    let (first, second) = (build(n1, "team/web:1", 8)?, build(n1, "team/web:2", 1)?);
    let arm = for_arm(n1)?;
    // Without a way there: what node 3 runs comes from node 1.
    n3.sh("ip route add blackhole 10.77.0.1/32")?;

    each_reason_has_its_name(ctx)?;
    nothing_of(ctx, "team/web")?;

    let image = format!("{HOST}/team/web:1");
    let shown = deploy(n2, "preview", &image, "missing")?;
    let pulls = json!([{"image": image, "digest": first, "on": ["n1", "n2", "n3"]}]);
    ensure!(shown["preview"]["pulls"] == pulls, "{shown}");
    nothing_of(ctx, "team/web")?;

    let report = deploy(n2, "", &image, "missing")?;
    ensure!(report["state"] == "committed" && report["preview"]["pulls"] == pulls, "{report}");
    let said = report["events"].as_array().context("events")?;
    let says =
        |words: &str| said.iter().any(|event| event["message"].as_str().is_some_and(|m| m.contains(words)));
    ensure!(says("n2 has it from n1") && says("n3 has it from n1"), "{report}");
    let before = running(ctx)?;
    everybody_has(ctx, &image)?;
    adopted(n1)?;

    let again = deploy(n3, "", &image, "missing")?;
    ensure!(again["state"] == "unchanged", "{again}");
    secrets_stay(ctx)?;

    // The tag moves on in the registry.
    registry.tag("team/web", "2", "1")?;
    let again = deploy(n3, "", &image, "missing")?;
    ensure!(again["state"] == "unchanged" && running(ctx)? == before, "{again}");
    let shown = deploy(n1, "preview", &image, "always")?;
    ensure!(shown["preview"]["pulls"][0]["digest"] == second.as_str(), "{shown}");
    registry.down()?;
    let always = command("", &image, "always");
    product::refused(n1, &always, "REGISTRY_UNREACHABLE")?;
    ensure!(running(ctx)? == before, "a deploy that was refused changed something");
    let again = deploy(n1, "", &image, "missing")?;
    ensure!(again["state"] == "unchanged", "{again}");
    registry.up()?;
    let report = deploy(n1, "", &image, "always")?;
    ensure!(report["state"] == "committed", "{report}");
    let after = running(ctx)?;
    ensure!(after.keys().all(|id| !before.contains_key(id)), "{after:?}");
    everybody_has(ctx, &image)?;
    let again = deploy(n1, "", &image, "always")?;
    ensure!(again["state"] == "unchanged" && running(ctx)? == after, "{again}");

    cut_off(ctx)?;
    pinned(ctx, &first)?;
    let wrong = command("", &format!("{HOST}/team/arm:1@{arm}"), "missing");
    product::refused(n1, &wrong, "IMAGE_PLATFORM")?;
    n3.sh("ip route del blackhole 10.77.0.1/32")?;
    Ok(())
}

/// No login, a wrong one, no such tag, another platform, a limit, no way there, and a deploy that is not to pull.
fn each_reason_has_its_name(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let refused = |image: &str, pull: &str, code: &str| -> Result<String> {
        let said = product::refused(n1, &command("", image, pull), code)?;
        ensure!(!said.contains(PASSWORD), "{said}");
        Ok(said)
    };
    let image = format!("{HOST}/team/web:1");
    registry::log_out(n1)?;
    refused(&image, "missing", "REGISTRY_LOGIN_FAILED")?;
    registry::log_in(n1, "wrong")?;
    refused(&image, "missing", "REGISTRY_LOGIN_FAILED")?;
    registry::log_in(n1, PASSWORD)?;
    refused(&format!("{HOST}/team/web:9"), "missing", "IMAGE_NOT_IN_REGISTRY")?;
    let said = refused(&format!("{HOST}/team/arm:1"), "missing", "IMAGE_PLATFORM")?;
    ensure!(said.contains("n2 is linux/amd64, the image is for linux/arm64"), "{said}");
    refused("10.77.0.1:9/team/web:1", "missing", "REGISTRY_UNREACHABLE")?;
    refused(&image, "never", "IMAGE_MISSING")?;
    for node in ctx.lab.nodes() {
        node.put(LIMIT, "/run/limit", 0o755)?;
        node.sh("systemd-run -q --unit lab-limit socat TCP-LISTEN:5001,bind=127.0.0.1,fork,reuseaddr EXEC:/run/limit")?;
    }
    ctx.wait(20, "the registry with a limit", || {
        ctx.lab.each(|node| node.sh("curl -s -m 2 http://127.0.0.1:5001/")).map(Some)
    })?;
    refused("127.0.0.1:5001/team/web:1", "missing", "REGISTRY_RATE_LIMITED")?;
    for node in ctx.lab.nodes() {
        node.sh("systemctl stop lab-limit")?;
    }
    Ok(())
}

/// A registry that has had enough; Docker speaks plain HTTP to those of its own machine.
const LIMIT: &str = r#"#!/bin/sh
b='{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}'
while IFS= read -r l && [ "$l" != "$(printf '\r')" ]; do :; done
printf 'HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %s\r\n\r\n%s' ${#b} "$b"
"#;

/// The coordinator dies while the machines pull: no name leads anywhere, and the same again works, and says how far it is.
fn cut_off(ctx: &Ctx) -> Result<()> {
    let (n1, before) = (ctx.node(1), running(ctx)?);
    // It has to take longer than a line about it.
    build(n1, "team/web:3", 64)?;
    let image = format!("{HOST}/team/web:3");
    let body = quote(&json!({"command": "deploy", "manifest": manifest(&image, "missing")}).to_string());
    let call = format!("curl -sN -m 150 --unix-socket /run/ployz/ployzd.sock http://ployz/v1/call -d {body}");
    let kill = "case $line in *'pull '*) kill -9 $(pidof ployzd);; esac";
    let output = n1.run_for(
        Duration::from_secs(60),
        &format!("{call} | while IFS= read -r line; do echo \"$line\"; {kill}; done"),
    )?;
    ensure!(output.stdout.contains("pull 10.77.0.1"), "{}", product::told(&output));
    product::started(ctx, n1)?;
    product::meets(ctx, 1, 2)?;
    for node in ctx.lab.nodes() {
        ensure!(!node.run(&format!("docker image inspect {image}"))?.ok(), "{} has the name", node.name());
    }
    ensure!(running(ctx)? == before, "what was cut off changed what runs");
    let shown = n1.sh_for(Duration::from_secs(160), &call)?;
    let tells = |line: &&str| line.contains("pulling 10.77.0.1") && line.contains(" MiB");
    ensure!(shown.lines().any(|line| tells(&line)), "nothing of how far it is: {shown}");
    let last = shown.lines().last().unwrap_or_default();
    ensure!(last.contains("\"state\":\"committed\""), "{last}");
    everybody_has(ctx, &image)
}

/// By the registry's digest, also where that cannot be asked; by its id, an image that no registry knows.
fn pinned(ctx: &Ctx, digest: &str) -> Result<()> {
    let n1 = ctx.node(1);
    let image = format!("{HOST}/team/web:1@{digest}");
    let report = deploy(n1, "", &image, "always")?;
    ensure!(report["state"] == "committed", "{report}");
    running(ctx)?;
    adopted(n1)?;
    let again = deploy(ctx.node(3), "", &image, "always")?;
    ensure!(again["state"] == "unchanged", "{again}");

    local(n1, "shop/own:1", "own")?;
    let id = n1.sh("docker image inspect -f '{{.Id}}' shop/own:1")?;
    n1.sh("ployzctl -q image push shop/own:1")?;
    let report = deploy(n1, "", &format!("shop/own:1@{id}"), "never")?;
    ensure!(report["state"] == "committed" && report["preview"]["pulls"].is_null(), "{report}");
    running(ctx)?;
    adopted(n1)
}

/// An image on node 1 of so many MiB that do not compress, kept in the registry only; returns its digest.
fn build(n1: &Node, name: &str, mib: u32) -> Result<String> {
    let full = format!("{HOST}/{name}");
    n1.sh_for(
        Duration::from_secs(100),
        &format!(
            "d=$(mktemp -d); head -c {mib}M /dev/urandom >$d/blob; \
             printf 'FROM lab/busybox\\nCOPY blob /blob\\n' >$d/Dockerfile; \
             DOCKER_BUILDKIT=0 docker build -q -t {full} $d && rm -r $d"
        ),
    )?;
    registry::keep(n1, &full)
}

/// An image of another platform, kept in the registry only. Docker 20.10 imports for its own platform, whatever is asked.
fn for_arm(n1: &Node) -> Result<String> {
    let full = format!("{HOST}/team/arm:1");
    n1.sh(&format!(
        "set -e; d=$(mktemp -d); cd $d; docker save lab/busybox | tar -x; c=$(jq -r '.[0].Config' manifest.json); \
         jq -c '.architecture = \"arm64\"' $c >arm.json; \
         jq -c '.[0].Config = \"arm.json\" | .[0].RepoTags = [\"{full}\"]' manifest.json >m; mv m manifest.json; \
         rm -f index.json oci-layout repositories; tar -c . | docker load -q; cd /; rm -r $d; \
         [ $(docker image inspect -f '{{{{.Architecture}}}}' {full}) = arm64 ]"
    ))?;
    registry::keep(n1, &full)
}

/// An image of node 1 that no other one is.
fn local(n1: &Node, name: &str, word: &str) -> Result<()> {
    let file = format!("FROM lab/busybox\\nENV WORD={word}\\n");
    n1.sh(&format!(
        "d=$(mktemp -d); printf '{file}' >$d/Dockerfile; DOCKER_BUILDKIT=0 docker build -q -t {name} $d && rm -r $d"
    ))
    .map(drop)
}

fn manifest(image: &str, pull: &str) -> Value {
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web", "image": image, "pull": pull, "command": ["sleep", "100000"],
        "placement": {"replicas": 3}, "rollout": {"parallelism": 3}, "stop_grace_period": "1s"
    }]})
}

fn command(verb: &str, image: &str, pull: &str) -> String {
    format!("echo {} | ployzctl deploy {verb} -f -", quote(&manifest(image, pull).to_string()))
}

fn deploy(node: &Node, verb: &str, image: &str, pull: &str) -> Result<Value> {
    let cmd = command(verb, image, pull).replacen("ployzctl ", "ployzctl --json ", 1);
    let output = node.run_for(Duration::from_secs(120), &cmd)?;
    let answer: Value = serde_json::from_str(&output.stdout).with_context(|| product::told(&output))?;
    ensure!(answer["ok"] == true, "{}: {cmd}: {answer}", node.name());
    Ok(answer["payload"].clone())
}

/// The containers of the namespace, one on each machine, with the image each was made from.
fn running(ctx: &Ctx) -> Result<BTreeMap<String, String>> {
    let cmd = "for c in $(docker ps -q --filter label=ployz.namespace=shop); do docker inspect -f '{{.Id}} {{.Image}}' $c; done";
    ctx.wait(30, "one container on each machine", || {
        let shown = ctx.lab.each(|node| node.sh(cmd))?;
        ensure!(shown.iter().all(|text| text.lines().count() == 1), "{shown:?}");
        let pairs: Vec<(String, String)> = shown
            .iter()
            .filter_map(|text| text.trim().split_once(' '))
            .map(|(id, image)| (id.to_owned(), image.to_owned()))
            .collect();
        let same = pairs.iter().all(|(_, image)| *image == pairs[0].1);
        ensure!(pairs.len() == 3 && same, "{pairs:?}");
        Ok(Some(pairs.into_iter().collect()))
    })
}

/// The name leads to what runs, on every machine.
fn everybody_has(ctx: &Ctx, image: &str) -> Result<()> {
    let runs = running(ctx)?;
    for node in ctx.lab.nodes() {
        let id = node.sh(&format!("docker image inspect -f '{{{{.Id}}}}' {image}"))?;
        ensure!(runs.values().all(|run| *run == id.trim()), "{}: {id}, not {runs:?}", node.name());
    }
    Ok(())
}

/// Every container is what it should be.
fn adopted(node: &Node) -> Result<()> {
    let shown = product::json(node, "service inspect shop/web")?;
    let instances = shown["instances"].as_array().context("instances")?;
    ensure!(instances.iter().all(|row| row["verdict"] == "adopt"), "{shown}");
    Ok(())
}

/// No engine has a name of this repository.
fn nothing_of(ctx: &Ctx, repository: &str) -> Result<()> {
    for node in ctx.lab.nodes() {
        let found = node.sh(&format!("docker image ls -q {HOST}/{repository}"))?;
        if !found.is_empty() {
            bail!("{} has {found}", node.name());
        }
    }
    Ok(())
}

/// Nothing that ployzd or the store wrote holds the password, plain or as Docker writes it.
fn secrets_stay(ctx: &Ctx) -> Result<()> {
    let pair = "dGVhbTpzZWNyZXQ";
    for node in ctx.lab.nodes() {
        let found = node.run(&format!(
            "{{ journalctl -o cat; find /var/lib/ployz /run/ployz /etc/ployz -type f -exec cat {{}} +; }} | grep -aF -e {} -e {pair}",
            quote(PASSWORD)
        ))?;
        ensure!(found.code == 1, "{}: {}", node.name(), found.stdout);
    }
    Ok(())
}
