//! The network namespace `ployz`: made, found, entered and removed.
//!
//! `setns` and `unshare` act on a thread, so both happen only on throw-away threads that end right after. What a
//! thread opens inside (sockets, netlink connections) stays inside for ever and is driven by the normal runtime.

use crate::error::{Context, Error, Result};
use crate::netlink::Rtnl;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, chown};
use ployz_core::adopt::Seen;
use ployz_core::live::{NetnsLive, NsId};
use ployz_core::spec::NetnsSpec;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Directory that `ip netns` uses.
pub const NETNS_DIR: &str = "/run/netns";

/// `/run/netns/<name>`.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Runs `work` on a throw-away thread inside the namespace of `file`. Blocks until it is done.
pub fn inside<T: Send>(file: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let target = File::open(file).doing("open namespace", file.display().to_string())?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&target, CloneFlags::CLONE_NEWNET)?;
            Ok::<T, nix::Error>(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .doing("enter namespace", file.display().to_string())
}

/// Identity of a namespace file; `None` when it does not exist or is not a namespace (a stale mount point).
pub fn id_of(file: &Path) -> Result<Option<NsId>> {
    let subject = || file.display().to_string();
    match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("inspect namespace", subject()),
        Ok(meta) => {
            let stat = nix::sys::statfs::statfs(file).doing("inspect namespace", subject())?;
            let is_namespace = stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC;
            Ok(is_namespace.then(|| NsId { device: meta.dev(), inode: meta.ino() }))
        }
    }
}

/// Identity of the network namespace that a process is in.
pub fn id_of_process(pid: u32) -> Result<Option<NsId>> {
    id_of(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// What is at the wanted place.
pub async fn inspect(spec: &NetnsSpec) -> Seen<NetnsLive> {
    let file = path(&spec.name);
    let found = match id_of(&file) {
        Ok(None) => return Seen::Absent,
        Ok(Some(id)) => id,
        Err(error) => return Seen::Unknown(ployz_core::text::chain(&error)),
    };
    let alias = async { Ok::<_, Error>(Rtnl::inside(&file)?.link("lo").await?.and_then(|lo| lo.alias)) };
    match alias.await {
        Ok(alias) => Seen::Present(NetnsLive { id: found, alias }),
        Err(error) => Seen::Unknown(ployz_core::text::chain(&error)),
    }
}

/// Makes the namespace, marks its loopback as ours and only then gives it its name, so that a name never stands
/// for an unmarked namespace.
pub async fn create(spec: &NetnsSpec) -> Result<()> {
    prepare_directory()?;
    let file = path(&spec.name);
    // A file without a namespace behind it is a mount point somebody (an earlier start) did not get to use.
    let target = File::options().create(true).append(true).open(&file);
    target.doing("create mount point", file.display().to_string())?;
    let (alias, runtime, point) = (spec.alias(), tokio::runtime::Handle::current(), file.clone());
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).doing("create namespace", point.display().to_string())?;
        runtime.block_on(async {
            let inside = Rtnl::here()?;
            let lo = inside.link("lo").await?.ok_or_else(|| Error::Protocol {
                operation: "find",
                subject: "lo".into(),
                detail: "a new namespace has no loopback".into(),
            })?;
            inside.set_alias(lo.index, &alias).await?;
            inside.set_up(lo.index).await
        })?;
        mount(Some("/proc/thread-self/ns/net"), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .doing("name namespace", point.display().to_string())
    });
    tokio::task::spawn_blocking(move || made.join())
        .await
        .map_err(io::Error::other)
        .doing("create namespace", file.display().to_string())?
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Takes the name away; the namespace ends with its last process and socket. The caller has proven it is ours.
pub fn remove(name: &str) -> Result<()> {
    let file = path(name);
    loop {
        // Several may lie on top of each other.
        match umount2(&file, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(errno) => return Err(errno).doing("unmount namespace", file.display().to_string()),
        }
    }
    unlink(&file)
}

/// Takes away what making or removing a namespace leaves when it is cut short: an empty file that no namespace is
/// behind. Anything else under that name stays.
pub fn remove_stale(name: &str) -> Result<()> {
    let file = path(name);
    if id_of(&file)?.is_some() {
        return Ok(());
    }
    match std::fs::symlink_metadata(&file) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => unlink(&file),
        _ => Ok(()),
    }
}

fn unlink(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing("remove namespace", file.display().to_string())
        }
        _ => Ok(()),
    }
}

/// As `ip netns add` does: the directory is a shared mount, so that a name made here is seen everywhere.
fn prepare_directory() -> Result<()> {
    let dir = Path::new(NETNS_DIR);
    if !dir.exists() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .doing("create directory", NETNS_DIR)?;
        // Whatever our umask and group are: it is everybody's directory, as `ip netns` makes it.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir, open).doing("set the mode of", NETNS_DIR)?;
        chown(dir, Some(Uid::from_raw(0)), Some(Gid::from_raw(0))).doing("set the owner of", NETNS_DIR)?;
    }
    let share = || mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share() == Err(nix::Error::EINVAL) {
        mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .doing("bind directory", NETNS_DIR)?;
        share().doing("share directory", NETNS_DIR)?;
    }
    Ok(())
}
