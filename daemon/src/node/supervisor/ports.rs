//! Whether a socket that a route asks for can be opened: tried, on the very address, before anything is restarted for it.

use ployz_core::live::{ActiveState, SidecarLive};
use ployz_core::spec::{SidecarSpec, SocketSpec};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

/// By purpose, those of the wanted sockets that are not there and that somebody else keeps from being there. What the
/// process itself still holds is no obstacle: it lets go of it when it is restarted.
pub(super) fn refused(spec: &SidecarSpec, live: &SidecarLive) -> BTreeMap<String, String> {
    let missing = spec.routes.wanted.iter().filter(|socket| is_missing(socket, live));
    let asked = missing.filter(|socket| !live.given.iter().flatten().any(|given| *given == socket.purpose));
    asked.filter_map(|socket| Some((socket.purpose.clone(), taken(socket)?))).collect()
}

/// Whether no unit keeps this socket open.
pub(super) fn is_missing(socket: &SocketSpec, live: &SidecarLive) -> bool {
    live.sockets.get(&socket.name).is_none_or(|found| found.state == ActiveState::Inactive)
}

/// Why this socket cannot be opened now; `None` = it can.
pub fn taken(socket: &SocketSpec) -> Option<String> {
    let errors = socket.listen.iter().filter_map(|listen| {
        let address = listen.address();
        match open(address, socket.v6_only) {
            Ok(()) => None,
            // Units open their sockets on addresses that are still to come (FreeBind=).
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => None,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Some(format!("another program listens on {address}"))
            }
            Err(error) => Some(format!("{address}: {error}")),
        }
    });
    errors.reduce(|all, next| format!("{all}, {next}"))
}

/// Whether this kernel knows IPv6 at all: without (`ipv6.disable=1`, or built so) no socket of it can be opened. Switched off on
/// interfaces (`net.ipv6.conf.*.disable_ipv6`) it can, and serves as soon as it is on. What else fails says nothing about it.
pub fn has_ipv6() -> bool {
    let tried = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP));
    !tried.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT))
}

/// As systemd opens it, or the gateway itself; closed at once.
fn open(address: SocketAddr, v6_only: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if v6_only {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::spec::{RouteSockets, UnitName};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    fn wanted(port: u16) -> SocketSpec {
        RouteSockets::tcp(&UnitName::GATEWAY, (Ipv4Addr::LOCALHOST, port).into())
    }

    #[test]
    fn a_port_that_somebody_has_is_named_and_free_once_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let said = taken(&wanted(address.port())).unwrap();
        assert_eq!(said, format!("another program listens on {address}"));
        // A connection that lives on, or lingers, holds the address but not the port.
        let client = TcpStream::connect(address).unwrap();
        let (served, _) = listener.accept().unwrap();
        drop(listener);
        assert_eq!(taken(&wanted(address.port())), None);
        drop((served, client));
        assert_eq!(taken(&wanted(address.port())), None);
    }

    #[test]
    fn ipv6_beside_ipv4_is_free_until_a_listener_of_ipv6_has_the_port() {
        let four = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = four.local_addr().unwrap().port();
        let wanted = RouteSockets::tcp6(&UnitName::GATEWAY, port);
        assert_eq!(taken(&wanted), None);
        let six = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
        six.set_only_v6(true).unwrap();
        six.bind(&wanted.listen[0].address().into()).unwrap();
        six.listen(1).unwrap();
        assert_eq!(taken(&wanted).unwrap(), format!("another program listens on [::]:{port}"));
    }

    #[test]
    fn an_address_that_is_not_here_yet_is_no_obstacle() {
        let away = RouteSockets::tcp(&UnitName::GATEWAY, "192.0.2.1:5432".parse().unwrap());
        assert_eq!(taken(&away), None);
    }
}
