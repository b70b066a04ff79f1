//! Gateway and DNS as units of their own: there after `mesh init`, adopted by every daemon, and replaced without a
//! connection refused.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::killed::{DROP_IN, FAST};
use super::product::{self, is_step};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "sidecars-serve-and-are-adopted",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: serve,
    },
    Scenario {
        name: "sidecars-replaced-without-refusal",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: replaced,
    },
];

fn serve(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    for node in ctx.lab.nodes() {
        let inside = node.sh("stat -Lc %i /run/netns/ployz")?;
        for unit in ["ployz-gateway", "ployz-dns"] {
            let shown = node.sh(&format!(
                "systemctl show -P Slice -P User {unit}; stat -Lc %i /proc/$(systemctl show -P MainPID {unit})/ns/net"
            ))?;
            ensure!(shown == format!("ployz.slice\n{unit}\n{inside}"), "{}: {unit}: {shown}", node.name());
        }
    }
    for i in [1, 2] {
        answers(ctx, i)?;
    }
    let n1 = ctx.node(1);
    let before = product::identity(n1)?;
    let units = pids(n1)?;
    for _ in 0..3 {
        n1.sh("systemctl kill -s KILL ployzd")?;
        ctx.wait(20, "ployzd to be back", || n1.sh("ployzctl status").map(|_| Some(())))?;
        product::all_adopt(&product::started(ctx, n1)?)?;
    }
    ensure!(pids(n1)? == units, "was {units}, is {}", pids(n1)?);
    product::unchanged(n1, &before)?;

    // The namespace is made anew, and all that lives in it.
    let since = product::cursor(n1)?;
    n1.sh("ip netns del ployz")?;
    for component in ["gateway", "dns"] {
        ctx.say(product::logs(ctx, n1, &since, component, "recreate")?);
    }
    for i in [1, 2] {
        product::meets(ctx, i, 1)?;
        answers(ctx, i)?;
    }
    n1.sh("ployzctl mesh destroy prod --local").map(drop)?;
    product::gone(ctx, n1)
}

fn replaced(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    answers(ctx, 1)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    n1.sh("cp -p /etc/ployz/config.toml /run/config")?;
    let sockets = n1.sh(INVOCATIONS)?;
    let load = n2.spawn(LOAD)?;
    for threads in [1, 3, 4, 1, 3] {
        let before = n1.sh("systemctl show -P MainPID ployz-gateway")?;
        n1.sh(&format!("cp /run/config /etc/ployz/config.toml; echo 'gateway_threads = {threads}' >>/etc/ployz/config.toml"))?;
        let plan = product::restart(ctx, n1)?;
        let line = product::says(&plan, "gateway", "recreate", &format!("-> {threads}"))?;
        ctx.say(line);
        let others: Vec<_> = plan.iter().filter(|line| !is_step(line, "gateway", "recreate")).collect();
        ensure!(others.iter().all(|line| line.split_whitespace().nth(1) == Some("adopt")), "{plan:#?}");
        ensure!(n1.sh("systemctl show -P MainPID ployz-gateway")? != before, "the same process");
    }
    // By hand, as after an upgrade; and the front alone is killed, which its program outlives to drain.
    n1.sh("systemctl restart ployz-gateway && systemctl restart ployz-dns && systemctl kill --kill-whom=main -s KILL ployz-gateway")?;
    answers(ctx, 1)?;
    ipv6_comes_beside_ipv4(ctx, n1, n2)?;
    restarted_while_looked_at(ctx, n1)?;
    ensure!(n1.sh(INVOCATIONS)? == sockets, "sockets were made anew");
    n2.sh("touch /run/stop-load")?;
    let told = ctx.wait(10, "the load to end", || {
        let text = load.stdout();
        ensure!(text.contains("total"), "{text}");
        Ok(Some(text))
    })?;
    ctx.say(told.trim());
    let failed = told.split_whitespace().nth(1).context("counts")?.to_owned();
    ensure!(failed == "0", "refused, reset or late: {told}");

    // A socket that moves takes its service with it.
    n1.sh("cp /run/config /etc/ployz/config.toml; printf 'gateway_listen_addr = \"0.0.0.0:8080\"\\ngateway_metrics_listen_addr = \"127.0.0.1:9101\"\\ndns_metrics_listen_addr = \"127.0.0.1:9102\"\\n' >>/etc/ployz/config.toml")?;
    let plan = product::restart(ctx, n1)?;
    ctx.say(product::says(&plan, "gateway", "recreate", "0.0.0.0:80 -> stream:0.0.0.0:8080")?);
    ctx.say(product::says(&plan, "dns", "recreate", "ployz-dns-metrics.socket: missing")?);
    ctx.wait(10, "the gateway at its new address", || {
        code(n2, "http://10.77.0.11:8080/")?;
        n1.sh("curl -sf http://127.0.0.1:9101/metrics | grep -q ^ployz_ && curl -sf http://127.0.0.1:9102/metrics | grep -q ^ployz_")?;
        Ok(Some(()))
    })?;
    product::all_adopt(&product::restart(ctx, n1)?)?;
    stopped_by_hand(ctx, n1, n2)
}

