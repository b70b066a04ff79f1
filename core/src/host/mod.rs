//! What a running network relies on in its host and does not make itself alone: the table of it, and the judgement of
//! what was found.
//!
//! Each row is watched, and either owned and fixed, or reported. The table is printed in `docs/host.md`; the
//! scenario `host-changes-under-us` breaks every row.

pub mod judge;
pub mod mark;
pub mod table;

pub use mark::HostMark;
pub use table::{Done, HostPart, Row};

use std::fmt;

/// The way that the kernel would send a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Out of this link, by a route of this table.
    By {
        /// The link's name.
        link: String,
        /// The table's number.
        table: u32,
    },
    /// None; the kernel's words.
    None(String),
}

/// How much of something is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// So many are.
    pub used: u64,
    /// So many may be.
    pub limit: u64,
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: Free,
    /// Inodes; a file system that makes them as it needs them says 0 of 0.
    pub inodes: Free,
}

/// What is free of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// So much is.
    pub free: u64,
    /// So much there is.
    pub size: u64,
}

impl Free {
    /// In whole percent of all; nothing of nothing is 0.
    pub fn percent(self) -> u64 {
        u64::try_from((u128::from(self.free) * 100).checked_div(u128::from(self.size)).unwrap_or(0))
            .unwrap_or(0)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By { link, table } => write!(f, "leave by {link} (table {table})"),
            Self::None(why) => write!(f, "have no route: {why}"),
        }
    }
}
