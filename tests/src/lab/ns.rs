//! A node of lane `ns`: systemd as PID 1 in namespaces of the build machine, on the build machine's kernel.
//!
//! Its processes are exactly the members of its cgroup, which is how it is frozen and killed. Commands enter with `nsenter`,
//! in the cgroup `lab` below the node's, so a frozen node answers none.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::image::{self, Image};
use super::net::Net;
use super::node::Entry;
use super::{cgroup, poll};

#[derive(Debug)]
pub(crate) struct NsMachine {
    index: usize,
    dir: PathBuf,
    cgroup: PathBuf,
    rootfs: PathBuf,
    net: Arc<Net>,
}

impl NsMachine {
    pub(crate) fn new(lab: &str, index: usize, dir: &Path, image: &Image, net: Arc<Net>) -> Self {
        let cgroup = cgroup::mount().join(format!("{lab}-n{index}"));
        Self { index, dir: dir.to_owned(), cgroup, rootfs: image.file("rootfs"), net }
    }

    /// Starts PID 1 with its links plugged; does not wait until systemd is ready.
    pub(crate) fn boot(&self) -> Result<()> {
        for dir in ["up", "work", "root", "docker", "containerd"] {
            fs::create_dir_all(self.dir.join(dir)).with_context(|| self.dir.display().to_string())?;
        }
        let exec = self.cgroup.join(EXEC);
        fs::create_dir_all(&exec).with_context(|| exec.display().to_string())?;
        let console = fs::File::options().create(true).append(true).open(self.dir.join("console.log"))?;
        let mut child = Command::new("bash")
            .args(["-c", START])
            .env("CGROUP", &self.cgroup)
            .env("INIT", image::script_path("ns-init.sh"))
            .env("NODE_DIR", &self.dir)
            .env("ROOTFS", &self.rootfs)
            .env("NODE", self.index.to_string())
            .env("BOUNDING", BOUNDING)
            .stdin(Stdio::piped())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("start a node")?;
        let outer = child.id();
        let mut go = child.stdin.take().context("a piped stdin")?;
        thread::spawn(move || child.wait()); // reaps it
        let pid = poll(Duration::from_secs(5), "PID 1 of the node", || first_child(outer))?;
        // The waiting parent leaves the node's root cgroup: systemd may only turn on controllers when no process sits there.
        fs::write(exec.join("cgroup.procs"), outer.to_string()).context("move the parent of PID 1")?;
        self.net.plug_veth(self.index, pid)?;
        fs::write(self.dir.join("pid"), pid.to_string())?;
        go.write_all(b"go\n").context("the node died at once")
    }

    /// Whether systemd is PID 1 by now: before that, a command would run in the build machine's own tree.
    pub(crate) fn entered(&self) -> bool {
        self.pid().is_ok_and(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "systemd")
        })
    }

    pub(crate) fn alive(&self) -> bool {
        let name = self.cgroup.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The pid may be another process's by now: ours is in our cgroup, and a zombie is in none that it names.
        self.pid().is_ok_and(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&name))
                && !fs::read_to_string(format!("/proc/{pid}/status"))
                    .unwrap_or_default()
                    .contains("State:\tZ")
        })
    }

    /// Ends every process of the node at once.
    pub(crate) fn kill(&self) -> Result<()> {
        cgroup::remove(&self.cgroup)?;
        self.net.unplug(self.index);
        fs::remove_file(self.dir.join("pid")).ok();
        Ok(())
    }

    pub(crate) fn hold(&self, frozen: bool) -> Result<()> {
        cgroup::freeze(&self.cgroup, frozen)
    }

    pub(crate) fn enter(&self, script: &str, _entry: Entry) -> Result<Command> {
        let mut command = self.native("env")?;
        command.args(super::node::ENVIRONMENT);
        command.args(["setpriv", "--bounding-set", BOUNDING, "bash", "-c", script]);
        Ok(command)
    }

    /// `program` of the node's tree, in the node, without a shell; arguments may be added.
    pub(crate) fn native(&self, program: &str) -> Result<Command> {
        if !self.entered() {
            bail!("n{} is down", self.index);
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ >"$0" && exec nsenter "$@""#])
            .arg(self.cgroup.join(EXEC).join("cgroup.procs"))
            .args(["-t", &self.pid()?.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--", program]);
        Ok(command)
    }

    fn pid(&self) -> Result<i32> {
        let text =
            fs::read_to_string(self.dir.join("pid")).with_context(|| format!("n{} is down", self.index))?;
        text.trim().parse().context("the node's pid file")
    }
}

fn first_child(pid: u32) -> Result<Option<i32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(text.split_whitespace().next().and_then(|word| word.parse().ok()))
}

/// `--kill-child`: PID 1 does not outlive its parent, which holds the place in the build machine's process tree.
const START: &str = r#"echo $BASHPID >"$CGROUP/cgroup.procs"
exec setsid unshare --fork --pid --mount --uts --ipc --cgroup --net --kill-child bash "$INIT""#;

/// A node is root on the build machine's kernel: it may not set its clock, load modules into it or reach its ports.
const BOUNDING: &str = "-sys_time,-sys_module,-sys_rawio";

/// The cgroup of entered commands, below the node's.
const EXEC: &str = "lab";
