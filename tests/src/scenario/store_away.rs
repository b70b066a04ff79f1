//! The store is away for a while, and gateways and DNS servers are started meanwhile: they answer what they knew last and say
//! so, and one that never knew anything says that; then they follow again, by themselves.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::served::{self, Clients, DNS_METRICS, GATEWAY_METRICS, Load};
use super::{Ctx, Need, Scenario, product};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "store-away",
    needs: &[Need::Systemd, Need::Docker, Need::Package, Need::Native],
    nodes: 3,
    underlays: 1,
    run: store_away,
}];

fn store_away(ctx: &mut Ctx) -> Result<()> {
    served::begin(ctx)?;
    served::deploy(ctx.node(1), &served::manifest("shop", 3, 0))?;
    all(ctx, Freshness::Live)?;
    let clients = Clients { kinds: "http1,connect,http2,dns-udp,dns-tcp", download: 1 };
    let load = Load::start(ctx, "shop", &clients)?;
    let since = ctx.lab.each(product::cursor)?;

    // A running ployzd would start it again.
    let (n1, n2, n3) = (ctx.node(1), ctx.node(2), ctx.node(3));
    n1.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    all(ctx, Freshness::LastGood)?;
    told(ctx, n2, &since[1])?;
    restarts(n2)?;
    product::all_adopt(&product::restart(ctx, n2)?)?;
    all(ctx, Freshness::LastGood)?;

    n2.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    n3.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    restarts(n1)?;
    restarts(n2)?;
    all(ctx, Freshness::LastGood)?;
    thread::sleep(Duration::from_secs(served::times(60, 5) as u64)); // the time that it is away is what is tested
    let before = ages(ctx)?;
    ensure!(before.iter().all(|age| *age > 3.0), "seconds since the store was heard of: {before:?}");
    load.stop(ctx)?.none_lost()?;

    never_filled(ctx, n3)?;
    let processes = ctx.lab.each(|node| node.sh(PROCESSES))?;
    ctx.lab.each(|node| node.sh("systemctl start ployzd"))?;
    (1..=3).try_for_each(|i| product::ready(ctx, i))?;
    all(ctx, Freshness::Live)?;
    ctx.wait(30, "what never knew anything to serve", || {
        ensure!(code(n2, 3)? == "200" && rcode(n3)? == "NOERROR", "{} {}", code(n2, 3)?, rcode(n3)?);
        Ok(Some(()))
    })?;
    let now = ctx.lab.each(|node| node.sh(PROCESSES))?;
    ensure!(now == processes, "were {processes:?}, are {now:?}");
    // What is deployed from now on is followed.
    served::deploy(n2, &served::manifest("late", 1, 0))?;
    ctx.wait(20, "every gateway to serve what came later", || {
        for i in 1..=3 {
            let cmd = format!(
                "curl -s -m 5 -o /dev/null -w '%{{http_code}}' -H 'Host: {}' http://10.77.0.1{i}/echo/a",
                served::host("late")
            );
            let code = n1.sh(&cmd)?;
            ensure!(code == "200", "n{i}: {code}");
        }
        Ok(Some(()))
    })
}

/// The store is away for this machine too, as status and journal tell.
fn told(ctx: &Ctx, node: &Node, since: &str) -> Result<()> {
    ctx.wait(30, "status and journal to say so", || {
        let status = product::json(node, "status")?;
        let store = &status["control_plane"][0];
        let since_when = store["stale_since_unix_secs"].as_u64();
        ensure!(store["healthy"] == false && since_when.is_some(), "{status}");
        for (unit, words) in [
            ("ployz-gateway", "routes are served as last known"),
            ("ployz-dns", "serving the last known state"),
        ] {
            let said = node.sh(&format!("journalctl -u {unit} -o cat --after-cursor='{since}'"))?;
            ensure!(said.contains(words), "{unit}: {said}");
        }
        Ok(Some(()))
    })
}

fn restarts(node: &Node) -> Result<()> {
    node.sh("systemctl restart ployz-gateway && systemctl restart ployz-dns").map(drop)
}

/// Gateway and DNS server of `node` lose what is on their disk: they cannot know anything, and say so to whoever asks.
fn never_filled(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh(concat!(
        "systemctl stop ployz-gateway ployz-dns; ",
        "cd /var/lib/ployz/networks/prod; ls gateway/data/* dns/data/*; rm -r gateway/data/* dns/data/*; ",
        "systemctl start ployz-gateway.socket ployz-dns.socket; systemctl start ployz-gateway ployz-dns"
    ))?;
    ctx.wait(20, "a gateway and a DNS server that know nothing to say so", || {
        let (code, rcode) = (code(ctx.node(2), node.index())?, rcode(node)?);
        ensure!(code == "503" && rcode == "SERVFAIL", "{code} {rcode}");
        is(node, Freshness::Empty)?;
        Ok(Some(()))
    })
}

/// How the gateway of node `i` answers for the service, asked from `from`.
fn code(from: &Node, i: usize) -> Result<String> {
    let host = served::host("shop");
    from.sh(&format!(
        "curl -s -m 5 -o /dev/null -w '%{{http_code}}' -H 'Host: {host}' http://10.77.0.1{i}/echo/a"
    ))
}

/// The response code of the node's own DNS server for the service.
fn rcode(node: &Node) -> Result<String> {
    let text =
        node.sh("dig +time=2 +tries=1 @$(ip -n ployz -4 -o addr show dev svc0 | grep -o '10[.]101[.][0-9]*[.]2' | head -n1) web.shop.ployz.internal A | sed -n 's/.*status: \\([A-Z]*\\),.*/\\1/p'")?;
    Ok(text)
}

#[derive(Clone, Copy, Debug)]
enum Freshness {
    Empty,
    LastGood,
    Live,
}

fn all(ctx: &Ctx, wanted: Freshness) -> Result<()> {
    ctx.wait(60, &format!("every gateway and DNS server to be {wanted:?}"), || {
        ctx.lab.each(|node| is(node, wanted))?;
        Ok(Some(()))
    })
}

/// What the metrics of both say.
fn is(node: &Node, wanted: Freshness) -> Result<()> {
    let value: f64 = match wanted {
        Freshness::Empty => 0.0,
        Freshness::LastGood => 1.0,
        Freshness::Live => 2.0,
    };
    for (name, at) in [("gateway", GATEWAY_METRICS), ("dns", DNS_METRICS)] {
        let text = node.sh(&format!("curl -sf http://{at}/metrics"))?;
        let prefix = format!("ployz_{name}_routing_freshness ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix)).context("no freshness")?;
        ensure!(line.parse() == Ok(value), "{name} is not {wanted:?}: {line}");
    }
    Ok(())
}

/// How long DNS servers and gateways say that the store has been away.
fn ages(ctx: &Ctx) -> Result<Vec<f64>> {
    let cmd = format!(
        "curl -sf http://{GATEWAY_METRICS}/metrics | sed -n 's/^ployz_gateway_routing_age_seconds //p'; \
         curl -sf http://{DNS_METRICS}/metrics | sed -n 's/^ployz_dns_routing_age_seconds //p'"
    );
    let text = ctx.lab.each(|node| node.sh(&cmd))?;
    let numbers = text.iter().flat_map(|text| text.lines());
    numbers.map(|number| number.parse::<f64>().with_context(|| format!("{text:?}"))).collect()
}

const PROCESSES: &str =
    "systemctl show -P MainPID ployz-gateway ployz-dns; pgrep -x 'ployz-gateway|ployz-dns'";
