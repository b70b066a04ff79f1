//! Booted machines kept as files, so that the next lab of lane `vm` starts in seconds and not in a minute.
//!
//! Node I with the same hardware always boots into the same state. The first time that is done, the state is saved in its
//! disk (savevm) and the disk is copied beside the image; later labs start from a copy. A copy that does not load is deleted.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{self, Command};

use anyhow::{Context, Result};

use super::host;
use super::vm::VmMachine;

impl VmMachine {
    /// Starts a machine that has no disk yet from a kept state; `false` when there is none that works.
    pub(crate) fn boot_kept(&self) -> Result<bool> {
        let kept = self.kept_file();
        if !kept.exists() {
            return Ok(false);
        }
        fs::create_dir_all(self.dir())?;
        let started = copy(&kept, &self.disk())
            .and_then(|()| self.boot(Some(STATE)))
            .and_then(|()| self.hold_cpu(false))
            .and_then(|()| self.set_clock());
        if let Err(error) = started {
            eprintln!("lab: a kept machine does not start, so it boots: {error:#}");
            self.kill()?;
            fs::remove_file(&kept).ok();
            fs::remove_file(self.disk()).ok();
            return Ok(false);
        }
        Ok(true)
    }

    /// Keeps the state of a machine that has just booted.
    pub(crate) fn keep_booted(&self) -> Result<()> {
        let kept = self.kept_file();
        let new = kept.with_extension(process::id().to_string());
        fs::create_dir_all(kept.parent().context("a directory")?)?;
        self.hold_cpu(true)?;
        let copied = self.save(STATE).and_then(|()| copy(&self.disk(), &new));
        self.hold_cpu(false)?;
        copied?;
        fs::rename(&new, &kept).with_context(|| kept.display().to_string())
    }

    fn kept_file(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.hardware().hash(&mut hasher);
        self.image().file(&format!("booted/{:016x}.qcow2", hasher.finish()))
    }
}

fn copy(from: &PathBuf, to: &PathBuf) -> Result<()> {
    host::sh(Command::new("cp").args(["--reflink=auto", "--sparse=always"]).arg(from).arg(to)).map(drop)
}

const STATE: &str = "booted";
