//! What a spec is made from besides the network, and where it lives.

use ployz_core::config::Config;
use std::path::PathBuf;

/// What a spec is made from besides the network.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The configuration.
    pub config: Config,
    /// Directory of `nats-server` and `ployz-wireguard`.
    pub libexec: PathBuf,
    /// The system user of the store, where the supervisor can change users.
    pub nats_user: Option<String>,
    /// MTU of the underlay.
    pub underlay_mtu: u32,
}

impl Environment {
    /// Whether a service manager runs the sidecars: under users of their own, and on sockets that it keeps.
    pub fn is_system(&self) -> bool {
        self.nats_user.is_some()
    }
}

/// Name of the namespace.
pub const NETNS: &str = "ployz";
