//! The cgroup of a node of lane `ns`: freezing, killing and removing everything in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::poll;

/// Where version 2 of the control groups is mounted: beside version 1 on hosts that still have that.
pub(crate) fn mount() -> PathBuf {
    let beside = PathBuf::from("/sys/fs/cgroup/unified");
    if beside.join("cgroup.procs").exists() { beside } else { PathBuf::from("/sys/fs/cgroup") }
}

/// Stops or continues every process and waits until that has happened.
pub(crate) fn freeze(group: &Path, frozen: bool) -> Result<()> {
    write(group, "cgroup.freeze", if frozen { "1" } else { "0" })?;
    let wanted = format!("frozen {}", i32::from(frozen));
    poll(Duration::from_secs(10), "the node to freeze or thaw", || {
        let events = events(group)?;
        if events.contains(&wanted) { Ok(Some(())) } else { bail!("{events}") }
    })
}

/// Kills every process, waits until the last is gone, and removes the tree. A group that does not exist is no error.
pub(crate) fn remove(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    write(group, "cgroup.kill", "1")?;
    poll(Duration::from_secs(20), "every process of the node to die", || {
        let events = events(group)?;
        if events.contains("populated 0") { Ok(Some(())) } else { bail!("{events}") }
    })?;
    // A group is busy for a moment after its last process.
    poll(Duration::from_secs(10), "the node's cgroups to go", || prune(group).map(Some))
}

fn events(group: &Path) -> Result<String> {
    fs::read_to_string(group.join("cgroup.events")).with_context(|| group.display().to_string())
}

fn prune(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            prune(&entry.path())?;
        }
    }
    fs::remove_dir(dir).with_context(|| format!("remove {}", dir.display()))
}

fn write(group: &Path, file: &str, text: &str) -> Result<()> {
    let path = group.join(file);
    fs::write(&path, text).with_context(|| path.display().to_string())
}
