//! What a feed is told when it is started.

use ployz_core::address::AddressPlan;
use ployz_core::id::{MachineId, NetworkId};
use std::net::SocketAddr;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What a feed needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Client address of this machine's NATS server, leaf or founder.
    pub server: SocketAddr,
    /// Seed of the NATS user to be; [`crate::permissions::follower`] says what that user must be allowed.
    pub seed: Seed,
    /// The network.
    pub network: NetworkId,
    /// Its addresses; `None` where that was not said.
    pub plan: Option<AddressPlan>,
    /// This machine.
    pub machine: MachineId,
    /// Who follows, one word: `gateway`, `dns`. Part of the names of inbox, consumer and connection.
    pub follower: &'static str,
    /// Where the last good state is kept for a start without NATS. Its directory must exist and be writable; two
    /// processes may share the file (a replacement and what it replaces).
    pub snapshot: Option<PathBuf>,
}

/// The seed of a NATS user; has no `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct Seed(Zeroizing<String>);

impl Seed {
    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }
}

impl From<String> for Seed {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}