/// As a ployzd that knew IPv4 alone left it: the next one opens IPv6's socket beside the one that stays.
fn ipv6_comes_beside_ipv4(ctx: &Ctx, node: &Node, client: &Node) -> Result<()> {
    let url = format!("http://[{}]/", node.ip6());
    node.sh(
        "systemctl stop ployzd; systemctl stop ployz-gateway-http6.socket; systemctl restart ployz-gateway",
    )?;
    ensure!(!client.run(&format!("curl -gs -m 5 -o /dev/null {url}"))?.ok(), "IPv6 is served still");
    node.sh("systemctl start ployzd")?;
    let plan = product::started(ctx, node)?;
    ctx.say(product::says(&plan, "gateway", "converge", "ployz-gateway-http6.socket: missing")?);
    ctx.wait(10, "the gateway to answer over IPv6", || {
        let code = client.sh(&format!("curl -gs -m 5 -o /dev/null -w '%{{http_code}}' {url}"))?;
        Ok((code == "404").then_some(()))
    })?;
    product::all_adopt(&product::restart(ctx, node)?)
}

/// A gateway that was stopped by hand is not said to follow its routes; whoever asks it next starts it.
fn stopped_by_hand(ctx: &Ctx, node: &Node, client: &Node) -> Result<()> {
    let says = || -> Result<Value> {
        let told = product::json(node, "status")?;
        let rows = told["control_plane"].as_array().context("control_plane")?;
        let row = rows.iter().find(|row| row["component"] == "gateway routes").context("gateway routes")?;
        Ok(row.clone())
    };
    node.sh("systemctl stop ployz-gateway 2>&1")?;
    let row = says()?;
    ensure!(row["healthy"] == false && row["error"].to_string().contains("does not run"), "{row}");
    code(client, "http://10.77.0.11:8080/")?;
    ctx.wait(10, "the gateway to follow its routes again", || Ok((says()?["healthy"] == true).then_some(())))
}

/// Both are restarted by hand, again and again, while ployzd starts again and again and looks at them: it never takes the
/// moment between stop and start, or a process that has hardly begun, for one that is gone or wrong.
fn restarted_while_looked_at(ctx: &Ctx, node: &Node) -> Result<()> {
    node.put(FAST, DROP_IN, 0o644)?;
    node.sh("systemctl daemon-reload")?;
    let since = product::cursor(node)?;
    let starting =
        node.spawn("until [ -e /run/enough ]; do systemctl restart ployzd; sleep 0.1; done; rm /run/enough")?;
    let restarts =
        "for i in $(seq 30); do systemctl restart ployz-dns && systemctl restart ployz-gateway || exit; done";
    let restarted = node.sh_for(ctx.lab.secs(60), restarts);
    node.sh(&format!("touch /run/enough; rm {DROP_IN}; systemctl daemon-reload"))?;
    ensure!(starting.wait(ctx.lab.secs(20))?.ok(), "ployzd was not restarted");
    restarted?;
    let logged = product::logged(node, &since)?;
    let made: Vec<_> =
        logged.iter().filter(|line| line.split_whitespace().nth(1) == Some("recreate")).collect();
    ensure!(made.is_empty(), "{made:#?}");
    ctx.wait(20, "ployzd to adopt all", || product::all_adopt(&product::restart(ctx, node)?).map(Some))
}

/// The gateway of node `i` answers from outside, and its DNS server knows both machines.
fn answers(ctx: &Ctx, i: usize) -> Result<()> {
    let (node, other) = (ctx.node(i), ctx.node(3 - i));
    let [overlay, service] = product::addresses(node)?;
    ctx.wait(20, &format!("gateway and DNS of {} to answer", node.name()), || {
        let code = code(other, &format!("http://10.77.0.1{i}/"))?;
        ensure!(code == "404" || code == "503", "port 80 answers {code}");
        for (j, server) in [(1, &overlay), (2, &service), (2, &overlay), (1, &service)] {
            let [wanted, wanted4] = product::addresses(ctx.node(j))?;
            for (kind, wanted) in [("AAAA", wanted), ("A", wanted4)] {
                for tcp in ["", "+tcp"] {
                    let cmd = format!(
                        "dig +short +time=2 +tries=1 {tcp} @{server} n{j}.machine.ployz.internal {kind}"
                    );
                    let got = node.sh(&cmd)?;
                    ensure!(got == wanted, "{cmd}: {got}, not {wanted}");
                }
            }
        }
        Ok(Some(()))
    })
}

fn code(node: &Node, url: &str) -> Result<String> {
    node.sh(&format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' {url}"))
}

fn pids(node: &Node) -> Result<String> {
    node.sh("systemctl show -P MainPID ployz-gateway ployz-dns ployz-nats | tr -s '\\n' ' '; pgrep -x 'ployz-gateway|ployz-dns' | tr '\\n' ' '")
}

const INVOCATIONS: &str = "systemctl show -P InvocationID ployz-gateway.socket ployz-dns.socket";

/// New connections without a pause; counts what failed of how many.
const LOAD: &str = "failed=0; n=0; rm -f /run/stop-load
while [ ! -e /run/stop-load ]; do curl -s -m 5 -o /dev/null http://10.77.0.11/ || { failed=$((failed+1)); codes=$codes,$?; }; n=$((n+1)); done
echo \"failed $failed total $n curl${codes:-: 0}\"";
