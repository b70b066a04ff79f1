//! A service under load on three nodes: its image, its deploys, and the clients that ask it all the while.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Ctx;
use super::product;
use super::secured;
use crate::lab::{Background, Node};

/// The image that [`images`] makes on every node.
pub(super) const IMAGE: &str = "lab/load";

/// Whether the counts are those that were asked for (`PLOYZ_FULL=1`), or fewer, for a run in between.
pub(super) fn full() -> bool {
    env::var_os("PLOYZ_FULL").is_some_and(|value| value == "1")
}

/// So many times in a full run, so many otherwise.
pub(super) fn times(whole: usize, fewer: usize) -> usize {
    if full() { whole } else { fewer }
}

/// A mesh of three with the load program and its image on every node.
pub(super) fn begin(ctx: &Ctx) -> Result<()> {
    ctx.lab.each(|node| {
        node.sh(&format!("printf 'gateway_metrics_listen_addr = \"{GATEWAY_METRICS}\"\ndns_metrics_listen_addr = \"{DNS_METRICS}\"\n' >>/etc/ployz/config.toml; systemctl restart ployzd"))
    })?;
    product::mesh(ctx, 3)?;
    let program = program()?;
    ctx.lab.each(|node| {
        node.put_file(&program, PROGRAM, 0o755)?;
        node.sh_for(Duration::from_secs(120), MAKE_IMAGE)?;
        product::docker_network(ctx, node)
    })?;
    Ok(())
}

/// `load` is built beside the program that runs this.
fn program() -> Result<PathBuf> {
    let path = env::current_exe().context("the path of this program")?.with_file_name("load");
    ensure!(path.exists(), "{}: build it with `cargo build -p ployz-tests`", path.display());
    Ok(path)
}

/// One service in a namespace of its own, named after it; `version` tells one deploy from another.
pub(super) fn manifest(service: &str, replicas: usize, version: usize) -> Value {
    json!({"version": 1, "namespace": service, "services": [{
        "name": "web",
        "image": IMAGE,
        "command": ["/load", "serve", "8080"],
        "env": {"VERSION": version.to_string()},
        "ports": [{"name": "http", "port": 8080}],
        "routes": [{"host": host(service), "port": "http"}],
        "placement": {"replicas": replicas},
        "readiness": {"kind": "http", "port": "http", "path": "/echo/ready", "interval": "300ms"},
        "stop_grace_period": "40s"
    }]})
}

/// The same service with a TCP route as well, to be asked by clients of kind `tcp`.
pub(super) fn with_tcp(mut manifest: Value, listen: u16) -> Value {
    if let Some(routes) = manifest["services"][0]["routes"].as_array_mut() {
        routes.push(json!({"listen": listen, "port": "http"}));
    }
    manifest
}

/// The name under which gateways know a service of [`manifest`].
pub(super) fn host(service: &str) -> String {
    format!("{service}.example.org")
}

/// Deploys from this node, which must succeed.
pub(super) fn deploy(node: &Node, manifest: &Value) -> Result<()> {
    node.put(manifest.to_string(), "/run/manifest.json", 0o644)?;
    node.sh_for(Duration::from_secs(150), "ployzctl -q deploy -f /run/manifest.json").map(drop)
}

/// Clients on node 3 that ask gateways and DNS servers.
pub(super) struct Load {
    running: Background,
    node: Node,
}

/// What to leave out of a run, and how long its downloads take.
pub(super) struct Clients {
    /// As `load run --kinds` takes them.
    pub(super) kinds: &'static str,
    /// Seconds.
    pub(super) download: usize,
}

/// Every kind that asks by the service's names.
pub(super) const NAMED: &str = "http1,connect,http2,websocket,download,dns-udp,dns-tcp";

/// Every kind: also that of a TCP route, which the service must have ([`with_tcp`]), and those of HTTPS ([`secured`]).
pub(super) const ALL: &str =
    "http1,connect,http2,websocket,download,https1,https-connect,https2,wss,tcp,dns-udp,dns-tcp";

/// The port of the TCP route that they ask.
pub(super) const TCP: u16 = 5432;

