//! The gateway and the DNS server: a process, and listening sockets that are not its own, so that one process follows
//! another without a connection refused.
//!
//! Everything that an operator may change is in the process's environment, and that is in a file which is read at
//! every start: such a change restarts the process and leaves unit and sockets alone.

use crate::adopt::identity::Identity;
use crate::spec::{UnitName, UnitSpec};
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
    /// Sockets that come and go while those stay.
    pub routes: RouteSockets,
}

/// Sockets that routes ask for. Each is a matter of its own: one that cannot be had is not there, and the process and
/// all others are as they should be nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteSockets {
    /// Those that should be there.
    pub wanted: Vec<SocketSpec>,
    /// Whether any other goes: only who knows all that is asked for may take one away.
    pub complete: bool,
    /// By purpose, what is asked for and cannot be here, with the reason.
    pub refused: BTreeMap<String, String>,
}

/// Listening sockets with one name, one purpose and one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    /// Name of the unit, without suffix: the service's, or one that begins with it and a hyphen.
    pub name: String,
    /// What the process knows them by (`LISTEN_FDNAMES`).
    pub purpose: String,
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

impl SidecarSpec {
    /// Whether a socket unit of this name (without suffix) is one that routes ask for.
    pub fn is_route(&self, name: &str) -> bool {
        let after = name.strip_prefix(self.unit.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        after.is_some_and(is_route_purpose)
    }
}

impl RouteSockets {
    /// The socket for connections to one port of the gateway.
    pub fn tcp(unit: &UnitName, address: SocketAddr) -> SocketSpec {
        let purpose = tcp_purpose(address.port());
        SocketSpec {
            name: format!("{unit}-{purpose}"),
            purpose,
            listen: vec![Listen::Stream(address)],
            netns: None,
        }
    }
}

/// What a gateway knows the socket of a TCP route by.
pub fn tcp_purpose(port: u16) -> String {
    format!("{TCP}{port}")
}

/// Whether this is the purpose of a socket that a route asks for.
pub fn is_route_purpose(purpose: &str) -> bool {
    purpose.starts_with(TCP)
}

impl SocketSpec {
    /// What makes live sockets the same sockets. Not identity: the length of queues.
    pub fn identity(&self) -> Identity {
        let listen = self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let netns = self.netns.as_ref().map_or_else(|| "host".into(), |path| path.display().to_string());
        Identity::new(BTreeMap::from([
            ("listen".to_owned(), listen),
            ("netns".to_owned(), netns),
            ("purpose".to_owned(), self.purpose.clone()),
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

const TCP: &str = "tcp-";
