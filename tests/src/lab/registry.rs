//! Which labs exist, whose they are, and how one is removed.
//!
//! `run/ID/owner` holds the pid of the process that made the lab and is locked by it (flock), so "the owner is dead" is what
//! the kernel says and not a guess about a pid. A lab that outlives its process on purpose holds the file `kept`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cgroup, host, image, poll};

/// The right to a lab's name and directory; dropping it removes the lab.
pub(crate) struct Claim {
    name: String,
    dir: PathBuf,
    _lock: Option<File>,
}

impl Claim {
    /// Takes a new id, after removing what dead processes of ours left.
    pub(crate) fn new() -> Result<Self> {
        let run = image::home()?.join("run");
        let gate = gate(&run)?;
        for error in sweep(&run) {
            eprintln!("lab: leftovers stay: {error:#}");
        }
        let mut seed = UNIX_EPOCH.elapsed().context("the clock")?.subsec_nanos() ^ (std::process::id() << 8);
        loop {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let dir = run.join(format!("{:04x}", seed >> 16));
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| format!("create {}", dir.display()))?,
            }
            let name = name_of(&dir);
            if Path::new("/run/netns").join(&name).exists() {
                fs::remove_dir(&dir)?; // a lab of another PLOYZ_LAB directory
                continue;
            }
            let owner = File::create(dir.join("owner"))?;
            owner.lock().context("lock a new lab")?;
            fs::write(dir.join("owner"), std::process::id().to_string())?;
            drop(gate);
            return Ok(Self { name, dir, _lock: Some(owner) });
        }
    }

    /// A kept lab, which dropping does not remove.
    pub(crate) fn attach(dir: &Path) -> Result<Self> {
        if !dir.join("kept").exists() {
            bail!("{} is no kept lab", dir.display());
        }
        Ok(Self { name: name_of(dir), dir: dir.to_owned(), _lock: None })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(file), text).with_context(|| format!("write {file}"))
    }

    pub(crate) fn read(&self, file: &str) -> Result<String> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    pub(crate) fn keep(&self) -> Result<()> {
        self.write("kept", "")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.dir.join("kept").exists() {
            return;
        }
        if let Err(error) = remove(&self.dir) {
            eprintln!("lab: {} is not quite gone: {error:#}", self.name);
        }
    }
}

/// The directories of the labs that `lab up` or `lab run --keep` left running.
pub fn kept() -> Result<Vec<PathBuf>> {
    Ok(labs(&image::home()?.join("run")).into_iter().filter(|dir| dir.join("kept").exists()).collect())
}

/// Removes a kept lab.
pub fn remove_kept(dir: &Path) -> Result<()> {
    let claim = Claim::attach(dir)?;
    remove(&claim.dir)
}

/// Removes what dead processes left: labs whose owner is gone, and kept ones of before the machine's last boot.
pub fn remove_leftovers() -> Result<()> {
    let run = image::home()?.join("run");
    let _gate = gate(&run)?;
    sweep(&run).into_iter().next().map_or(Ok(()), Err)
}

/// Removes labs whose owner is dead, and kept ones of which nothing runs any more (the machine was rebooted).
fn sweep(run: &Path) -> Vec<anyhow::Error> {
    let dead = labs(run).into_iter().filter(|dir| {
        if dir.join("kept").exists() {
            return !Path::new("/run/netns").join(name_of(dir)).exists();
        }
        match File::open(dir.join("owner")) {
            Ok(owner) => !matches!(owner.try_lock(), Err(TryLockError::WouldBlock)),
            Err(_) => true,
        }
    });
    dead.filter_map(|dir| remove(&dir).err()).collect()
}

/// Ends a lab's processes and removes its cgroups, network and directory. Goes on after an error and returns the first.
///
/// Only what carries the lab's name is touched: members of its cgroups, and processes inside its network namespace.
fn remove(dir: &Path) -> Result<()> {
    let name = name_of(dir);
    let mut errors = Vec::new();
    for i in 1..=5 {
        let group = cgroup::mount().join(format!("{name}-n{i}"));
        errors.extend(cgroup::remove(&group).err());
    }
    errors.extend(remove_net(&name).err());
    // Files may still appear for a moment while the last process dies.
    let gone = poll(Duration::from_secs(5), "the lab's directory to go", || match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Some(())),
    });
    errors.extend(gone.err());
    errors.into_iter().next().map_or(Ok(()), |error| Err(error.context(name)))
}

fn remove_net(name: &str) -> Result<()> {
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    poll(Duration::from_secs(20), "the processes in the lab's network to die", || {
        let pids = host::sh(Command::new("ip").args(["netns", "pids", name]))?;
        for pid in pids.split_whitespace().filter_map(|word| word.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if pids.trim().is_empty() { Ok(Some(())) } else { bail!("pids {}", pids.replace('\n', " ")) }
    })?;
    host::sh(Command::new("ip").args(["netns", "del", name])).map(drop)
}

fn labs(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(run) else { return Vec::new() };
    let mut dirs: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

fn name_of(dir: &Path) -> String {
    format!("ployz-lab-{}", dir.file_name().unwrap_or_default().to_string_lossy())
}

/// Held while labs are made or swept: a lab is never seen between its directory and its lock.
fn gate(run: &Path) -> Result<File> {
    let gate = File::create(run.join(".gate")).context("the gate of the lab directory")?;
    gate.lock().context("the gate of the lab directory")?;
    Ok(gate)
}