impl Load {
    /// Starts and waits until every client has got an answer: from the gateways of nodes 1 and 2, from their DNS servers over
    /// the overlay, and from the own one.
    pub(super) fn start(ctx: &Ctx, service: &str, clients: &Clients) -> Result<Self> {
        let node = ctx.node(3).clone();
        let mut cmd = format!(
            "echo $$ >{PID}; exec {PROGRAM} run --host {} --tcp {TCP} --kinds {} --download {}",
            host(service),
            clients.kinds,
            clients.download
        );
        if clients.kinds.contains("https") {
            cmd += &format!(" --https {} --ca {}", secured::PORT, secured::AUTHORITY);
        }
        for i in 1..=3 {
            let [overlay, address] = product::addresses(ctx.node(i))?;
            cmd += &format!(" --dns {overlay} --dns {address} --name n{i}.machine.ployz.internal={address}");
        }
        for i in 1..=2 {
            cmd += &format!(" --gateway {}", ctx.node(i).ip(1));
        }
        cmd += &format!(" --name web.{service}.ployz.internal=10.101.*");
        let running = node.spawn(&cmd)?;
        ctx.wait(30, "every client to get an answer", || {
            ensure!(running.stdout().contains("begun"), "{}{}", running.stdout(), running.stderr());
            Ok(Some(()))
        })?;
        Ok(Self { running, node })
    }

    /// Ends it and returns what it counted, one line of which is told.
    pub(super) fn stop(self, ctx: &Ctx) -> Result<Counted> {
        self.node.sh(&format!("kill -TERM $(cat {PID})"))?;
        let output = self.running.wait(ctx.lab.secs(40))?;
        let last = output.stdout.lines().last().unwrap_or_default();
        let report: Value = serde_json::from_str(last).with_context(|| product::told(&output))?;
        let counted = Counted { report };
        ctx.say(counted.line()?);
        Ok(counted)
    }
}

/// What a load counted.
pub(super) struct Counted {
    report: Value,
}

impl Counted {
    /// Fails unless every kind was asked and answered, and nothing was lost.
    pub(super) fn none_lost(&self) -> Result<()> {
        self.only(|_, _| false)
    }

    /// Fails when anything was lost that is not `allowed`, told as kind and failure.
    pub(super) fn only(&self, allowed: impl Fn(&str, &Value) -> bool) -> Result<()> {
        for (kind, counts) in self.kinds()? {
            let failures = counts["failures"].as_array().context("failures")?;
            let other: Vec<_> = failures.iter().filter(|failure| !allowed(kind, failure)).collect();
            ensure!(other.is_empty(), "{kind}: {} lost: {other:#?}", counts["failed"]);
            ensure!(counts["failed"] == failures.len(), "{kind}: more lost than is told: {counts}");
            ensure!(counts["right"].as_u64() > Some(0), "{kind} was never answered: {counts}");
        }
        Ok(())
    }

    /// Fails when servers ended what clients of these kinds held open, in order or not.
    pub(super) fn kept_open(&self, kinds: &[&str]) -> Result<()> {
        for kind in kinds {
            let closed = self.report["kinds"][kind]["closed"].as_u64();
            ensure!(closed == Some(0), "connections of {kind} were closed: {closed:?}");
        }
        Ok(())
    }

    fn line(&self) -> Result<String> {
        let kinds = self.kinds()?.map(|(kind, counts)| {
            let also: String = ["failed", "retried", "closed"]
                .iter()
                .filter(|what| counts[**what] != 0)
                .map(|what| format!(", {what} {}", counts[*what]))
                .collect();
            format!("{kind} {}/{}{also} (worst {} ms)", counts["right"], counts["asked"], counts["worst_ms"])
        });
        let kinds: Vec<_> = kinds.collect();
        Ok(format!("{:.0} s: {}", self.report["seconds"].as_f64().context("seconds")?, kinds.join("; ")))
    }

    fn kinds(&self) -> Result<impl Iterator<Item = (&str, &Value)>> {
        let kinds = self.report["kinds"].as_object().with_context(|| self.report.to_string())?;
        Ok(kinds.iter().map(|(kind, counts)| (kind.as_str(), counts)))
    }
}

/// Where gateways tell their metrics, to their own machine.
pub(super) const GATEWAY_METRICS: &str = "127.0.0.1:9101";

/// Where DNS servers do.
pub(super) const DNS_METRICS: &str = "127.0.0.1:9102";

const PROGRAM: &str = "/usr/local/bin/load";
const PID: &str = "/run/load.pid";

/// The program and the libraries it is linked with, as an image of nothing else.
const MAKE_IMAGE: &str = "set -e; d=$(mktemp -d); cp /usr/local/bin/load $d/load; mkdir $d/tmp
for f in $(ldd /usr/local/bin/load | grep -o '/[^ ]*'); do mkdir -p $d${f%/*}; cp -L $f $d$f; done
tar -C $d -c . | docker import - lab/load >/dev/null; rm -r $d";
