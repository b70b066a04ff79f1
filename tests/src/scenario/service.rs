//! A service as its users meet it: by name from a container, by Host header at any machine, while daemons and store come
//! and go.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "service-by-name-and-gateway",
    needs: &[Need::Systemd, Need::Docker, Need::Package],
    nodes: 3,
    underlays: 1,
    run: by_name_and_gateway,
}];

fn by_name_and_gateway(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 3)?;
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    n1.put(MANIFEST, "/root/shop.toml", 0o644)?;
    ctx.say(n1.sh("ployzctl deploy preview -f /root/shop.toml")?);
    n1.sh_for(std::time::Duration::from_secs(120), "ployzctl deploy -f /root/shop.toml")?;

    for i in 1..=3 {
        reaches_all(ctx, n3, i)?;
        resolves(ctx, ctx.node(i))?;
    }
    let none =
        n3.sh("curl -s -m 5 -o /dev/null -w '%{http_code}' -H 'Host: other.example.org' http://10.77.0.11/")?;
    ensure!(none == "404", "a host nobody serves: {none}");

    // What was deployed goes on being served: without any daemon, and without the store.
    let load = n3.spawn(LOAD)?;
    for node in ctx.lab.nodes() {
        for _ in 0..3 {
            node.sh("systemctl kill -s KILL ployzd")?;
            product::started(ctx, node)?;
        }
    }
    n1.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    for i in 1..=3 {
        reaches_all(ctx, n3, i)?;
        resolves(ctx, ctx.node(i))?;
    }
    ctx.node(2).sh("systemctl restart ployz-gateway ployz-dns")?;
    reaches_all(ctx, n3, 2)?;
    resolves(ctx, ctx.node(2))?;
    n1.sh("systemctl start ployzd")?;
    (1..=3).try_for_each(|i| product::ready(ctx, i))?;
    n3.sh("touch /run/stop-load")?;
    let told = load.wait(ctx.lab.secs(20))?.stdout;
    ctx.say(told.trim());
    ensure!(told.starts_with("failed 0 "), "{told}");

    n1.sh_for(std::time::Duration::from_secs(120), "ployzctl service rm shop/web")?;
    ctx.wait(15, "the route to be gone", || {
        let code = n3.sh(
            "curl -s -m 5 -o /dev/null -w '%{http_code}' -H 'Host: shop.example.org' http://10.77.0.12/",
        )?;
        ensure!(code == "404", "{code}");
        Ok(Some(()))
    })?;
    n1.sh(&format!("ployzctl mesh destroy {NETWORK}")).map(drop)
}

/// Asked from `from`'s underlay addresses of both families, the gateway of node `i` passes requests to all three, who learn
/// who asks; so they do of a client outside.
fn reaches_all(ctx: &Ctx, from: &Node, i: usize) -> Result<()> {
    let node = ctx.node(i);
    let families = [
        (node.ip(1).to_string(), from.ip(1).to_string(), "10.77.0.1"),
        (format!("[{}]", node.ip6()), from.ip6().to_string(), "fd77::1"),
    ];
    for (at, client, outside) in families {
        let url = format!("http://{at}/cgi-bin/who");
        reaches_all_at(ctx, from, &url, &client)?;
        let said = ctx.lab.outside(&format!("curl -gsf -m 5 -H 'Host: shop.example.org' '{url}'"))?;
        ensure!(said.lines().any(|line| line == format!("for {outside}")), "from outside: {said}");
    }
    Ok(())
}

fn reaches_all_at(ctx: &Ctx, from: &Node, url: &str, client: &str) -> Result<()> {
    ctx.wait(20, &format!("all three behind {url}"), || {
        let said = from.sh(&format!(
            "for n in $(seq 12); do curl -gsf -m 5 -H 'Host: shop.example.org' '{url}' || echo failed; done"
        ))?;
        ensure!(!said.contains("failed"), "{said}");
        let hosts: BTreeSet<&str> = said.lines().filter(|line| line.starts_with("host ")).collect();
        let clients: BTreeSet<&str> = said.lines().filter(|line| line.starts_with("for ")).collect();
        ensure!(hosts.len() == 3, "{said}");
        ensure!(clients == BTreeSet::from([&*format!("for {client}")]), "{said}");
        Ok(Some(()))
    })
}

/// The service's names, asked by the node itself and by a container on it.
fn resolves(ctx: &Ctx, node: &Node) -> Result<()> {
    let [overlay, service] = product::addresses(node).or_else(|_| stored_addresses(node))?;
    ctx.wait(20, &format!("the service's names on {}", node.name()), || {
        for server in [&overlay, &service] {
            let found =
                node.sh(&format!("dig +short +time=2 +tries=1 @{server} web.shop.ployz.internal A"))?;
            ensure!(found.lines().count() == 3, "@{server}: {found}");
        }
        let container = node.sh("docker ps -q --filter label=ployz.namespace=shop")?;
        let fetch = format!("docker exec {container} timeout 5 wget -q -O - http://web:8080/cgi-bin/who");
        ensure!(node.sh(&fetch)?.contains("host "), "by its short name from a container");
        Ok(Some(()))
    })
}

/// With ployzd stopped nobody answers `mesh status`; what it would say is on disk.
fn stored_addresses(node: &Node) -> Result<[String; 2]> {
    let file = format!("/var/lib/ployz/networks/{NETWORK}/network.json");
    let overlay = node.sh(&format!("jq -r .machine.overlay_ip {file}"))?;
    let service =
        node.sh("ip -n ployz -4 -o addr show dev svc0 | awk '{print $4}' | cut -d/ -f1 | grep '[.]2$'")?;
    Ok([overlay, service])
}

/// Requests without a pause through two gateways; counts what failed of how many.
const LOAD: &str = "failed=0; n=0; rm -f /run/stop-load
while [ ! -e /run/stop-load ]; do for i in 1 2; do
  curl -sf -m 10 -o /dev/null -H 'Host: shop.example.org' http://10.77.0.1$i/cgi-bin/who || { failed=$((failed+1)); codes=$codes,$?; }
  n=$((n+1)); done; sleep 0.02; done
echo \"failed $failed total $n curl${codes:-: 0}\"";

const MANIFEST: &str = r#"version = 1
namespace = "shop"

[[services]]
name = "web"
image = "lab/busybox"
command = ["sh", "-c", "mkdir -p /www/cgi-bin && printf '#!/bin/sh\necho; echo host $(hostname); echo for $HTTP_X_FORWARDED_FOR\n' >/www/cgi-bin/who && printf '#!/bin/sh\n[ \"$HTTP_HOST $HTTP_X_PROBE\" = \"up.example.org yes\" ] && s=202 || s=503\nprintf \"HTTP/1.0 $s OK\\\\r\\\\n\\\\r\\\\n\"\n' >/www/cgi-bin/up && chmod +x /www/cgi-bin/who /www/cgi-bin/up && exec httpd -f -p 8080 -h /www"]
stop_grace_period = "1s"
ports = [{ port = 8080, name = "http" }]
routes = [{ host = "shop.example.org", port = "http" }]
placement = { replicas = 3 }
readiness = { kind = "http", port = "http", path = "/cgi-bin/up", interval = "300ms", host = "up.example.org", headers = { X-Probe = "yes" }, statuses = [202] }
"#;
