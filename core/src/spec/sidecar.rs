//! The gateway and the DNS server: a process, and listening sockets that are not its own, so that one process follows
//! another without a connection refused.
//!
//! Everything that an operator may change is in the process's environment, and that is in a file which is read at
//! every start: such a change restarts the process and leaves unit and sockets alone.

use crate::adopt::identity::Identity;
use crate::spec::{UnitName, UnitSpec};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
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
    /// Sockets that come and go while those stay: of TCP routes, and of IPv6 beside IPv4.
    pub routes: RouteSockets,
}

/// Sockets that routes ask for, and those of IPv6 where both families are served. Each is a matter of its own: one that
/// cannot be had is not there, and the process and all others are as they should be nevertheless.
///
/// IPv6 has sockets of its own, beside those of IPv4 and not in their place: systemd cannot change a socket that is open, and a
/// gateway that served IPv4 alone goes on with the socket it has while the second one is opened.
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
    /// Whether they leave IPv4 alone (`IPV6_V6ONLY`), so that another socket has it on the same port.
    pub v6_only: bool,
}

/// One address and how it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Listen {
    /// A TCP listener on this address.
    Stream(SocketAddr),
    /// A UDP socket bound to this address.
    Datagram(SocketAddr),
}

impl SidecarSpec {
    /// Whether a socket unit of this name (without suffix) is one that routes ask for.
    pub fn is_route(&self, name: &str) -> bool {
        let after = name.strip_prefix(self.unit.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        after.is_some_and(is_route_purpose)
    }

    /// Whether such a socket unit may be closed when it is not asked for: what routes ask for only once all of it is known.
    pub fn may_close(&self, name: &str) -> bool {
        let http6 = name.strip_prefix(self.unit.name.as_str()).is_some_and(|rest| rest == HTTP6_SUFFIX);
        self.is_route(name) && (http6 || self.routes.complete)
    }
}

impl RouteSockets {
    /// The socket for connections to one port of the gateway.
    pub fn tcp(unit: &UnitName, address: SocketAddr) -> SocketSpec {
        route(unit, tcp_purpose(address.port()), address, false)
    }

    /// The one beside it where both families are served.
    pub fn tcp6(unit: &UnitName, port: u16) -> SocketSpec {
        route(unit, format!("{TCP6}{port}"), (Ipv6Addr::UNSPECIFIED, port).into(), true)
    }

    /// The one beside that of HTTP where both families are served.
    pub fn http6(unit: &UnitName, port: u16) -> SocketSpec {
        route(unit, HTTP6.to_owned(), (Ipv6Addr::UNSPECIFIED, port).into(), true)
    }
}

fn route(unit: &UnitName, purpose: String, address: SocketAddr, v6_only: bool) -> SocketSpec {
    SocketSpec {
        name: format!("{unit}-{purpose}"),
        purpose,
        listen: vec![Listen::Stream(address)],
        netns: None,
        v6_only,
    }
}

/// What a gateway knows the socket of a TCP route by.
pub fn tcp_purpose(port: u16) -> String {
    format!("{TCP}{port}")
}

/// Whether this is the purpose of a socket that a route asks for, or of one of IPv6.
pub fn is_route_purpose(purpose: &str) -> bool {
    is_tcp_purpose(purpose) || purpose == HTTP6
}

/// Whether this is the purpose of a TCP route's socket, of either family.
pub fn is_tcp_purpose(purpose: &str) -> bool {
    purpose.starts_with(TCP) || purpose.starts_with(TCP6)
}

impl SocketSpec {
    /// What makes live sockets the same sockets. Not identity: the length of queues.
    pub fn identity(&self) -> Identity {
        let listen = self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let netns = self.netns.as_ref().map_or_else(|| "host".into(), |path| path.display().to_string());
        let mut fields = BTreeMap::from([
            ("listen".to_owned(), listen),
            ("netns".to_owned(), netns),
            ("purpose".to_owned(), self.purpose.clone()),
        ]);
        // Named only where it is so: the fingerprints of sockets from before there was such a thing stay what they are.
        if self.v6_only {
            fields.insert(V6_ONLY_FIELD.to_owned(), V6_ONLY.to_owned());
        }
        Identity::new(fields)
    }
}

impl Listen {
    /// `stream` or `datagram`.
    pub fn kind(self) -> &'static str {
        self.into()
    }

    /// The address and port that it is bound to.
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

/// The field of a socket's identity that says which families it takes.
pub const V6_ONLY_FIELD: &str = "bind";
/// Its value: IPv6 and not IPv4 (the word of `BindIPv6Only=`, systemd.socket(5)).
pub const V6_ONLY: &str = "ipv6-only";
const TCP: &str = "tcp-";
const TCP6: &str = "tcp6-";
const HTTP6: &str = "http6";
const HTTP6_SUFFIX: &str = "-http6";
