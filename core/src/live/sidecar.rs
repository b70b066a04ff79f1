//! A process with sockets of its service manager, as found.

use crate::adopt::identity::Identity;
use crate::live::{ActiveState, UnitLive};
use std::collections::{BTreeMap, BTreeSet};

/// Whatever of it is there; all absent is [`crate::adopt::Seen::Absent`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SidecarLive {
    /// The process. Its identity's environment is the one it really has; while it does not run, the file's.
    pub unit: Option<UnitLive>,
    /// Sockets by unit name without suffix.
    pub sockets: BTreeMap<String, SocketLive>,
    /// Purposes of the sockets that the running process was given; `None` where that cannot be told.
    pub given: Option<BTreeSet<String>>,
    /// By purpose, why a socket that a route asks for cannot be opened now.
    pub refused: BTreeMap<String, String>,
}

/// Sockets of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketLive {
    /// Their identity, read back.
    pub identity: Identity,
    /// The fingerprint they carry; `None` = they are not ours.
    pub fingerprint: Option<String>,
    /// Whether they listen.
    pub state: ActiveState,
}
