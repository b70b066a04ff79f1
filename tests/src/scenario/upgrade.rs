//! An upgrade of a ployzd that made everything under an older version of fingerprints: all of it is adopted, and nobody who uses
//! it notices.
//!
//! No release made such fingerprints yet. What one would have left is made here by hand, in the way in which it is found: units
//! whose definition, sockets and processes carry the hash of version 0, and containers that were created with it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::served::{self, Clients, Load};
use super::{Ctx, Need, Scenario, product};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "upgrade-from-older-fingerprints",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 3,
    underlays: 1,
    run,
}];

fn run(ctx: &mut Ctx) -> Result<()> {
    served::begin(ctx)?;
    let n1 = ctx.node(1);
    served::deploy(n1, &served::manifest(SERVICE, 3, 0))?;
    aged(ctx)?;
    let before = ctx.lab.each(everything)?;

    let load = Load::start(ctx, SERVICE, &Clients { kinds: served::NAMED, download: 8 })?;
    let deb = ctx.deb.as_deref().context("no package was given")?;
    // Node 3 is not upgraded yet: releases meet.
    for node in ctx.lab.nodes().iter().take(2) {
        let pid = node.sh("systemctl show -P MainPID ployzd")?;
        node.put_file(deb, "/tmp/lab.deb", 0o644)?;
        node.sh_for(Duration::from_secs(120), UPGRADE)?;
        ensure!(node.sh("systemctl show -P MainPID ployzd")? != pid, "ployzd was not restarted");
        adopted(ctx, node, &product::started(ctx, node)?)?;
    }
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2))?;
    instances_are_adopted(ctx, n1)?;
    let counted = load.stop(ctx)?;
    counted.none_lost()?;
    counted.kept_open(&["http1", "http2", "websocket"])?;

    let told = product::json(n1, "deploy -f /run/manifest.json")?;
    ensure!(told["state"] == "unchanged", "{told}");
    for (node, before) in ctx.lab.nodes().iter().zip(&before) {
        let now = everything(node)?;
        ensure!(now == *before, "{}: was {before:#?}\nis {now:#?}", node.name());
    }
    Ok(())
}

/// Makes what runs as if an older release had made it, while no ployzd looks; then they look, and it is all as they want it.
fn aged(ctx: &Ctx) -> Result<()> {
    ctx.lab.each(|node| {
        node.put(AGE, "/run/age", 0o755)?;
        node.put(AGE_CONTAINERS, "/run/age-containers", 0o755)?;
        // The tunnel comes first: what it has of peers and routes is set by ployzd again.
        node.sh("systemctl stop ployzd; /run/age wireguard; systemctl start ployzd")
    })?;
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2))?;
    ctx.lab
        .each(|node| node.sh("systemctl stop ployzd; /run/age nats gateway dns && /run/age-containers"))?;
    ctx.lab.each(|node| node.sh("systemctl start ployzd"))?;
    (1..=3).try_for_each(|i| product::meets(ctx, i, 2))?;
    instances_are_adopted(ctx, ctx.node(1))
}

/// The plan of a start adopts everything and names the version of what has one.
fn adopted(ctx: &Ctx, node: &Node, plan: &[String]) -> Result<()> {
    product::all_adopt(plan)?;
    for component in ["tunnel", "nats", "gateway", "dns"] {
        if plan.iter().any(|line| line.starts_with(component)) {
            let line = product::says(plan, component, "adopt", NAMED)?;
            ctx.say(format_args!("{}: {line}", node.name()));
        }
    }
    for subject in ["gateway", "containers"] {
        let human = node.sh(&format!("ployzctl explain {subject}"))?;
        ensure!(human.contains(NAMED), "{human}");
    }
    Ok(())
}

fn instances_are_adopted(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(30, "three adopted instances", || {
        let detail = product::json(node, &format!("service inspect {SERVICE}/web"))?;
        let rows = detail["instances"].as_array().context("instances")?;
        let named = |row: &Value| row["reasons"][0].as_str().is_some_and(|text| text.contains(NAMED));
        let good = |row: &&Value| row["verdict"] == "adopt" && row["state"] == "ready" && named(row);
        ensure!(rows.len() == 3 && rows.iter().filter(good).count() == 3, "{detail}");
        Ok(Some(()))
    })
}

/// What must not change: the data plane, containers with the time of their start, and the hashes themselves.
fn everything(node: &Node) -> Result<BTreeMap<String, String>> {
    let mut found = product::identity(node)?;
    let containers = node.sh(
        "docker inspect -f '{{.Id}} {{.State.StartedAt}} {{.State.Pid}} {{index .Config.Labels \"ployz.config-hash\"}}' $(docker ps -aq)",
    )?;
    ensure!(containers.contains(" v0:") && !containers.contains(" v1:"), "{containers}");
    found.insert("containers".into(), containers);
    let hashes = node.sh(
        "(systemctl show -P Environment 'ployz-*'; cat /var/lib/ployz/networks/*/*/settings.env) | grep -o 'PLOYZ_CONFIG_HASH=.*' | sort",
    )?;
    ensure!(!hashes.contains("v1:") && hashes.lines().count() >= 7, "{hashes}");
    found.insert("hashes".into(), hashes);
    Ok(found)
}

const SERVICE: &str = "shop";
const NAMED: &str = "fingerprint is of version v0";

/// age UNIT...: definitions in which systemd keeps a transient unit and its sockets, settings beside them, and the processes made
/// from both.
const AGE: &str = r#"#!/bin/bash
set -e
for unit; do
  for file in /run/systemd/transient/ployz-$unit* /var/lib/ployz/networks/*/$unit/settings.env; do
    [ ! -f "$file" ] || sed -i 's/\(PLOYZ_CONFIG_HASH="\?\)v1:/\1v0:/' "$file"
  done
  [ ! -e "/run/systemd/transient/ployz-$unit.service" ] || units+=(ployz-$unit)
done
[ ${#units[@]} -gt 0 ] || exit 0
systemctl daemon-reload
systemctl restart "${units[@]}"
for unit in "${units[@]}"; do
  grep -qz '^PLOYZ_CONFIG_HASH=v0:' "/proc/$(systemctl show -P MainPID "$unit")/environ"
done
"#;

/// Containers as they are, but for the label.
const AGE_CONTAINERS: &str = r#"#!/bin/bash
set -e
for id in $(docker ps -q --filter label=ployz.config-hash); do
  name=$(docker inspect -f '{{.Name}}' "$id"); name=${name#/}
  docker inspect "$id" | jq '.[0] | .Config + {HostConfig, NetworkingConfig: {EndpointsConfig: {ployz0:
    {IPAMConfig: .NetworkSettings.Networks.ployz0.IPAMConfig}}}} | .Labels["ployz.config-hash"] |= sub("^v1:"; "v0:")' >/run/older.json
  docker rm -f "$id" >/dev/null
  curl -sSf --unix-socket /run/docker.sock -H 'Content-Type: application/json' -d @/run/older.json "http://docker/containers/create?name=$name" >/dev/null
  docker start "$name" >/dev/null
done
"#;

/// The same package with a higher version.
const UPGRADE: &str = "set -e; cd /tmp; dpkg-deb -R lab.deb newer; sed -i 's/^Version: .*/Version: 99.0/' newer/DEBIAN/control
dpkg-deb -Znone -b newer newer.deb >/dev/null; DEBIAN_FRONTEND=noninteractive dpkg -i newer.deb; rm -r newer newer.deb lab.deb
dpkg-query -W -f '${Version}' ployz | grep -q '^99.0$'";
