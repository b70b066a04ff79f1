//! One node: what a test does to it. The same calls work in both lanes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Lane;
use super::background::Background;
use super::host::{Input, Output, Running, quote};
use super::net::Net;
use super::ns::NsMachine;
use super::poll::{Clock, poll};
use super::ready::{self, Hung};
use super::vm::VmMachine;

/// A node of a lab. Clones name the same node, so a test may hand them to threads.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    index: usize,
    lane: Lane,
    dir: PathBuf,
    machine: Machine,
    net: Arc<Net>,
    clock: Clock,
}

/// The two kinds of node.
pub(crate) enum Machine {
    Ns(NsMachine),
    Vm(VmMachine),
}

/// How a command goes in.
#[derive(Clone, Copy)]
pub(crate) enum Entry {
    /// Ended inside the node after this time.
    Limited(Duration),
    /// Runs until it ends or is stopped.
    Unlimited,
    /// For a person at a terminal.
    Terminal,
}

impl Node {
    pub(crate) fn new(
        index: usize,
        lane: Lane,
        dir: PathBuf,
        machine: Machine,
        net: Arc<Net>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { index, lane, dir, machine, net, clock }))
    }

    /// The node's number, from 1.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Its host name: `n1`, `n2` and so on.
    pub fn name(&self) -> String {
        format!("n{}", self.0.index)
    }

    /// Its address on underlay `k`: 10.77.0.1I on the first, 10.78.0.1I on the second.
    pub fn ip(&self, k: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 76 + k as u8, 0, 10 + self.0.index as u8)
    }

    /// Its IPv6 address on underlay 1: fd77::1I (the second underlay has IPv4 only).
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10 + self.0.index as u16)
    }

    /// Runs a bash command as root; fails only when it could not be run or did not end within a minute (`vm`: three).
    pub fn run(&self, cmd: &str) -> Result<Output> {
        self.run_for(self.0.lane.scale(Duration::from_secs(60)), cmd)
    }

    /// [`Self::run`] with another limit.
    pub fn run_for(&self, limit: Duration, cmd: &str) -> Result<Output> {
        self.feed(limit, cmd, Input::Nothing)
    }

    /// Runs a bash command and returns its standard output without the last line end; any exit code but 0 is an error that
    /// carries everything the command printed.
    pub fn sh(&self, cmd: &str) -> Result<String> {
        self.checked(cmd, self.run(cmd)?)
    }

    /// [`Self::sh`] with another limit.
    pub fn sh_for(&self, limit: Duration, cmd: &str) -> Result<String> {
        self.checked(cmd, self.run_for(limit, cmd)?)
    }

    /// Starts a bash command in a session of its own and returns at once.
    pub fn spawn(&self, cmd: &str) -> Result<Background> {
        Background::start(self, cmd)
    }

    /// Writes a file with these contents and this mode (such as 0o600), making its directory.
    pub fn put(&self, contents: impl AsRef<[u8]>, path: &str, mode: u32) -> Result<()> {
        self.receive(Input::Bytes(contents.as_ref().to_vec()), path, mode)
    }

    /// Copies a file of the build machine into the node.
    pub fn put_file(&self, local: &Path, path: &str, mode: u32) -> Result<()> {
        let file = File::open(local).with_context(|| local.display().to_string())?;
        self.receive(Input::File(file), path, mode)
    }

    /// The contents of a file.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.run(&format!("cat {}", quote(path)))?;
        if !output.ok() {
            bail!("{}: read {path}: {}", self.name(), output.describe());
        }
        Ok(output.raw)
    }

    /// Installs a Debian package from a file of the build machine; nothing can be downloaded in a node.
    pub fn install(&self, deb: &Path) -> Result<()> {
        self.put_file(deb, "/tmp/lab.deb", 0o644)?;
        self.sh("DEBIAN_FRONTEND=noninteractive dpkg -i /tmp/lab.deb && rm /tmp/lab.deb").map(drop)
    }

    /// Makes the Docker image `lab/busybox` in the node, without network. Docker must run. (Its `wget -T` crashes on Debian
    /// 12: use `timeout`.)
    pub fn docker_busybox(&self) -> Result<()> {
        self.sh(concat!(
            "docker image inspect lab/busybox >/dev/null 2>&1 && exit; d=$(mktemp -d); mkdir -p $d/bin $d/tmp; ",
            "cp /bin/busybox $d/bin/; for a in $(busybox --list); do ln -s busybox $d/bin/$a 2>/dev/null; done; ",
            "tar -C $d -c . | docker import -c 'CMD [\"sh\"]' - lab/busybox; rm -r $d"
        ))
        .map(drop)
    }

    /// Shuts the node down in order and boots it again; its disk stays.
    pub fn reboot(&self) -> Result<()> {
        self.power_off("reboot")?;
        self.boot()
    }

    /// Shuts the node down in order; [`Self::boot`] starts it again.
    pub fn shut_down(&self) -> Result<()> {
        self.power_off("poweroff")
    }

    /// Ends the node in an instant. What was not fsynced is lost in a `vm` node that asked for `power-cut`; elsewhere the
    /// build machine's page cache keeps it, so this is then only "every process died at once".
    pub fn power_cut(&self) -> Result<()> {
        match &self.0.machine {
            Machine::Ns(machine) => machine.kill(),
            Machine::Vm(machine) => machine.kill(),
        }
        .with_context(|| format!("power cut of {}", self.name()))
    }

    /// Starts a node that is down and waits until systemd says it runs.
    pub fn boot(&self) -> Result<()> {
        if self.is_up() {
            bail!("{} is up already", self.name());
        }
        let mut result = self.boot_once();
        for _ in 0..2 {
            match &result {
                Err(error) if error.is::<Hung>() => eprintln!("lab: {}: {error:#}: again", self.name()),
                _ => break,
            }
            result = self.boot_once();
        }
        result
    }

    fn boot_once(&self) -> Result<()> {
        self.power_cut()?; // removes what a machine that went down by itself left: ports, cgroup, sockets
        let said = fs::metadata(self.console()).map_or(0, |file| file.len());
        match &self.0.machine {
            Machine::Ns(machine) => machine.boot(),
            Machine::Vm(machine) => machine.boot(None),
        }
        .with_context(|| format!("boot {}", self.name()))?;
        ready::wait(self, said)
    }

    /// The first boot of a new lab: the same as [`Self::boot`], from a kept state where there is one.
    pub(super) fn first_boot(&self) -> Result<()> {
        let Some(machine) = self.vm() else { return self.boot() };
        if machine.boot_kept()? {
            return ready::wait(self, u64::MAX);
        }
        self.boot()?;
        machine.keep_booted().context("keep the booted machine")
    }

    /// Whether the machine exists; a frozen one does.
    pub fn is_up(&self) -> bool {
        match &self.0.machine {
            Machine::Ns(machine) => machine.alive(),
            Machine::Vm(machine) => machine.alive(),
        }
    }

    /// Stops every process (`vm`: the whole machine, its clock too). Commands fail after their limit until [`Self::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.hold(true)
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self) -> Result<()> {
        self.hold(false)
    }

    /// Cuts the node from underlay `k`, silently: its carrier stays. Commands still reach it.
    pub fn cut_link(&self, k: usize) -> Result<()> {
        self.0.net.cut_link(self.0.index, k, true)
    }

    /// Undoes [`Self::cut_link`].
    pub fn heal_link(&self, k: usize) -> Result<()> {
        self.0.net.cut_link(self.0.index, k, false)
    }

    /// Lane `ns` only: a program of the node's tree, run in the node without a shell or ssh.
    pub fn native(&self, program: &str) -> Result<Command> {
        match &self.0.machine {
            Machine::Ns(machine) => machine.native(program),
            Machine::Vm(_) => bail!("{} is a virtual machine: nothing runs natively in it", self.name()),
        }
    }

    /// A shell for a person, or `cmd` with the terminal passed through.
    pub fn terminal(&self, cmd: Option<&str>) -> Result<Command> {
        self.enter(cmd.unwrap_or("exec bash -il"), Entry::Terminal)
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.0.dir.join("console.log")
    }

    pub(crate) fn vm(&self) -> Option<&VmMachine> {
        match &self.0.machine {
            Machine::Ns(_) => None,
            Machine::Vm(machine) => Some(machine),
        }
    }

    /// Whether a command would run in the node's own tree by now.
    pub(super) fn entered(&self) -> bool {
        match &self.0.machine {
            Machine::Ns(machine) => machine.entered(),
            Machine::Vm(_) => true,
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(super) fn lane(&self) -> Lane {
        self.0.lane
    }

    fn hold(&self, frozen: bool) -> Result<()> {
        match &self.0.machine {
            Machine::Ns(machine) => machine.hold(frozen),
            Machine::Vm(machine) => machine.hold(frozen),
        }
    }

    fn power_off(&self, verb: &str) -> Result<()> {
        // The connection may end before the command does.
        let _ =
            self.run_for(self.0.lane.scale(Duration::from_secs(20)), &format!("systemctl --no-block {verb}"));
        let what = format!("{} to go down", self.name());
        poll(self.0.lane.boot_limit(), &what, || {
            self.0.clock.limit(Duration::MAX)?;
            Ok((!self.is_up()).then_some(()))
        })?;
        self.power_cut()
    }

    pub(super) fn enter(&self, script: &str, entry: Entry) -> Result<Command> {
        match &self.0.machine {
            Machine::Ns(machine) => machine.enter(script, entry),
            Machine::Vm(machine) => machine.enter(script, entry),
        }
    }

    fn feed(&self, limit: Duration, cmd: &str, input: Input) -> Result<Output> {
        let limit = self.0.clock.limit(limit)?;
        let mut command = self.enter(cmd, Entry::Limited(limit))?;
        let running = Running::start(&mut command, input)?;
        // Lane vm ends the command inside the node at the limit: leave it the time to say so.
        let output = running.finish(limit + self.0.lane.scale(Duration::from_millis(500)));
        let output = output.with_context(|| format!("{}: `{cmd}`", self.name()))?;
        match output.code {
            255 if output.stdout.is_empty() && self.0.lane == Lane::Vm => {
                bail!("{}: `{cmd}`: ssh failed: {}", self.name(), output.stderr.trim())
            }
            124 if self.0.lane == Lane::Vm => {
                bail!("{}: `{cmd}` did not end within {limit:.1?}: {}", self.name(), output.describe())
            }
            _ => Ok(output),
        }
    }

    fn receive(&self, input: Input, path: &str, mode: u32) -> Result<()> {
        let cmd =
            format!("f={}; mkdir -p \"${{f%/*}}\" && cat >\"$f\" && chmod {mode:o} \"$f\"", quote(path));
        let limit = self.0.lane.scale(Duration::from_secs(120));
        let output = self.feed(limit, &cmd, input)?;
        self.checked(&format!("write {path}"), output).map(drop)
    }

    fn checked(&self, cmd: &str, output: Output) -> Result<String> {
        if !output.ok() {
            bail!("{}: `{cmd}`: {}", self.name(), output.describe());
        }
        let text = output.stdout;
        Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
    }
}

/// The words for `env` before every command: the same in both lanes.
pub(crate) const ENVIRONMENT: &[&str] = &[
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=dumb",
];
