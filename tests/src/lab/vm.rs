//! A node of lane `vm`: a QEMU machine with its own Debian kernel, emulated (no KVM), commanded over ssh.
//!
//! Its disk is a qcow2 overlay on the shared image. A node that asks for honest power cuts writes it with `cache=none`:
//! what the guest did not flush dies with QEMU, as in a machine that loses power. The others use `cache=unsafe`.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::host::{self, Input, Running, quote};
use super::image::Image;
use super::net::Net;
use super::node::{ENVIRONMENT, Entry};
use super::poll;
use super::qmp::Qmp;

#[derive(Debug)]
pub(crate) struct VmMachine {
    name: String,
    index: usize,
    dir: PathBuf,
    image: Image,
    net: Arc<Net>,
    power_cut: bool,
}

impl VmMachine {
    pub(crate) fn new(
        lab: &str,
        index: usize,
        dir: &Path,
        image: &Image,
        net: Arc<Net>,
        power_cut: bool,
    ) -> Self {
        Self {
            name: format!("{lab}-n{index}"),
            index,
            dir: dir.to_owned(),
            image: image.clone(),
            net,
            power_cut,
        }
    }

    /// Starts QEMU; with `snapshot` the machine comes up paused in that state, to be continued with [`Self::hold_cpu`].
    pub(crate) fn boot(&self, snapshot: Option<&str>) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        let disk = self.disk();
        if !disk.exists() {
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(self.image.file("root.img"));
            host::sh(create.arg(&disk))?;
        }
        let cards = self.net.plug_tap(self.index)?;
        let mut command = self.net.command("qemu-system-x86_64");
        command.args(["-name", &self.name, "-accel", "tcg,thread=multi,tb-size=256"]).args(self.hardware());
        command.arg("-kernel").arg(self.image.file("vmlinuz")).arg("-initrd").arg(self.image.file("initrd"));
        let cache = if self.power_cut { "none" } else { "unsafe" };
        command.args(["-drive", &format!("file={},if=virtio,discard=unmap,cache={cache}", disk.display())]);
        for (n, (tap, mac)) in cards.iter().enumerate() {
            command.args(["-netdev", &format!("tap,id=c{n},ifname={tap},script=no,downscript=no,vhost=off")]);
            command.args(["-device", &format!("virtio-net-pci,netdev=c{n},mac={mac},romfile=")]);
        }
        command
            .args(["-device", "virtio-rng-pci", "-device", "vmgenid,guid=auto", "-daemonize", "-pidfile"])
            .arg(self.dir.join("pid"));
        command.args(["-chardev", &format!("file,id=s,path={},append=on", self.path("console.log"))]);
        command.args([
            "-serial",
            "chardev:s",
            "-qmp",
            &format!("unix:{},server=on,wait=off", self.socket()?),
        ]);
        if let Some(name) = snapshot {
            command.args(["-S", "-loadvm", name]);
        }
        host::sh(&mut command).map(drop)
    }

    /// What the machine is, without what differs from lab to lab.
    pub(super) fn hardware(&self) -> Vec<String> {
        let (i, k, id) = (self.index, self.net.underlays(), format!("7777{:028}", self.index));
        let append = format!("{APPEND} lab.underlays={k} systemd.hostname=n{i} systemd.machine_id={id}");
        let (cpu, memory) = (CPU.as_str(), setting("PLOYZ_LAB_MEM", "1024"));
        let processors = setting("PLOYZ_LAB_CPUS", "1"); // a second one hangs now and then: `ready::Hung`
        [
            "-machine",
            "q35,usb=off,vmport=off",
            "-cpu",
            cpu,
            "-smp",
            &processors,
            "-m",
            &memory,
            "-append",
            &append,
        ]
        .into_iter()
        .chain(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .map(str::to_owned)
        .collect()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("root.qcow2")
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn alive(&self) -> bool {
        self.pid().is_some()
    }

    /// Kills QEMU, as a power cut does.
    pub(crate) fn kill(&self) -> Result<()> {
        let control = self.dir.join("ssh.sock");
        if control.exists() {
            let mut exit = Command::new("ssh");
            let _ = host::sh(
                exit.arg("-o").arg(format!("ControlPath={}", control.display())).args(["-O", "exit", "x"]),
            );
            fs::remove_file(control).ok();
        }
        if let Some(pid) = self.pid() {
            kill(pid, Signal::SIGKILL).context("kill QEMU")?;
            poll(Duration::from_secs(20), "QEMU to die", || Ok(self.pid().is_none().then_some(())))?;
        }
        fs::remove_file(self.dir.join("pid")).ok();
        self.net.unplug(self.index);
        Ok(())
    }

    /// Stops or continues QEMU as a process: the machine answers nothing and its clock stands still.
    pub(crate) fn hold(&self, frozen: bool) -> Result<()> {
        let pid = self.pid().with_context(|| format!("n{} is down", self.index))?;
        kill(pid, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT }).context("signal QEMU")
    }

    /// Pauses or continues the machine's processors, through the monitor.
    pub(crate) fn hold_cpu(&self, paused: bool) -> Result<()> {
        Qmp::connect(&self.dir.join("qmp.sock"))?.execute(if paused { "stop" } else { "cont" }, json!({}))?;
        Ok(())
    }

    /// Keeps memory and disk of the paused machine under `name`.
    pub(crate) fn save(&self, name: &str) -> Result<()> {
        Qmp::connect(&self.dir.join("qmp.sock"))?.human(&format!("savevm {name}"))
    }

    pub(crate) fn enter(&self, script: &str, entry: Entry) -> Result<Command> {
        // The ssh session sits in the network namespace of the command link: step over into the machine's own.
        let mut remote = "exec nsenter -t 1 -m -n -- env".to_owned();
        for word in ENVIRONMENT {
            remote.push_str(&format!(" {word}"));
        }
        if let Entry::Limited(limit) = entry {
            remote.push_str(&format!(" timeout -k 2 {:.1}", limit.as_secs_f64()));
        }
        remote.push_str(&format!(" bash -c {}", quote(script)));
        let mut command = self.net.command("ssh");
        command.arg("-i").arg(self.image.file("id_ed25519"));
        command.arg("-o").arg(format!("ControlPath={}", self.path("ssh.sock")));
        for option in SSH {
            command.args(["-o", option]);
        }
        // A terminal at the far end never sees the end of what is piped in.
        if matches!(entry, Entry::Terminal) && std::io::stdin().is_terminal() {
            command.arg("-tt");
        }
        command.arg(format!("root@10.79.0.1{}", self.index)).arg("--").arg(remote);
        Ok(command)
    }

    /// Sets the clock, which stood still between a snapshot and its restore.
    pub(crate) fn set_clock(&self) -> Result<()> {
        let run = |script: &str| -> Result<()> {
            let mut command = self.enter(script, Entry::Limited(Duration::from_secs(40)))?;
            let output = Running::start(&mut command, Input::Nothing)?.finish(Duration::from_secs(45))?;
            if output.ok() { Ok(()) } else { bail!("set the clock: {}", output.describe()) }
        };
        run("true")?; // opens the connection: its key exchange takes seconds, which the clock would lag behind
        let now = std::time::UNIX_EPOCH.elapsed().context("the clock")?.as_secs_f64();
        run(&format!("date -s @{:.2}", now + 0.1))
    }

    fn pid(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()?;
        // Empty for a zombie, another program's for a reused pid.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        words.split(|&byte| byte == 0).any(|word| word == self.name.as_bytes()).then(|| Pid::from_raw(pid))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn socket(&self) -> Result<String> {
        let path = self.path("qmp.sock");
        // ssh adds 17 characters to the name of its own socket while it is made.
        if path.len() > 107 - 17 {
            bail!("{path} is too long for a Unix socket: set PLOYZ_LAB to a shorter directory");
        }
        Ok(path)
    }
}

