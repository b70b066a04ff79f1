//! What can stop the process. Refusals of a single request are [`super::uapi::Refusal`] and stop nothing.

use std::io;
use std::path::PathBuf;

/// A failure that ends the process, or that keeps it from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name the kernel takes for an interface.
    #[error("interface name {0:?} is not 1 to 15 characters without '/', ':' or white space")]
    InterfaceName(String),
    /// The namespace file cannot be opened.
    #[error("open network namespace {path}")]
    OpenNetns {
        /// The file asked for.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// setns(2) failed: the file is no network namespace, or CAP_SYS_ADMIN is missing.
    #[error("enter network namespace {path}")]
    EnterNetns {
        /// The file asked for.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// `/dev/net/tun` cannot be opened: the `tun` module is absent, or the device is not allowed here.
    #[error("open /dev/net/tun")]
    OpenTun(#[source] io::Error),
    /// An interface of that name is there already; it is not ours, so it is left alone.
    #[error("interface {interface} exists already in {netns}")]
    InterfaceExists {
        /// The name asked for.
        interface: String,
        /// The namespace looked at.
        netns: PathBuf,
    },
    /// TUNSETIFF failed otherwise.
    #[error("create interface {interface}")]
    CreateInterface {
        /// The name asked for.
        interface: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The interface went away under us.
    #[error("read from interface {interface}")]
    ReadTun {
        /// Its name.
        interface: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// Neither an IPv4 nor an IPv6 UDP socket could be bound.
    #[error("bind UDP port {port}")]
    BindUdp {
        /// The port asked for, 0 for any.
        port: u16,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// SO_MARK was refused.
    #[error("mark UDP sockets with {mark:#x}")]
    Mark {
        /// The mark asked for.
        mark: u32,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// Another process answers on the control socket.
    #[error("control socket {0} belongs to a process that is alive")]
    SocketLive(PathBuf),
    /// Something that is no socket lies at the place of the control socket.
    #[error("{0} is in the way of the control socket and is not a socket")]
    SocketBlocked(PathBuf),
    /// The control socket or its directory cannot be made.
    #[error("make control socket {path}")]
    Socket {
        /// The path that failed.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("start thread {name}")]
    Spawn {
        /// The thread.
        name: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A thread died of a bug; the tunnel would be half alive, so the process ends.
    #[error("thread {0} panicked")]
    Panicked(String),
    /// A descriptor of the process itself (eventfd, signalfd, poll) failed.
    #[error("{operation}")]
    Own {
        /// What was attempted.
        operation: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err` on calls about the process's own descriptors.
    pub(super) fn own<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Own { operation, source: source.into() }
    }
}
