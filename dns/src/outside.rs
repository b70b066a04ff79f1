//! Sockets of the host's network namespace for a process in another one: `ployz-sockets` opens them, and passes them on over
//! a socket in the file system (unix(7), SCM_RIGHTS).
//!
//! A socket stays in the namespace it was opened in, whichever process holds it. So the DNS server asks a resolver on the host's
//! loopback, on a link of the host or by IPv6 as it asks any other, and neither has a route that the other should not have.
//! One connection asks for one socket: `udp fe80::1%eth0 53` and a newline; the answer is `ok` with the socket, or why not.

use ployz_core::resolv::Nameserver;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// What is wanted: a socket that is connected, or in the middle of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// UDP or TCP.
    pub kind: Kind,
    /// Where to.
    pub nameserver: Nameserver,
    /// And which port of it.
    pub port: u16,
}

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    /// Datagrams.
    Udp,
    /// A connection; its socket is passed on before the other side has answered.
    Tcp,
}

/// Asks the process behind `opener` for a socket. It does not block.
pub async fn ask(opener: &Path, wanted: &Wanted) -> io::Result<OwnedFd> {
    let mut stream = UnixStream::connect(opener).await?;
    stream.write_all(format!("{wanted}\n").as_bytes()).await?;
    let (word, socket) = stream.async_io(Interest::READABLE, || receive(&stream)).await?;
    socket.ok_or_else(|| {
        io::Error::other(if word.is_empty() { "no socket was passed".to_owned() } else { word })
    })
}

/// Opens sockets for all who may connect, until `stop`.
pub async fn serve(listener: UnixListener, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(PLACES));
    tokio::pin!(stop);
    loop {
        // Cancel-safe: a connection that is not accepted stays in the backlog.
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match (accepted, places.clone().acquire_owned().await) {
            (Ok((stream, _)), place) => {
                tokio::spawn(async move {
                    let _place = place;
                    if !matches!(tokio::time::timeout(QUESTION_TIMEOUT, one(stream)).await, Ok(Ok(()))) {
                        tracing::debug!("a connection sent no query");
                    }
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of descriptors: they come back when connections end.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line).await?;
    let opened = match line.trim_end().parse::<Wanted>() {
        Ok(wanted) => wanted.open(),
        Err(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
    };
    match opened {
        Ok(socket) => stream.async_io(Interest::WRITABLE, || send(&stream, &socket)).await,
        Err(error) => stream.write_all(error.to_string().as_bytes()).await,
    }
}

impl Wanted {
    /// Opens it here.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let address = self.address()?;
        let (kind, protocol) = match self.kind {
            Kind::Udp => (Type::DGRAM, Protocol::UDP),
            Kind::Tcp => (Type::STREAM, Protocol::TCP),
        };
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(socket.into()),
        }
    }

    /// A zone is a name or a number, and means a link of the namespace this runs in.
    fn address(&self) -> io::Result<SocketAddr> {
        let IpAddr::V6(ip) = self.nameserver.ip else {
            return Ok(SocketAddr::new(self.nameserver.ip, self.port));
        };
        let scope = match self.nameserver.zone.as_deref() {
            None => 0,
            Some(zone) => match zone.parse() {
                Ok(index) => index,
                Err(_) => nix::net::if_::if_nametoindex(zone)?,
            },
        };
        Ok(SocketAddrV6::new(ip, self.port, 0, scope).into())
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        let [kind, nameserver, port] = words.as_slice() else { return Err("expected three words".into()) };
        let kind = kind.parse().map_err(|_| format!("{kind:?} is neither udp nor tcp"))?;
        let nameserver = nameserver.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { kind, nameserver, port: port.parse().map_err(|error| format!("{port:?}: {error}"))? })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.nameserver, self.port)
    }
}

fn send(stream: &UnixStream, socket: &OwnedFd) -> io::Result<()> {
    let passed = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(stream, &[IoSlice::new(b"ok")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The words, and the socket if one came with them.
fn receive(stream: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut word = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(stream, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok((String::from_utf8_lossy(&word[..read.bytes]).into_owned(), passed))
}

/// At once; what is wanted more waits in the backlog.
const PLACES: usize = 1024;
/// From a connection to its question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Octets of a question.
const LONGEST: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_are_written() {
        for text in ["udp 127.0.0.1 53", "tcp fe80::1%eth0 5353", "udp ::1 53"] {
            assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "udp",
            "raw 127.0.0.1 53",
            "udp 127.0.0.1",
            "udp 127.0.0.1 99999",
            "udp example.org 53",
            "udp 1.1.1.1 53 x",
        ] {
            assert!(text.parse::<Wanted>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_link_is_named_or_numbered_and_must_be_there() {
        let on = |zone: &str| format!("udp fe80::1%{zone} 53").parse::<Wanted>().unwrap().address();
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected: SocketAddr = SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, index).into();
        assert_eq!(on("lo").unwrap(), expected);
        assert_eq!(on(&index.to_string()).unwrap(), expected);
        assert!(on("nowhere").is_err());
    }
}
