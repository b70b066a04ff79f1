//! The network namespace that holds the data plane.

use crate::id::NetworkId;

/// The wanted namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsSpec {
    /// File name under `/run/netns`.
    pub name: String,
    /// The network it serves.
    pub network: NetworkId,
    /// Other networks on this machine's disk: a namespace left by one of them may be replaced. One of a network that
    /// is not on this disk belongs to another daemon.
    pub siblings: Vec<NetworkId>,
}

impl NetnsSpec {
    /// The mark of ownership, kept as the alias (IFLA_IFALIAS) of the namespace's loopback link.
    pub fn alias(&self) -> String {
        owner_alias(&self.network)
    }
}

/// The alias every link of ours carries: proof of ownership that survives the daemon.
pub fn owner_alias(network: &NetworkId) -> String {
    format!("{OWNER_PREFIX}v1:{network}")
}

/// What an alias says: `Some(rest)` when the link is ours, whichever network it served.
pub fn owned_by_us(alias: Option<&str>) -> bool {
    alias.is_some_and(|text| text.starts_with(OWNER_PREFIX))
}

/// Prefix of every ownership mark.
pub const OWNER_PREFIX: &str = "ployz:";
