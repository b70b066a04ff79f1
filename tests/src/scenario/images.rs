//! An image that one machine's engine built gets to the others over the overlay: whole or not at all, to members only.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::{Lane, Node, Output, quote};

pub(super) const SCENARIOS: [Scenario; 2] =
    [scenario("images-pushed", pushed), scenario("images-push-interrupted", interrupted)];

const fn scenario(name: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    let needs = &[Need::Systemd, Need::Docker, Need::Package];
    Scenario { name, needs, nodes: 3, underlays: 1, run }
}

fn pushed(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let id = build(ctx, "shop/web:1", large(ctx))?;
    let seen = product::json(n1, "image push shop/web:1 -n")?;
    ensure!(states(&seen) == [("n2", "missing"), ("n3", "missing")], "{seen}");
    ensure!(has(n2, "shop/web:1")?.is_none(), "a preview sent something");
    a_deploy_says_what_to_do(ctx)?;

    let report = product::json(n1, "image push shop/web:1")?;
    ensure!(states(&report) == [("n2", "sent"), ("n3", "sent")], "{report}");
    speed(ctx, &report)?;
    everybody_has(ctx, "shop/web:1", &id)?;
    let again = product::json(n1, "image push shop/web:1")?;
    ensure!(states(&again) == [("n2", "present"), ("n3", "present")], "{again}");
    deploy(ctx)?;

    n2.sh("docker tag shop/web:1 shop/other:1 && docker rmi shop/web:1")?;
    let named = product::json(n1, "image push shop/web:1 --to n2")?;
    ensure!(states(&named) == [("n2", "named")], "{named}");
    everybody_has(ctx, "shop/web:1", &id)?;

    // The name moves on, and what runs is not touched.
    let newer = build(ctx, "shop/web:1", 1)?;
    let seen = product::json(n1, "image push shop/web:1 -n --to n3")?;
    ensure!(states(&seen) == [("n3", "differs")], "{seen}");
    product::json(n1, "image push shop/web:1")?;
    everybody_has(ctx, "shop/web:1", &newer)?;
    ensure!(running(ctx)? == 3, "a push stopped a container");

    product::refused(n1, "ployzctl image push shop/nothing", "IMAGE_NOT_FOUND")?;
    product::refused(n1, "ployzctl image push shop/web:1 --to n9", "MACHINE_NOT_FOUND")?;
    one_machine_is_away(ctx)?;
    only_with_a_ticket(ctx)
}

fn interrupted(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 3)?;
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));
    let id = build(ctx, "shop/web:2", large(ctx))?;

    // The source dies: nobody has half of it.
    let push = n1.spawn("ployzctl image push shop/web:2")?;
    under_way(ctx, n1)?;
    n1.sh("systemctl kill -s KILL ployzd")?;
    let ended = push.wait(Duration::from_secs(20))?;
    ensure!(ended.code == 1, "{}", product::told(&ended));
    product::started(ctx, n1)?;
    product::ready(ctx, 1)?;
    for node in [n2, n3] {
        nothing_of(ctx, node, "shop/web:2")?;
    }

    // One that is to get it dies: the other gets it.
    let push = n1.spawn("ployzctl image push shop/web:2")?;
    under_way(ctx, n2)?;
    n2.sh("systemctl kill -s KILL ployzd")?;
    named(&push.wait(Duration::from_secs(120))?, "TRANSFER_INTERRUPTED", "n2")?;
    ensure!(has(n3, "shop/web:2")? == Some(id.clone()), "n3 got nothing");
    product::started(ctx, n2)?;
    product::ready(ctx, 2)?;
    nothing_of(ctx, n2, "shop/web:2")?;

    // The way there is cut: both ends notice.
    n3.sh("docker rmi shop/web:2")?;
    let push = n1.spawn("ployzctl image push shop/web:2")?;
    under_way(ctx, n3)?;
    n3.cut_link(1)?;
    named(&push.wait(Duration::from_secs(120))?, "TRANSFER_INTERRUPTED", "n3")?;
    ensure!(has(n2, "shop/web:2")? == Some(id.clone()), "n2 got nothing");
    nothing_of(ctx, n3, "shop/web:2")?;
    n3.heal_link(1)?;
    product::meets(ctx, 3, 2)?;

    let retry = product::json(n1, "image push shop/web:2")?;
    ensure!(states(&retry) == [("n2", "present"), ("n3", "sent")], "{retry}");
    everybody_has(ctx, "shop/web:2", &id)
}

