//! State on disk: everything a start needs when the control plane is away.
//!
//! Files are replaced whole ([`ployz_host::file`]): a power cut leaves the old or the new content and never half of one.

#[cfg(test)]
pub mod crash;
pub mod instances;

use instances::InstancesFile;
use nix::unistd::Gid;
use ployz_core::address::{AddressPlan, NodeSubnet, OverlayPrefix};
use ployz_core::host::HostMark;
use ployz_core::id::{InviteId, MachineId, NetworkId, NetworkName};
use ployz_core::key::{PrivateKey, stored};
use ployz_core::spec::TunnelBackend;
use ployz_core::wire::v1::record::{InviteRecord, MachineMembership};
use ployz_host::clock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failed operation on state files.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A system call.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is only made where there is nothing is there.
    #[error("{} is there already, and is not replaced", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// A file whose content is not what it should be.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        #[source]
        source: serde_json::Error,
    },
}

/// `network.json`: what this machine is in one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFile {
    /// Contract version: 1.
    pub version: u8,
    /// The network.
    pub id: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// Its addresses.
    pub plan: AddressPlan,
    /// Where it stands.
    pub lifecycle: Stored,
    /// This machine.
    pub machine: MachineMembership,
    /// The machine that holds the store.
    pub founder: Founder,
    /// Who runs the tunnel; chosen when the network is first started and kept.
    pub backend: Option<Backend>,
}

/// The machine that holds the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its id.
    pub id: MachineId,
    /// Its overlay address.
    pub overlay_ip: Ipv6Addr,
}

/// Where a network stands, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Stored {
    /// Should run.
    Running,
    /// Should not.
    Stopped,
    /// Is being destroyed: whatever finds it so finishes that.
    Leaving,
    /// Redeemed, not confirmed yet.
    Joining {
        /// Under this invite.
        invite: InviteId,
        /// Where it is confirmed.
        issuer: Ipv6Addr,
        /// Unix seconds after which it is given up.
        until: u64,
    },
}

/// [`TunnelBackend`] as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The kernel's.
    Kernel,
    /// Ours.
    Userspace,
}

/// `keys.json`, mode 0600: the machine's secrets in one network.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keys {
    /// WireGuard.
    #[serde(with = "stored")]
    pub wireguard: PrivateKey,
    /// Seed of its NATS user.
    pub nats_seed: Secret,
    /// Seed its invites are signed with, base64.
    pub signing_seed: Secret,
    /// Seeds of the NATS users of its sidecars; made by the first start that finds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarSeeds>,
    /// The invite they were made for: a repeated join uses them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<InviteId>,
}

/// Seeds of the NATS users of a machine's sidecars. Only this machine's own server knows these users.
#[derive(Clone, Serialize, Deserialize)]
pub struct SidecarSeeds {
    /// The gateway's.
    pub gateway: Secret,
    /// The DNS server's.
    pub dns: Secret,
}

/// A secret text without `Debug`, wiped when dropped.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// `peers.json`: the last known good members and invites.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeersFile {
    /// All members, this machine too.
    pub machines: Vec<MachineMembership>,
    /// Open invites that this machine issued.
    #[serde(default)]
    pub invites: Vec<InviteRecord>,
    /// Invites that were made while the network was not running: put into the store when it is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drafts: Vec<InviteRecord>,
}

/// `held.json`: another machine uses the identity of this state, and was there first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFile {
    /// Since when; Unix seconds.
    pub since: u64,
    /// How that is known.
    pub why: String,
}

/// The directory tree of one daemon.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
}

impl From<Backend> for TunnelBackend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Kernel => Self::Kernel,
            Backend::Userspace => Self::Userspace,
        }
    }
}

impl NetworkFile {
    /// The overlay prefix.
    pub fn prefix(&self) -> OverlayPrefix {
        OverlayPrefix::of(&self.id)
    }

    /// Whether this machine holds the store.
    pub fn is_founder(&self) -> bool {
        self.founder.id == self.machine.id
    }

    /// This machine's node subnet.
    pub fn subnet(&self) -> NodeSubnet {
        self.machine.subnet
    }
}

