//! What Prometheus is told, asked with `curl` as it would ask.

use anyhow::{Result, ensure};

use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "metrics-of-the-daemon",
    needs: &[Need::Systemd, Need::Package],
    nodes: 2,
    underlays: 1,
    run: of_the_daemon,
}];

fn of_the_daemon(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let silent = n1.run("curl -sS -m 2 http://127.0.0.1:9100/metrics")?;
    ensure!(silent.code != 0, "nothing is served unless asked for: {}", silent.stdout);
    // Somebody else has the address at first: the daemon starts all the same, and takes it when it is free.
    n1.sh("cp -p /etc/ployz/config.toml /run/config; echo 'daemon_metrics_listen_addr = \"127.0.0.1:9100\"' >>/etc/ployz/config.toml")?;
    let squatter = n1.spawn("socat TCP-LISTEN:9100,bind=127.0.0.1,fork,reuseaddr EXEC:cat")?;
    ctx.wait(20, "the address to be taken", || n1.sh("ss -Hltn sport = :9100 | grep .").map(|_| Some(())))?;
    n1.sh("systemctl restart ployzd")?;
    n1.sh("ployzctl status")?;
    let theirs = n1.run("curl -sS -m 2 http://127.0.0.1:9100/metrics")?.stdout;
    ensure!(!theirs.contains("ployz_build_info"), "{theirs}");
    squatter.stop()?;
    served(ctx, n1, &["ployz_network_running 0", "ployz_build_info{version="])?;
    product::mesh(ctx, 2)?;
    served(
        ctx,
        n1,
        &[
            "ployz_network_running 1",
            "ployz_ready 1",
            "ployz_store_connected 1",
            "ployz_component_ok{component=\"nats\",verdict=\"",
            "ployz_peer_reachable{peer=\"n2\"} 1",
            "ployz_peer_rtt_seconds{peer=\"n2\"} 0.",
        ],
    )?;
    n1.sh("cp -p /run/config /etc/ployz/config.toml && systemctl restart ployzd").map(drop)
}

fn served(ctx: &Ctx, node: &Node, lines: &[&str]) -> Result<()> {
    ctx.wait(15, "the metrics to say so", || {
        let text = node.sh("curl -fsS -m 2 http://127.0.0.1:9100/metrics")?;
        let missing: Vec<_> = lines.iter().filter(|line| !text.contains(**line)).collect();
        ensure!(missing.is_empty(), "no {missing:?} in\n{text}");
        Ok(Some(()))
    })
}
