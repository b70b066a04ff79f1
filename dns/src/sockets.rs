//! The sockets: inherited from the unit that owns them, or made here.
//!
//! Inherited ones are shared with the process before and the one after; nothing about them is changed but what tokio needs.

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, UdpSocket};

/// What is listened on.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For datagrams.
    pub udp: Vec<UdpSocket>,
    /// For connections.
    pub tcp: Vec<TcpListener>,
    /// For Prometheus.
    pub metrics: Option<TcpListener>,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A descriptor that was passed.
    #[error("taking over descriptor {name:?}, number {index} of those passed")]
    Inherit {
        /// Its name.
        name: String,
        /// Its place.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An address.
    #[error("listening on {address} ({kind})")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        kind: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither descriptors nor addresses.
    #[error("nothing to listen on: no sockets were passed and no addresses were given")]
    Nothing,
}

impl Sockets {
    /// Takes what was passed, else listens on `addresses`. Must be called on the runtime.
    pub fn open(addresses: &[SocketAddr], metrics: Option<SocketAddr>) -> Result<Self, Error> {
        let mut sockets = Self::inherited()?;
        if sockets.udp.is_empty() && sockets.tcp.is_empty() {
            for address in addresses {
                let bind = |kind| move |source| Error::Bind { address: *address, kind, source };
                sockets.udp.push(udp(*address).map_err(bind("UDP"))?);
                sockets.tcp.push(tcp(*address).map_err(bind("TCP"))?);
            }
        }
        if let (None, Some(address)) = (&sockets.metrics, metrics) {
            let bind = |source| Error::Bind { address, kind: "TCP", source };
            sockets.metrics = Some(tcp(address).map_err(bind)?);
        }
        if sockets.udp.is_empty() { Err(Error::Nothing) } else { Ok(sockets) }
    }

    fn inherited() -> Result<Self, Error> {
        let mut passed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut sockets = Self::default();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let failed = |source| Error::Inherit { name: name.clone(), index, source };
            // A socket unit gives all its sockets one name, so the kind is asked of the socket, not of the name.
            if let Ok(Some(socket)) = passed.take_udp_socket(index) {
                socket.set_nonblocking(true).map_err(failed)?;
                sockets.udp.push(UdpSocket::from_std(socket).map_err(failed)?);
            } else if let Some(listener) = passed.take_tcp_listener(index).map_err(failed)? {
                listener.set_nonblocking(true).map_err(failed)?;
                let listener = TcpListener::from_std(listener).map_err(failed)?;
                if name == METRICS {
                    sockets.metrics = Some(listener);
                } else {
                    sockets.tcp.push(listener);
                }
            }
        }
        Ok(sockets)
    }
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = prepared(address, Type::DGRAM, Protocol::UDP)?;
    // Silently cut to net.core.rmem_max; a socket unit's `ReceiveBuffer=` is not.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = prepared(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The address may come after the process: at boot the tunnel is made while this starts.
fn prepared(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    Ok(socket)
}

const METRICS: &str = "metrics";
/// Bytes. A small query takes about 800 of them in the kernel: what comes in half a second at 10,000 a second.
const RECEIVE_BUFFER: usize = 4 << 20;
const BACKLOG: i32 = 1024;
