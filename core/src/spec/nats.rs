//! The store's process and its settings.

use crate::spec::UnitSpec;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The wanted store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsSpec {
    /// The process. Everything that cannot be reloaded is named in its environment.
    pub unit: UnitSpec,
    /// Where its configuration is.
    pub config_path: PathBuf,
    /// Its whole text.
    pub config: String,
    /// Revision of the reloadable settings; the server reports the one it runs with.
    pub revision: String,
}

/// What part a machine's server plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsRole {
    /// The bootstrap node: standalone JetStream that holds the store.
    Founder,
    /// Leaf node of the founder at this overlay address.
    Leaf {
        /// The founder's overlay address.
        founder: Ipv6Addr,
    },
}
