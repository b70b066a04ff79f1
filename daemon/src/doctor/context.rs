//! What the checks stand on, and the deadline of each.

use crate::network::context::Shared;
use crate::node::environment::NETNS;
use crate::reach;
use crate::state::{NetworkFile, PeersFile};
use ployz_core::config::Config;
use ployz_core::live::NodeLive;
use ployz_core::spec::NodeSpec;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// What the checks stand on.
pub(super) struct Ground<'a> {
    pub(super) shared: &'a Shared,
    pub(super) network: Option<Running>,
}

/// A network that should be running here.
pub(super) struct Running {
    pub(super) file: NetworkFile,
    pub(super) peers: PeersFile,
    pub(super) spec: NodeSpec,
    pub(super) live: NodeLive,
}

impl Ground<'_> {
    pub(super) fn config(&self) -> &Config {
        &self.shared.around.config
    }
}

/// A connection from inside the namespace, with a deadline.
pub(super) async fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    let netns = ployz_netns::namespace::path(NETNS);
    limited(reach::connect(&netns, to)).await.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()))
}

/// `None` when the deadline passes.
pub(super) async fn limited<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(CHECK_TIMEOUT, work).await.ok()
}

/// Everything here is on this machine or one round trip away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