/// MiB of an image whose transfer can be interrupted.
fn large(ctx: &Ctx) -> u32 {
    if ctx.lane() == Lane::Ns { 200 } else { 30 }
}

/// Builds an image on node 1, of about so many MiB that do not compress; returns its id.
fn build(ctx: &Ctx, name: &str, mib: u32) -> Result<String> {
    let n1 = ctx.node(1);
    n1.docker_busybox()?;
    let cmd = format!(
        "d=$(mktemp -d); head -c {mib}M /dev/urandom >$d/blob; echo hello >$d/greeting; \
         printf 'FROM lab/busybox\\nCOPY blob /blob\\nCOPY greeting /greeting\\nENV A=b\\n' >$d/Dockerfile; \
         DOCKER_BUILDKIT=0 docker build -q -t {name} $d && rm -r $d"
    );
    n1.sh_for(ctx.lab.secs(100), &cmd)?;
    has(n1, name)?.context("it was built")
}

/// The id behind a name.
fn has(node: &Node, name: &str) -> Result<Option<String>> {
    let found = node.run(&format!("docker image inspect -f '{{{{.Id}}}}' {name}"))?;
    Ok(found.ok().then(|| found.stdout.trim().to_owned()))
}

fn everybody_has(ctx: &Ctx, name: &str, id: &str) -> Result<()> {
    for i in 1..=3 {
        let found = has(ctx.node(i), name)?;
        ensure!(found.as_deref() == Some(id), "n{i}: {name} is {found:?}, not {id}");
    }
    Ok(())
}

/// The image is not there, not even without a name, and the engine has given back the room it took.
fn nothing_of(ctx: &Ctx, node: &Node, name: &str) -> Result<()> {
    ensure!(has(node, name)?.is_none(), "{}: {name} is there", node.name());
    ctx.wait(40, "the engine to drop what it had", || {
        let left =
            node.sh("docker image ls -aq -f dangling=true; du -sm /var/lib/docker/tmp | awk '$1 > 5'")?;
        ensure!(left.is_empty(), "{}: {left}", node.name());
        Ok(Some(()))
    })
}

fn states(report: &Value) -> Vec<(&str, &str)> {
    let rows = report["machines"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| (word(row, "machine"), word(row, "state"))).collect()
}

fn word<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// For whoever watches; never asserted.
fn speed(ctx: &Ctx, report: &Value) -> Result<()> {
    for row in report["machines"].as_array().context("machines")? {
        let (bytes, ms) = (row["bytes"].as_f64().context("bytes")?, row["took_ms"].as_f64().context("took")?);
        ctx.say(format!("{}: {:.0} MB in {:.1} s", row["machine"], bytes / 1e6, ms / 1e3));
    }
    Ok(())
}

/// Waits until this node has a transfer connection over which something went.
fn under_way(ctx: &Ctx, node: &Node) -> Result<()> {
    ctx.wait(60, "a transfer to be under way", || {
        let cmd = "ip netns exec ployz ss -Htni state established '( sport = :4319 or dport = :4319 )'";
        let said = node.sh(cmd)?;
        let moved = |key: &str| {
            let all = said.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
            all.max().unwrap_or(0)
        };
        let most = moved("bytes_acked:").max(moved("bytes_received:"));
        ensure!(most > 1 << 20, "{most} bytes so far");
        Ok(Some(()))
    })
}

/// Exit code 1, this error code, and this machine alone is named.
fn named(output: &Output, code: &str, machine: &str) -> Result<()> {
    let text = &output.stderr;
    let first = text.lines().find(|line| line.starts_with("error [")).unwrap_or_default();
    let told =
        first.starts_with(&format!("error [{code}]")) && first.ends_with(&format!(" is not on {machine}"));
    ensure!(output.code == 1 && told, "{}", product::told(output));
    Ok(())
}

