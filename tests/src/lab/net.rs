//! The lab's private network: one network namespace of the build machine with a bridge per underlay and a port per node.
//!
//! Inside the namespace the bridges are `u1` and `u2` and the port of node 3 on underlay 2 is `n3u2`. In lane `vm` a third
//! bridge, `cmd`, carries the lab's own ssh; nothing that cuts links touches it. A cut is silent: the port leaves its bridge
//! and both ends keep their carrier, as when a switch in between fails.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Lane;
use super::host::{self, Input, Running};

/// The bridges of one lab.
#[derive(Debug)]
pub(crate) struct Net {
    ns: String,
    underlays: usize,
    cut: Mutex<BTreeSet<(usize, usize)>>,
}

impl Net {
    /// The network of a lab that runs already.
    pub(crate) fn of(ns: &str, underlays: usize) -> Self {
        Self { ns: ns.to_owned(), underlays, cut: Mutex::default() }
    }

    pub(crate) fn create(ns: &str, underlays: usize, lane: Lane) -> Result<Self> {
        host::sh(Command::new("ip").args(["netns", "add", ns]))?;
        let net = Self::of(ns, underlays);
        let mut lines = "link set lo up\n".to_owned();
        for k in 1..=underlays {
            let _ = writeln!(lines, "link add u{k} type bridge forward_delay 0 mcast_snooping 0");
            let _ = writeln!(lines, "addr add 10.{}.0.1/24 dev u{k}\nlink set u{k} up", 76 + k);
        }
        let _ = writeln!(lines, "{HOST_SIX}");
        if lane == Lane::Vm {
            lines.push_str(
                "link add cmd type bridge forward_delay 0\naddr add 10.79.0.1/24 dev cmd\nlink set cmd up\n",
            );
        }
        net.ip(&lines)?;
        Ok(net)
    }

    pub(crate) fn underlays(&self) -> usize {
        self.underlays
    }

    /// A command that runs in the lab's namespace, where the host's side of underlay 1 is 10.77.0.1.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.ns)).args(["--", program]);
        command
    }

    /// Links node `node`, whose network namespace is that of process `pid`, to every underlay.
    pub(crate) fn plug_veth(&self, node: usize, pid: i32) -> Result<()> {
        let mut lines = String::new();
        for k in 1..=self.underlays {
            let port = port(node, k);
            let (eth, mac) = (k - 1, mac(node, k));
            let _ = writeln!(lines, "link add {port} type veth peer name eth{eth} address {mac} netns {pid}");
            lines.push_str(&self.join(node, k));
        }
        self.ip(&lines)
    }

    /// Makes the tap devices of node `node`; returns (device, MAC) in the order of its network cards.
    pub(crate) fn plug_tap(&self, node: usize) -> Result<Vec<(String, String)>> {
        let mut lines = String::new();
        let mut cards = Vec::new();
        for k in 1..=self.underlays {
            let port = port(node, k);
            let _ = writeln!(lines, "tuntap add dev {port} mode tap");
            lines.push_str(&self.join(node, k));
            cards.push((port, mac(node, k)));
        }
        let _ = writeln!(lines, "tuntap add dev n{node}c mode tap\nlink set n{node}c master cmd up");
        cards.push((format!("n{node}c"), mac(node, COMMAND_CARD)));
        self.ip(&lines)?;
        Ok(cards)
    }

    /// Removes what `plug_*` made; a port that is gone already is no error.
    pub(crate) fn unplug(&self, node: usize) {
        let ports = (1..=self.underlays).map(|k| port(node, k)).chain([format!("n{node}c")]);
        for port in ports {
            let _ = host::sh(Command::new("ip").args(["-n", &self.ns, "link", "del", &port]));
        }
    }

    pub(crate) fn cut_link(&self, node: usize, k: usize, cut: bool) -> Result<()> {
        self.check(k)?;
        let mut set = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if cut {
            set.insert((node, k));
        } else {
            set.remove(&(node, k));
        }
        drop(set);
        // A node that is down has no port: it comes up with the link as it was left.
        if host::sh(Command::new("ip").args(["-n", &self.ns, "link", "show", &port(node, k)])).is_err() {
            return Ok(());
        }
        self.ip(&self.join(node, k))
    }

    pub(crate) fn cut_underlay(&self, k: usize, cut: bool) -> Result<()> {
        self.check(k)?;
        let mut lines = format!("link set u{k} {}\n", if cut { "down" } else { "up" });
        if !cut && k == 1 {
            let _ = writeln!(lines, "{HOST_SIX}"); // IPv6 addresses go with "down"
        }
        self.ip(&lines)
    }

    /// Drops what nodes `a` and `b` send to each other on every underlay; everyone else is still heard.
    pub(crate) fn cut_pair(&self, a: usize, b: usize, cut: bool) -> Result<()> {
        let mut rules = format!("table bridge pair{a}_{b} {{}}\ndelete table bridge pair{a}_{b}\n");
        if cut {
            let _ = writeln!(
                rules,
                "table bridge pair{a}_{b} {{ chain f {{ type filter hook forward priority 0;"
            );
            for k in 1..=self.underlays {
                let (a, b) = (port(a, k), port(b, k));
                let _ = writeln!(rules, "iifname {a} oifname {b} drop\niifname {b} oifname {a} drop");
            }
            rules.push_str("}\n}\n");
        }
        self.feed("nft", &["-f", "-"], rules)
    }

    /// Undoes every cut.
    pub(crate) fn heal_all(&self, nodes: usize) -> Result<()> {
        self.feed("nft", &["flush", "ruleset"], String::new())?;
        for k in 1..=self.underlays {
            self.cut_underlay(k, false)?;
            for node in 1..=nodes {
                self.cut_link(node, k, false)?;
            }
        }
        Ok(())
    }

    /// Lines for `ip` that put a port where its cut state says.
    fn join(&self, node: usize, k: usize) -> String {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner).contains(&(node, k));
        let master = if cut { "nomaster".to_owned() } else { format!("master u{k}") };
        format!("link set {} {master} up\n", port(node, k))
    }

    fn check(&self, k: usize) -> Result<()> {
        if k == 0 || k > self.underlays {
            bail!("there is no underlay {k}: this lab has {}", self.underlays);
        }
        Ok(())
    }

    fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        let output =
            Running::start(command.args(["-n", &self.ns, "-batch", "-"]), Input::Bytes(lines.into()))?
                .finish(LIMIT)
                .context("ip -batch")?;
        if !output.ok() {
            bail!("ip -n {} -batch: {}\n--- lines\n{lines}", self.ns, output.describe());
        }
        Ok(())
    }

    fn feed(&self, program: &str, args: &[&str], text: String) -> Result<()> {
        let mut command = self.command(program);
        let output = Running::start(command.args(args), Input::Bytes(text.into()))?.finish(LIMIT)?;
        if !output.ok() {
            bail!("{}: {}", host::show(&command), output.describe());
        }
        Ok(())
    }
}

fn port(node: usize, k: usize) -> String {
    format!("n{node}u{k}")
}

/// Must agree with the .network files that `vm/build-image.sh` writes.
fn mac(node: usize, card: usize) -> String {
    format!("52:54:00:77:0{card}:0{node}")
}

const COMMAND_CARD: usize = 9;
const HOST_SIX: &str = "addr replace fd77::1/64 dev u1 nodad";
const LIMIT: Duration = Duration::from_secs(20);
