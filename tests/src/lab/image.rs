//! The Debian tree the nodes run, made once by `vm/build-image.sh` and kept in the lab's directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::Lane;

/// What `vm/build-image.sh` made.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    dir: PathBuf,
}

impl Image {
    /// Installs the host packages and builds the tree when they are missing (minutes), else only looks (milliseconds).
    pub(crate) fn prepare(lane: Lane) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab needs root: namespaces, bridges and cgroups");
        }
        script("setup-host.sh", lane)?;
        let dir = PathBuf::from(script("build-image.sh", lane)?.trim());
        Ok(Self { dir })
    }

    /// The tree that a running lab was made from.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The lab's directory: `$PLOYZ_LAB`, else `ployz-lab` in the user's cache.
pub(crate) fn home() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("PLOYZ_LAB")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("ployz-lab")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/ployz-lab")))
        .context("neither PLOYZ_LAB nor HOME is set")?;
    fs::create_dir_all(home.join("run")).with_context(|| format!("create {}", home.display()))?;
    home.canonicalize().with_context(|| home.display().to_string())
}

/// A file of `tests/vm/`.
pub(crate) fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm").join(name)
}

/// Runs a script of `tests/vm/`; its messages go to our standard error, its standard output is returned.
fn script(name: &str, lane: Lane) -> Result<String> {
    let mut command = Command::new(script_path(name));
    if lane == Lane::Ns {
        command.arg("-r");
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| name.to_owned())?;
    if !output.status.success() {
        bail!("{name} failed: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| name.to_owned())
}