fn manifest() -> Value {
    json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web", "image": "shop/web:1", "command": ["sleep", "100000"],
        "placement": {"replicas": 3}, "stop_grace_period": "1s"
    }]})
}

fn deploy_cmd() -> String {
    format!("echo {} | ployzctl deploy -f -", quote(&manifest().to_string()))
}

fn a_deploy_says_what_to_do(ctx: &Ctx) -> Result<()> {
    for i in 1..=3 {
        let node = ctx.node(i);
        product::docker_network(ctx, node)?;
    }
    let said = product::refused(ctx.node(1), &deploy_cmd(), "IMAGE_MISSING")?;
    ensure!(said.contains("ployzctl image push"), "{said}");
    Ok(())
}

fn deploy(ctx: &Ctx) -> Result<()> {
    ctx.node(2).sh(&deploy_cmd())?;
    ctx.wait(30, "three replicas", || if running(ctx)? == 3 { Ok(Some(())) } else { bail!("not yet") })
}

/// Nodes that run one container of the namespace.
fn running(ctx: &Ctx) -> Result<usize> {
    let mut found = 0;
    for i in 1..=3 {
        let ids = ctx.node(i).sh("docker ps -q --filter label=ployz.namespace=shop")?;
        ensure!(ids.lines().count() <= 1, "n{i}: {ids}");
        found += ids.lines().count();
    }
    Ok(found)
}

fn one_machine_is_away(ctx: &Ctx) -> Result<()> {
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));
    let id = build(ctx, "shop/web:3", 1)?;
    n3.sh("systemctl stop ployzd")?;
    let output = n1.run("ployzctl image push shop/web:3")?;
    named(&output, "MACHINE_UNREACHABLE", "n3")?;
    ensure!(has(n2, "shop/web:3")? == Some(id.clone()), "n2 got nothing");
    n3.sh("systemctl start ployzd")?;
    product::started(ctx, n3)?;
    product::meets(ctx, 3, 2)?;
    n1.sh("ployzctl image push shop/web:3")?;
    everybody_has(ctx, "shop/web:3", &id)
}

/// A guess, silence and noise get nothing, and are counted.
fn only_with_a_ticket(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh("echo 'daemon_metrics_listen_addr = \"127.0.0.1:9100\"' >>/etc/ployz/config.toml; systemctl restart ployzd")?;
    product::started(ctx, n1)?;
    product::ready(ctx, 1)?;
    let status = product::json(n1, &format!("mesh status {NETWORK}"))?;
    let overlay = status["overlay_ip"].as_str().context("overlay_ip")?;
    let guess =
        format!("printf '\\003\\000\\000\\000\\131{{\"version\":1,\"ticket\":\"{}\"}}'", "0".repeat(64));
    for (what, cmd) in
        [("a guess", guess.as_str()), ("silence", "sleep 8"), ("noise", "echo GET / HTTP/1.0; sleep 1")]
    {
        let got = ctx.wait(20, what, || {
            let talk = format!(
                "{{ {cmd}; }} | timeout 15 socat - TCP6:[{overlay}]:4319,connect-timeout=3 2>&1; true"
            );
            let said = n2.sh(&talk)?;
            ensure!(!said.contains("refused"), "{said}");
            Ok(Some(said))
        })?;
        ensure!(got.is_empty() || got.contains("reset") || got.contains("Broken pipe"), "{what} got {got}");
    }
    ctx.wait(10, "three refusals to be counted", || {
        let text = n1.sh("curl -fsS -m 2 http://127.0.0.1:9100/metrics")?;
        let line = text.lines().find(|line| line.starts_with("ployz_transfer_connections_refused_total"));
        ensure!(line == Some("ployz_transfer_connections_refused_total 3"), "{line:?}");
        Ok(Some(()))
    })?;
    // From the underlay there is nobody to ask.
    let outside = n2.run(&format!("socat - TCP:{}:4319,connect-timeout=2 </dev/null", n1.ip(1)))?;
    ensure!(outside.code != 0, "the transfer port answers on the underlay");
    Ok(())
}
