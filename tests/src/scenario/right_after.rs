//! Commands right after a disturbance that passes by itself: they wait for what was there a moment ago instead of failing
//! for want of it, and what has been away for long is refused at once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::deploy::{deploy, done, refused, running};
use super::served::times;
use super::{Ctx, Need, Scenario, product};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 2] = [
    scenario("right-after-a-prune", after_a_prune),
    scenario("right-after-the-stores-return", after_the_store),
];

const fn scenario(name: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, needs: &[Need::Systemd, Need::Docker, Need::Package], nodes: 3, underlays: 1, run }
}

/// Whatever takes the Docker network away while nothing is attached to it, a deploy at once has it.
fn after_a_prune(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let n1 = ctx.node(1);
    let mut version = 0;
    for _ in 0..times(10, 1) {
        for prune in PRUNES {
            ctx.lab.each(|node| node.sh(prune))?;
            version += 1;
            let report = deploy(n1, &manifest(version)).with_context(|| prune)?;
            ensure!(report["state"] == "committed", "after `{prune}`: {report}");
            done(n1, &removal())?;
        }
    }
    made_again_at_once(ctx)?;
    docker_has_just_started(ctx)?;
    during_a_deploy(ctx)
}

/// By Docker's event, without anyone who asks for it; by itself ployzd looks every 30 s.
fn made_again_at_once(ctx: &Ctx) -> Result<()> {
    let n2 = ctx.node(2);
    let before = n2.sh("docker network inspect -f '{{.Id}}' ployz0")?;
    n2.sh("docker network rm ployz0")?;
    ctx.wait(5, "ployzd to make the network again", || {
        let now = n2.sh("docker network inspect -f '{{.Id}}' ployz0")?;
        ensure!(now != before, "{now}");
        Ok(Some(()))
    })
}

/// Docker comes up without the network, and a deploy comes before ployzd has seen that.
fn docker_has_just_started(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let stop = "systemctl stop ployzd; docker network rm ployz0; systemctl stop docker.socket docker; systemctl start ployzd";
    n2.sh_for(ctx.lab.secs(120), stop)?;
    product::ready(ctx, 2)?;
    n2.sh_for(ctx.lab.secs(120), "systemctl start docker.socket docker")?;
    let report = deploy(n1, &manifest(1000))?;
    ensure!(report["state"] == "committed", "right after Docker's start: {report}");
    done(n1, &removal()).map(drop)
}

/// One prune after another while containers are made and started.
fn during_a_deploy(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let prunes = n2.spawn(
        "while [ ! -e /run/stop-prunes ]; do docker system prune -f; sleep 0.1; done >/dev/null 2>&1",
    )?;
    for round in 0..times(10, 2) {
        deploy(n1, &manifest(2000 + round))?;
        ensure!(running(ctx)?.len() == 3, "{:?}", running(ctx)?);
        done(n1, &removal())?;
    }
    n2.sh("touch /run/stop-prunes")?;
    prunes.wait(ctx.lab.secs(20)).map(drop)
}

/// After each restart of a NATS server every command that needs the store or other machines is carried out.
fn after_the_store(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=a.example.org \
        -addext subjectAltName=DNS:a.example.org -keyout /root/a.key -out /root/a.crt 2>/dev/null";
    ctx.lab.each(|node| node.sh(make))?;
    let mut version = 0;
    let pairs = [(1, n1), (3, n2), (1, n2), (3, n1)];
    for _ in 0..times(5, 1) {
        for (restarted, from) in &pairs[..times(4, 2)] {
            version += 1;
            restart(ctx.node(*restarted))?;
            let report = deploy(from, &manifest(version)).with_context(|| format!("NATS of n{restarted}"))?;
            ensure!(report["state"] == "committed", "{report}");
            restart(ctx.node(*restarted))?;
            done(from, &removal()).with_context(|| format!("NATS of n{restarted}"))?;
            for command in COMMANDS {
                restart(ctx.node(*restarted))?;
                from.sh(command).with_context(|| format!("NATS of n{restarted}, from {}", from.name()))?;
            }
        }
    }
    long_away(ctx)?;
    restart(n1)?;
    n1.sh(&format!("ployzctl mesh destroy {}", product::NETWORK)).map(drop)
}

/// A machine that has been away for longer than a moment is not waited for.
fn long_away(ctx: &Ctx) -> Result<()> {
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    n3.sh("systemctl stop ployzd")?;
    thread::sleep(Duration::from_secs(11)); // the time that it is away is what is tested
    let began = Instant::now();
    let mut wanted = manifest(0);
    wanted["services"][0]["placement"] = json!({"machines": ["n3"]});
    refused(n1, &json!({"command": "deploy", "manifest": wanted}), "NO_ELIGIBLE_MACHINE")?;
    let took = began.elapsed();
    ensure!(took < ctx.lab.secs(4), "refused after {took:?}");
    n3.sh("systemctl start ployzd")?;
    product::ready(ctx, 3)
}

fn restart(node: &Node) -> Result<()> {
    node.sh("systemctl restart ployz-nats").map(drop)
}

/// Three containers without ports, so that nothing waits for connections to end.
fn manifest(version: usize) -> Value {
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web",
        "image": "lab/busybox",
        "command": ["sleep", "100000"],
        "env": {"VERSION": version.to_string()},
        "placement": {"replicas": 3},
        "readiness": {"kind": "exec", "command": ["true"], "interval": "300ms", "threshold": 1},
        "stop_grace_period": "1s"
    }]})
}

fn removal() -> Value {
    json!({"command": "service-remove", "namespace": "shop", "service": "web"})
}

const PRUNES: [&str; 3] = ["docker network prune -f", "docker system prune -f", "docker network rm ployz0"];

const COMMANDS: [&str; 4] = [
    "ployzctl image push lab/busybox",
    "ployzctl cert import --cert /root/a.crt --key /root/a.key",
    "ployzctl machine invite create --plain",
    "ployzctl --json service ls | tee /dev/stderr | jq -e '.payload.unreachable == null'",
];