impl Secret {
    /// Of this text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text; must not reach a log, an argument list or a readable file.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // A `String` of the same length stays valid UTF-8 when every byte is zero.
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

impl Disk {
    /// Below `root`, which is made when missing.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        // 0711: the store's own user must reach its directory below; nobody else can list or read anything.
        make_dir(root, 0o711)?;
        make_dir(&root.join("networks"), 0o711)?;
        Ok(Self { root: root.to_owned() })
    }

    /// What is below `root`, which may not be there: for who only reads.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Directory of one network.
    pub fn network_dir(&self, name: &NetworkName) -> PathBuf {
        self.root.join("networks").join(name.as_str())
    }

    /// Directory of one network's store.
    pub fn nats_dir(&self, name: &NetworkName) -> PathBuf {
        self.network_dir(name).join("nats")
    }

    /// Names of the networks that have a record, sorted.
    pub fn networks(&self) -> Result<Vec<NetworkName>, DiskError> {
        let dir = self.root.join("networks");
        let entries = std::fs::read_dir(&dir).map_err(|source| io_error("list", &dir, source))?;
        let mut names: Vec<NetworkName> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())
            .filter(|name| self.network_dir(name).join(NETWORK).exists())
            .collect();
        names.sort();
        Ok(names)
    }

    /// What a removal left that was cut short; and directories without a record, which a join left that was: peers and
    /// half-written files go, keys are kept for a day, for whoever comes back with the same token.
    pub fn sweep(&self) -> Result<(), DiskError> {
        self.sweep_aside()?;
        let dir = self.root.join("networks");
        // ployzd alone writes here, and it has just begun.
        ployz_host::file::sweep(&self.root, Duration::ZERO);
        for entry in std::fs::read_dir(&dir).map_err(|source| io_error("list", &dir, source))?.flatten() {
            ployz_host::file::sweep(&entry.path(), Duration::ZERO);
            if entry.file_name().to_string_lossy().ends_with(REMOVED) {
                remove_tree(&entry.path())?;
                continue;
            }
            if entry.path().join(NETWORK).exists() {
                continue;
            }
            remove(&entry.path().join(PEERS))?;
            let keys = std::fs::metadata(entry.path().join(KEYS)).and_then(|meta| meta.modified());
            let forgotten = match keys {
                Ok(at) => at.elapsed().is_ok_and(|age| age > LEFTOVER_AGE),
                // Cut short before it held anything.
                Err(_) => std::fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_none()),
            };
            if forgotten {
                effect();
                let removed = std::fs::remove_dir_all(entry.path());
                removed.map_err(|source| io_error("remove", &entry.path(), source))?;
            }
        }
        Ok(())
    }

    /// A network's record; `None` when there is none.
    pub fn network(&self, name: &NetworkName) -> Result<Option<NetworkFile>, DiskError> {
        read(&self.network_dir(name).join(NETWORK))
    }

    /// Stores a network's record.
    pub fn put_network(&self, file: &NetworkFile) -> Result<(), DiskError> {
        let dir = self.network_dir(&file.name);
        make_dir(&dir, 0o711)?;
        write(&dir.join(NETWORK), file, 0o600)
    }

    /// A network's keys.
    pub fn keys(&self, name: &NetworkName) -> Result<Option<Keys>, DiskError> {
        read(&self.network_dir(name).join(KEYS))
    }

    /// Stores a network's keys.
    pub fn put_keys(&self, name: &NetworkName, keys: &Keys) -> Result<(), DiskError> {
        let dir = self.network_dir(name);
        make_dir(&dir, 0o711)?;
        write(&dir.join(KEYS), keys, 0o600)
    }

    /// The last known good peers; empty when there are none yet.
    pub fn peers(&self, name: &NetworkName) -> Result<PeersFile, DiskError> {
        Ok(read(&self.network_dir(name).join(PEERS))?.unwrap_or_default())
    }

    /// Stores the peers.
    pub fn put_peers(&self, name: &NetworkName, peers: &PeersFile) -> Result<(), DiskError> {
        write(&self.network_dir(name).join(PEERS), peers, 0o600)
    }

    /// Stores a new network with its first peers. The record makes it a network, so it is written last: whoever dies
    /// in between leaves no network without members. Where a record is, nothing is written: it is another network's.
    pub fn put_new(&self, file: &NetworkFile, peers: &PeersFile) -> Result<(), DiskError> {
        let path = self.network_dir(&file.name).join(NETWORK);
        // One that cannot be looked at is there.
        if path.try_exists().unwrap_or(true) {
            return Err(DiskError::Exists { path });
        }
        make_dir(&self.network_dir(&file.name), 0o711)?;
        self.put_peers(&file.name, peers)?;
        self.put_network(file)
    }

    /// What deploys made on this machine; `None` when they never made anything.
    pub fn instances(&self, name: &NetworkName) -> Result<Option<InstancesFile>, DiskError> {
        read(&self.network_dir(name).join(INSTANCES))
    }

    /// Stores it; the environment of containers is in it.
    pub fn put_instances(&self, name: &NetworkName, instances: &InstancesFile) -> Result<(), DiskError> {
        write(&self.network_dir(name).join(INSTANCES), instances, 0o600)
    }

    /// The machine that a network's state was made on; `None` in a state of before marks.
    pub fn host_mark(&self, name: &NetworkName) -> Result<Option<HostMark>, DiskError> {
        read(&self.network_dir(name).join(HOST))
    }

    /// Stores it.
    pub fn put_host_mark(&self, name: &NetworkName, mark: &HostMark) -> Result<(), DiskError> {
        write(&self.network_dir(name).join(HOST), mark, 0o600)
    }

    /// Why a network's identity is not used here; `None` when it is.
    pub fn held(&self, name: &NetworkName) -> Result<Option<HeldFile>, DiskError> {
        read(&self.network_dir(name).join(HELD))
    }

    /// Notes that it is not to be used here, or that it is again.
    pub fn set_held(&self, name: &NetworkName, held: Option<&HeldFile>) -> Result<(), DiskError> {
        let path = self.network_dir(name).join(HELD);
        match held {
            Some(held) => write(&path, held, 0o600),
            None => remove(&path),
        }
    }

    /// The active network's name.
    pub fn active(&self) -> Result<Option<NetworkName>, DiskError> {
        let path = self.root.join(ACTIVE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    /// Makes a network the active one, or none.
    pub fn set_active(&self, name: Option<&NetworkName>) -> Result<(), DiskError> {
        let path = self.root.join(ACTIVE);
        match name {
            Some(name) => replace(&path, format!("{name}\n").as_bytes(), 0o644),
            None => remove(&path),
        }
    }

    /// Notes a join whose tunnel is about to be opened, or that it is over. Whatever finds the note at its start
    /// knows that the tunnel is a leftover to be taken down.
    pub fn set_pending(&self, file: Option<&NetworkFile>) -> Result<(), DiskError> {
        let path = self.root.join(PENDING);
        match file {
            Some(file) => write(&path, file, 0o600),
            None => remove(&path),
        }
    }

    /// The noted join.
    pub fn pending(&self) -> Result<Option<NetworkFile>, DiskError> {
        read(&self.root.join(PENDING))
    }

    /// Removes everything of one network. It loses its name first: a removal that is cut short leaves nothing that a later
    /// network of the same name could take for its own, and the next start clears it away.
    pub fn remove_network(&self, name: &NetworkName) -> Result<(), DiskError> {
        let dir = self.network_dir(name);
        let removed = self.root.join("networks").join(format!(".{name}{REMOVED}"));
        remove_tree(&removed)?;
        effect();
        match std::fs::rename(&dir, &removed) {
            Ok(()) => sync_parent(&dir)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A file system is mounted there: it is emptied where it is.
            Err(_) => {
                remove(&dir.join(NETWORK))?;
                remove_tree(&dir)?;
            }
        }
        remove_tree(&removed)
    }

    /// Moves everything of one network to `removed/`, where [`Disk::sweep_aside`] deletes it a day later. One that cannot be moved, a
    /// file system of its own, is removed.
    pub fn set_network_aside(&self, name: &NetworkName) -> Result<(), DiskError> {
        let (dir, aside) = (self.network_dir(name), self.root.join(ASIDE));
        make_dir(&aside, 0o700)?;
        let to = aside.join(format!("{name}-{}", clock::now()));
        effect();
        if std::fs::rename(&dir, &to).is_err() {
            return self.remove_network(name);
        }
        sync_parent(&dir)?;
        sync_parent(&to)?;
        tracing::warn!(target: "audit", network = %name, directory = %to.display(), "network set aside for a day");
        Ok(())
    }

    /// Deletes what was set aside more than a day ago, by the time in its name.
    pub fn sweep_aside(&self) -> Result<(), DiskError> {
        let Ok(entries) = std::fs::read_dir(self.root.join(ASIDE)) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let at = name
                .to_str()
                .and_then(|name| name.rsplit_once('-'))
                .and_then(|(_, at)| at.parse::<u64>().ok());
            if at.is_some_and(|at| clock::now() > at.saturating_add(LEFTOVER_AGE.as_secs())) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The store in a network's directory that has no record, so that nobody can say whose it is.
    pub fn orphaned_store(&self, name: &NetworkName) -> Option<PathBuf> {
        let store = self.nats_dir(name);
        (store.exists() && !self.network_dir(name).join(NETWORK).exists()).then_some(store)
    }
}

/// What becomes of a network's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Deleted: this machine's operator said so.
    Delete,
    /// Kept for a day: another machine said so.
    SetAside,
}

impl Removal {
    /// Carries it out.
    pub fn apply(self, disk: &Disk, name: &NetworkName) -> Result<(), DiskError> {
        match self {
            Self::Delete => disk.remove_network(name),
            Self::SetAside => disk.set_network_aside(name),
        }
    }
}

/// Comes before every change on disk: a test kills the process here.
fn effect() {
    #[cfg(test)]
    crash::effect();
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> Result<(), DiskError> {
    effect();
    match std::fs::remove_file(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        other => other.map_err(|source| io_error("remove", path, source)),
    }
}

/// Removes a directory that may not be there, with all in it.
fn remove_tree(path: &Path) -> Result<(), DiskError> {
    effect();
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes a rename last over a power cut.
fn sync_parent(path: &Path) -> Result<(), DiskError> {
    ployz_host::file::sync_parent(path).map_err(|source| io_error("sync the directory of", path, source))
}

/// Makes a directory of exactly this mode, with its parents.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), DiskError> {
    effect();
    let result = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    result.map_err(|source| io_error("create", path, source))?;
    // The umask took bits away that the store's own user needs to pass through. A mode that is right is not written.
    if std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode) {
        return Ok(());
    }
    let set = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    set.map_err(|source| io_error("set the mode of", path, source))
}

/// Replaces a file so that a power cut leaves the old or the new content.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), DiskError> {
    replace_for(path, content, mode, None)
}

