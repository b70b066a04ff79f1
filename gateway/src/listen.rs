//! The sockets the gateway listens on: handed over by the service manager, or opened here.
//!
//! The service manager's belong to the host's network namespace, although the gateway runs in another, and they stay open
//! while one gateway follows another (sd_listen_fds(3)). Their names say what they are for.

use socket2::{Domain, Protocol, SockRef, Socket as Raw, TcpKeepalive, Type};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::time::Duration;

/// What a socket is for; as text its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `http`, and `http6` for IPv6 beside it
    Http,
    /// `https`
    Https,
    /// `metrics`
    Metrics,
    /// `tcp-<port>`, and `tcp6-<port>` for IPv6 beside it: the TCP route of that port.
    Tcp(u16),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
            Self::Https => f.write_str("https"),
            Self::Metrics => f.write_str("metrics"),
            Self::Tcp(port) => write!(f, "tcp-{port}"),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    /// What for.
    pub kind: Kind,
    /// The socket, not blocking.
    pub listener: TcpListener,
}

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CannotListen {
    /// The service manager handed over something without a name that says what it is for.
    #[error(
        "socket {number} is named {name:?}, which is none of http, http6, https, metrics, tcp-<port> and tcp6-<port>"
    )]
    Name {
        /// Which one, from 0.
        number: usize,
        /// Its name.
        name: String,
    },
    /// It is no listening TCP socket.
    #[error("socket {number} ({kind}) cannot be used")]
    Inherited {
        /// Which one, from 0.
        number: usize,
        /// What for.
        kind: Kind,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// The sockets that were handed over; none outside of socket activation.
pub fn inherited() -> Result<Vec<Socket>, CannotListen> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed = listenfd::ListenFd::from_env();
    let names: Vec<&str> = names.split(':').collect();
    (0..handed.len())
        .map(|number| {
            let name = names.get(number).copied().unwrap_or_default();
            let kind = name.parse().map_err(|()| CannotListen::Name { number, name: name.to_owned() })?;
            let bad = |cause| CannotListen::Inherited { number, kind, cause };
            let taken = handed.take_tcp_listener(number).map_err(bad)?;
            let listener = taken.ok_or_else(|| bad(io::ErrorKind::NotFound.into()))?;
            listener.set_nonblocking(true).map_err(bad)?;
            keep_alive(SockRef::from(&listener));
            Ok(Socket { kind, listener })
        })
        .collect()
}

/// Opens a socket. `v6_only`: leaves IPv4 to another socket of this port; otherwise what the kernel does with `[::]`.
pub fn open(kind: Kind, address: SocketAddr, v6_only: bool) -> Result<Socket, CannotListen> {
    let open = || {
        let raw = Raw::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if v6_only {
            raw.set_only_v6(true)?;
        }
        raw.set_reuse_address(true)?;
        raw.bind(&address.into())?;
        raw.listen(BACKLOG)?;
        raw.set_nonblocking(true)?;
        keep_alive(SockRef::from(&raw));
        Ok(raw.into())
    };
    let listener = open().map_err(|cause| CannotListen::Bind { address, cause })?;
    Ok(Socket { kind, listener })
}

/// So that a peer that vanished without a word does not stay for ever; accepted connections have it from their listener.
/// Without it they would only stay longer, so a refusal changes nothing.
pub(crate) fn keep_alive(socket: SockRef<'_>) {
    let settings =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    let _ = socket.set_tcp_keepalive(&settings);
}

impl FromStr for Kind {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "http" | "http6" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            "metrics" => Ok(Self::Metrics),
            _ => {
                let port = name.strip_prefix("tcp-").or_else(|| name.strip_prefix("tcp6-"));
                let port = port.and_then(|port| port.parse().ok());
                port.filter(|port| *port > 0).map(Self::Tcp).ok_or(())
            }
        }
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sockets_say_what_they_are_for() {
        assert_eq!("http".parse(), Ok(Kind::Http));
        assert_eq!("tcp-5432".parse(), Ok(Kind::Tcp(5432)));
        assert_eq!(("http6".parse(), "tcp6-5432".parse()), (Ok(Kind::Http), Ok(Kind::Tcp(5432))));
        for bad in ["", "tcp-", "tcp-0", "tcp-70000", "tcp-x", "HTTP", "ployz-gateway.socket"] {
            assert_eq!(bad.parse::<Kind>(), Err(()), "{bad}");
        }
    }
    #[test]
    fn ipv6_alone_is_opened_beside_ipv4_on_one_port() {
        let four = open(Kind::Http, "0.0.0.0:0".parse().unwrap(), false).unwrap();
        let port = four.listener.local_addr().unwrap().port();
        let at = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
        assert!(matches!(open(Kind::Http, at, false), Err(CannotListen::Bind { .. })), "both families");
        let six = open(Kind::Http, at, true).unwrap();
        for (to, listener) in [("127.0.0.1", four.listener), ("::1", six.listener)] {
            listener.set_nonblocking(false).unwrap();
            let client = std::net::TcpStream::connect((to, port)).unwrap();
            assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        }
    }
}
