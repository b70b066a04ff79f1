//! A network namespace as found.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Identity of a namespace: device and inode of its file. A recreated namespace has another inode although its
/// path is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NsId {
    /// `st_dev` of the namespace's file.
    pub device: u64,
    /// `st_ino` of the namespace's file.
    pub inode: u64,
}

/// The namespace behind `/run/netns/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsLive {
    /// Which namespace it is.
    pub id: NsId,
    /// Alias of its loopback link: our mark of ownership.
    pub alias: Option<String>,
}

impl fmt::Display for NsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}
