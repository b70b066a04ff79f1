//! Sockets inside the namespace: made there by a throw-away thread, driven by the normal runtime.

use ployz_netns::namespace;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::path::Path;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Connects to an address as seen from inside the namespace.
pub async fn connect(netns: &Path, to: SocketAddr) -> io::Result<TcpStream> {
    let make = || if to.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() };
    let socket = namespace::inside(netns, make).map_err(io::Error::other)??;
    socket.connect(to).await
}

/// Listens on an address inside the namespace.
pub fn listen(netns: &Path, at: SocketAddrV6) -> io::Result<TcpListener> {
    let make = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::V6(at).into())?;
        socket.listen(128)?;
        Ok::<_, io::Error>(std::net::TcpListener::from(socket))
    };
    TcpListener::from_std(namespace::inside(netns, make).map_err(io::Error::other)??)
}

/// A raw ICMPv6 socket inside the namespace; the kernel fills in checksums (RFC 3542 section 3.1).
pub fn icmp(netns: &Path) -> io::Result<UdpSocket> {
    let make = || {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(std::net::UdpSocket::from(socket))
    };
    UdpSocket::from_std(namespace::inside(netns, make).map_err(io::Error::other)??)
}
