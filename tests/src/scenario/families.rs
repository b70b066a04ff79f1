//! The gateway on a host whose IPv6 is switched off: it comes up on IPv4, says so, and serves IPv6 once that is on.

use anyhow::{Context, Result, ensure};

use super::{Ctx, Need, Scenario, product};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "gateway-where-ipv6-is-off",
    needs: &[Need::Systemd, Need::Package],
    nodes: 1,
    underlays: 1,
    run,
}];

fn run(ctx: &mut Ctx) -> Result<()> {
    let node = ctx.node(1);
    ipv6(node, "1")?;
    product::init(ctx)?;
    says(ctx, node, "HTTP: IPv4 only, IPv6 is off on this host")?;
    let four = format!("http://{}/", node.ip(1));
    ctx.wait(10, "the gateway over IPv4", || Ok((code(ctx, &four)? == "404").then_some(())))?;
    let pid = node.sh("systemctl show -P MainPID ployz-gateway")?;

    ipv6(node, "0")?;
    node.sh(&format!("ip addr replace {}/64 dev eth0 nodad", node.ip6()))?;
    says(ctx, node, "HTTP: IPv4 and IPv6")?;
    let six = format!("http://[{}]/", node.ip6());
    ctx.wait(10, "the gateway over IPv6", || Ok((code(ctx, &six)? == "404").then_some(())))?;
    product::all_adopt(&product::restart(ctx, node)?)?;
    ensure!(node.sh("systemctl show -P MainPID ployz-gateway")? == pid, "the gateway was restarted");

    // An address that is given means what it says.
    node.sh("cp -p /etc/ployz/config.toml /run/config; echo 'gateway_listen_addr = \"0.0.0.0:80\"' >>/etc/ployz/config.toml")?;
    let plan = product::restart(ctx, node)?;
    ctx.say(product::says(&plan, "gateway", "converge", "ployz-gateway-http6.socket: stream:[::]:80 -> -")?);
    says(ctx, node, "HTTP: IPv4 only (by gateway_listen_addr; without the key both are served)")?;
    node.sh("mv /run/config /etc/ployz/config.toml")?;
    product::restart(ctx, node)?;
    says(ctx, node, "HTTP: IPv4 and IPv6")?;
    node.sh(&format!("ployzctl mesh destroy {} --local", product::NETWORK))?;
    product::gone(ctx, node)
}

fn ipv6(node: &Node, disabled: &str) -> Result<()> {
    node.sh(&format!(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6={disabled} net.ipv6.conf.default.disable_ipv6={disabled}"
    ))
    .map(drop)
}

fn says(ctx: &Ctx, node: &Node, wanted: &str) -> Result<()> {
    ctx.wait(20, &format!("doctor to say {wanted:?}"), || {
        let found = product::envelope(node, "doctor")?;
        let checks = found["payload"]["checks"].as_array().context("checks")?;
        let check = checks.iter().find(|check| check["check"] == "gateway-families").context("no check")?;
        ensure!(check["level"] == "ok" && check["seen"] == wanted, "{check}");
        Ok(Some(()))
    })
}

fn code(ctx: &Ctx, url: &str) -> Result<String> {
    ctx.lab.outside(&format!("curl -gs -m 5 -o /dev/null -w '%{{http_code}}' {url}"))
}
