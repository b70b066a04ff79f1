//! The gateway and the DNS server: a process, and listening sockets that are not its own, so that one process follows
//! another without a connection refused.
//!
//! Everything that an operator may change is in the process's environment, and that is in a file which is read at
//! every start: such a change restarts the process and leaves unit and sockets alone.

use crate::adopt::identity::Identity;
use crate::spec::UnitSpec;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The wanted process with its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarSpec {
    /// The process. Its environment is in the file `settings` where a service manager starts it.
    pub unit: UnitSpec,
    /// Holds the environment; root's.
    pub settings: PathBuf,
    /// Its sockets, the one named as the unit first. Without any the process listens by itself.
    pub sockets: Vec<SocketSpec>,
}

/// Listening sockets with one name, one purpose and one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    /// Name of the unit, without suffix: the service's, or one that begins with it and a hyphen.
    pub name: String,
    /// What the process knows them by (`LISTEN_FDNAMES`).
    pub purpose: &'static str,
    /// Where they listen.
    pub listen: Vec<Listen>,
    /// The namespace that they are opened in (`None` = the host's).
    pub netns: Option<PathBuf>,
}

/// One address and how it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listen {
    /// TCP.
    Stream(SocketAddr),
    /// UDP.
    Datagram(SocketAddr),
}

impl SocketSpec {
    /// What makes live sockets the same sockets. Not identity: the length of queues.
    pub fn identity(&self) -> Identity {
        let listen = self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let netns = self.netns.as_ref().map_or_else(|| "host".into(), |path| path.display().to_string());
        Identity::new(BTreeMap::from([
            ("listen".to_owned(), listen),
            ("netns".to_owned(), netns),
            ("purpose".to_owned(), self.purpose.to_owned()),
        ]))
    }
}

impl Listen {
    /// `stream` or `datagram`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::Datagram(_) => "datagram",
        }
    }

    /// The address.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Stream(address) | Self::Datagram(address) => address,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.address())
    }
}
