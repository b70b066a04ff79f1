//! The store's process as found.

use crate::live::UnitLive;

/// The process and which settings it has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsLive {
    /// The server's unit or process.
    pub unit: UnitLive,
    /// Revision of the reloadable settings the server says it runs with; `None` = it does not answer yet.
    pub loaded: Option<String>,
}
