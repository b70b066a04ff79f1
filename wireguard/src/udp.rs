//! The UDP sockets: one per family, same port, in the namespace the process was started in.
//!
//! A host without IPv6 gets IPv4 alone, and the other way round. Sending never fails: WireGuard's timers
//! repeat what matters, and a route that is missing now may be there in a second.

use super::error::Error;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// The sockets of one listen port.
pub(super) struct Sockets {
    pub(super) v4: Option<Arc<UdpSocket>>,
    pub(super) v6: Option<Arc<UdpSocket>>,
    /// The port in use, never 0.
    pub(super) port: u16,
}

impl Sockets {
    /// Binds `port` (0: one that is free in both families) with the firewall mark (0: none).
    pub(super) fn bind(port: u16, mark: u32) -> Result<Self, Error> {
        let attempts = if port == 0 { RANDOM_PORT_ATTEMPTS } else { 1 };
        let mut last = io::Error::from(Errno::EAFNOSUPPORT);
        for _ in 0..attempts {
            match bind_both(port) {
                Ok(sockets) => {
                    sockets.set_mark(mark)?;
                    return Ok(sockets);
                }
                Err(error) => last = error,
            }
        }
        Err(Error::BindUdp { port, source: last })
    }

    /// Marks what is sent from now on; 0 takes the mark away.
    pub(super) fn set_mark(&self, mark: u32) -> Result<(), Error> {
        for socket in self.v4.iter().chain(&self.v6) {
            setsockopt(socket, sockopt::Mark, &mark)
                .map_err(|errno| Error::Mark { mark, source: errno.into() })?;
        }
        Ok(())
    }

    /// Sends one datagram, or drops it.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let Some(socket) = self.for_peer(to) else { return };
        if let Err(error) = socket.send_to(datagram, to) {
            tracing::debug!(%to, %error, "datagram dropped");
        }
    }

    fn for_peer(&self, to: SocketAddr) -> Option<&Arc<UdpSocket>> {
        if to.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

/// Datagrams on their way out, sent with one system call per family.
pub(super) struct Batch {
    arena: Vec<u8>,
    used: usize,
    queued: Vec<(usize, usize, SocketAddr)>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            arena: vec![0; ARENA],
            used: 0,
            queued: Vec::with_capacity(BATCH),
            headers: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Room for one more datagram of any size.
    pub(super) fn has_room(&self) -> bool {
        self.queued.len() < BATCH && self.arena.len() - self.used >= MAX_DATAGRAM
    }

    /// Queues the datagram that `fill` writes, if it writes one.
    pub(super) fn push(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<(SocketAddr, usize)>) {
        if let Some((to, length)) = fill(&mut self.arena[self.used..]) {
            self.queued.push((self.used, self.used + length, to));
            self.used += length;
        }
    }

    /// Sends everything; what the kernel refuses is dropped.
    pub(super) fn send(&mut self, sockets: &Sockets) {
        for v4 in [true, false] {
            let socket = if v4 { &sockets.v4 } else { &sockets.v6 };
            let Some(socket) = socket else { continue };
            let chosen = self.queued.iter().filter(|(_, _, to)| to.is_ipv4() == v4);
            let (slices, addresses): (Vec<_>, Vec<_>) = chosen
                .map(|(from, to, address)| {
                    ([IoSlice::new(&self.arena[*from..*to])], Some(SockaddrStorage::from(*address)))
                })
                .unzip();
            send_all(socket, &mut self.headers, &slices, &addresses);
        }
        self.queued.clear();
        self.used = 0;
    }
}

/// sendmmsg(2) stops at the first datagram it cannot send and names the error only if it is the first.
fn send_all(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    slices: &[[IoSlice<'_>; 1]],
    addresses: &[Option<SockaddrStorage>],
) {
    let (mut sent, mut waited) = (0, false);
    while sent < slices.len() {
        let result =
            sendmmsg(socket.as_raw_fd(), headers, &slices[sent..], &addresses[sent..], [], MsgFlags::empty());
        match result.map(Iterator::count) {
            Ok(count) if count > 0 => sent += count,
            Err(Errno::EINTR) => {}
            // The send buffer is full: the device is slower than we are. Give it a moment, once.
            Err(Errno::EAGAIN) if !waited => {
                waited = true;
                let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut ready, PollTimeout::from(SEND_WAIT_MS));
            }
            Err(Errno::EAGAIN) => return,
            refused => {
                tracing::debug!(?refused, "datagram dropped");
                sent += 1;
            }
        }
    }
}

fn bind_both(port: u16) -> io::Result<Sockets> {
    let v4 = supported(bind_one(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()))?;
    let port = v4.as_ref().map_or(Ok(port), |socket| socket.local_addr().map(|address| address.port()))?;
    let v6 = supported(bind_one(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()))?;
    let port = v6.as_ref().map_or(Ok(port), |socket| socket.local_addr().map(|address| address.port()))?;
    if v4.is_none() && v6.is_none() {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    Ok(Sockets { v4: v4.map(Arc::new), v6: v6.map(Arc::new), port })
}

/// A family the host does not have is no error.
fn supported(socket: io::Result<UdpSocket>) -> io::Result<Option<UdpSocket>> {
    match socket {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT) => Ok(None),
            _ => Err(error),
        },
    }
}

fn bind_one(domain: Domain, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Past net.core.rmem_max with CAP_NET_ADMIN; without it the default has to do.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The largest datagram: 65535 bytes of inner packet, header and tag, rounded up.
pub(super) const MAX_DATAGRAM: usize = 65_536 + 64;

/// Datagrams per system call.
pub(super) const BATCH: usize = 64;

/// Holds a full batch at the usual MTU and always at least one datagram of any size.
const ARENA: usize = BATCH * 2048 + MAX_DATAGRAM;

/// Bytes; 7 MiB as wireguard-go asks for, some 40 ms at a gigabit.
const SOCKET_BUFFER: usize = 7 << 20;

/// How long a full send buffer may hold up the sender, in milliseconds.
const SEND_WAIT_MS: u8 = 20;

/// A port that is free for IPv4 may be taken for IPv6.
const RANDOM_PORT_ATTEMPTS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_port_is_the_same_in_both_families() {
        let sockets = Sockets::bind(0, 0).unwrap();
        for socket in sockets.v4.iter().chain(&sockets.v6) {
            assert_eq!(socket.local_addr().unwrap().port(), sockets.port);
        }
        assert!(matches!(Sockets::bind(sockets.port, 0), Err(Error::BindUdp { .. })));
    }

    #[test]
    fn one_refused_datagram_does_not_hold_back_the_others() {
        let sockets = Sockets::bind(0, 0).unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap();
        let mut batch = Batch::new();
        // Port 0 is EINVAL for sendmsg(2).
        for to in [address, "127.0.0.1:0".parse().unwrap(), address] {
            assert!(batch.has_room());
            batch.push(|dst| {
                dst[..4].copy_from_slice(b"ping");
                Some((to, 4))
            });
        }
        batch.send(&sockets);
        let mut buffer = [0; 16];
        for _ in 0..2 {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 4);
        }
    }
}