/// As [`replace`], readable by a group: owner and mode are right before the file has its name.
pub fn replace_for(path: &Path, content: &[u8], mode: u32, group: Option<Gid>) -> Result<(), DiskError> {
    effect();
    let written = ployz_host::file::replace(path, mode, |file| {
        if let Some(gid) = group {
            nix::unistd::fchown(&*file, None, Some(gid))?;
        }
        file.write_all(content)
    });
    written.map_err(|source| io_error("write", path, source))
}

fn write<T: Serialize>(path: &Path, value: &T, mode: u32) -> Result<(), DiskError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| DiskError::Damaged { path: path.to_owned(), source })?;
    text.push(b'\n');
    let result = replace(path, &text, mode);
    text.fill(0);
    result
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiskError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| DiskError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Io { operation, path: path.to_owned(), source }
}

const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);
/// Ends the name of a directory that is being removed; no network's name has a dot.
const REMOVED: &str = ".removed";
/// Networks that were destroyed on another machine's word.
const ASIDE: &str = "removed";
const NETWORK: &str = "network.json";
const KEYS: &str = "keys.json";
const PEERS: &str = "peers.json";
const INSTANCES: &str = "instances.json";
const HOST: &str = "host.json";
const HELD: &str = "held.json";
const PENDING: &str = "joining.json";
const ACTIVE: &str = "active_network";

#[cfg(test)]
mod tests;