/// Saves all machines in one consistent cut: none runs while another is being saved, or WireGuard would see replays.
pub(crate) fn save_all(machines: &[&VmMachine], name: &str) -> Result<()> {
    machines.iter().try_for_each(|machine| machine.hold_cpu(true))?;
    let saved = machines.iter().try_for_each(|machine| machine.save(name));
    machines.iter().try_for_each(|machine| machine.hold_cpu(false))?;
    saved
}

/// Ends all machines and starts them again from a saved state. A new QEMU each: `loadvm` in a running one lets the TSC jump.
pub(crate) fn restore_all(machines: &[&VmMachine], name: &str) -> Result<()> {
    thread::scope(|scope| {
        let boots: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(move || machine.kill().and_then(|()| machine.boot(Some(name)))))
            .collect();
        boots.into_iter().try_for_each(|boot| boot.join().unwrap_or_else(|_| bail!("a boot panicked")))
    })?;
    machines.iter().try_for_each(|machine| machine.hold_cpu(false))
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// QEMU before 8 leaves garbage in EFLAGS after cmpxchg16b, which now and then kills the guest's kernel.
static CPU: LazyLock<String> = LazyLock::new(|| {
    let version = host::sh(Command::new("qemu-system-x86_64").arg("--version")).unwrap_or_default();
    let major = version.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    let old = major.is_some_and(|major| major < 8);
    format!("max,la57=off,svm=off{}", if old { ",cx16=off" } else { "" })
});

const APPEND: &str = "console=ttyS0 quiet panic=1 mitigations=off audit=0 lsm=yama nowatchdog \
    net.ifnames=0 systemd.show_status=0";

const SSH: &[&str] = &[
    "LogLevel=ERROR",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "ControlMaster=auto",
    "ControlPersist=600",
    "ConnectTimeout=20",
    "KexAlgorithms=curve25519-sha256",
    "Ciphers=aes128-gcm@openssh.com",
];
