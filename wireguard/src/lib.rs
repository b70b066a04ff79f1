//! WireGuard in user space, for hosts whose kernel has none. The process is `ployz-wireguard`.
//!
//! It is configured like any other userspace WireGuard, over the socket that `wg` knows; nothing here knows of
//! Ployz. The interface lives in the network namespace it is told, the UDP sockets in the one the process was
//! started in. The noise protocol is [`boringtun::noise::Tunn`]; the device around it is ours, because
//! boringtun's own panics when an existing peer is changed.
//!
//! A plain `poll` thread per direction, no async runtime: the work is a loop over three descriptors.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot set up its stage must stop"))]

mod allowed;
mod datapath;
mod device;
mod error;
mod identity;
mod server;
mod state;
mod tun;
mod tunnel;
mod uapi;
mod udp;
mod worker;

pub use error::Error;

use device::Device;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use server::Server;
use state::Shared;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use tun::Tun;
use udp::Sockets;
use worker::{Fatal, Worker};

/// What to serve and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the interface to make, 1 to 15 characters.
    pub interface: String,
    /// File of the network namespace to make it in, such as `/run/netns/ployz`.
    pub netns: PathBuf,
    /// Directory of the control socket; made with mode 0700 if it is not there.
    pub uapi_dir: PathBuf,
    /// Queues of the interface, each read by a thread of its own.
    pub threads: usize,
}

/// Where the `wg` tool looks for control sockets; it has no option for another place.
pub const UAPI_DIR: &str = "/var/run/wireguard";

/// Makes the interface and serves it until SIGTERM or SIGINT. `ready` is called once both the interface and
/// the control socket exist.
///
/// To be called with no other thread running: signals are blocked for the threads made here.
pub fn run(options: &Options, ready: impl FnOnce()) -> Result<(), Error> {
    let signals = signals()?;
    let fatal = Fatal::new()?;
    let mut server = Server::bind(&options.uapi_dir, &options.interface)?;
    let tun = Tun::create(&options.netns, &options.interface, options.threads)?;
    let mtu = tun.mtu().map_err(Error::own("read the MTU of the interface"))?;
    let shared = Arc::new(Shared::new(tun, mtu, Sockets::bind(0, 0)?));
    let mut device = Device::start(Arc::clone(&shared), fatal.clone())?;
    let _workers = workers(&shared, &fatal)?;
    tracing::info!(interface = options.interface, netns = %options.netns.display(), "ready");
    ready();
    while wait(&server, &signals, &fatal)? {
        server.serve(&mut device);
    }
    fatal.take().map_or(Ok(()), Err)
}

/// False: a signal to end, or a thread that died.
fn wait(server: &Server, signals: &SignalFd, fatal: &Fatal) -> Result<bool, Error> {
    let mut fds = vec![
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(fatal.latch().as_fd(), PollFlags::POLLIN),
    ];
    fds.extend(server.interests());
    worker::wait(&mut fds, PollTimeout::NONE)?;
    Ok(fds.iter().take(2).all(|fd| fd.any() != Some(true)))
}

fn workers(shared: &Arc<Shared>, fatal: &Fatal) -> Result<Vec<Worker>, Error> {
    let clock = Arc::clone(shared);
    let mut workers = vec![Worker::spawn("clock", fatal, move |stop| datapath::clock(&clock, stop))?];
    for queue in 0..shared.tun.queues.len() {
        let shared = Arc::clone(shared);
        let body = move |stop: &_| datapath::outbound(&shared, queue, stop);
        workers.push(Worker::spawn(&format!("tun{queue}"), fatal, body)?);
    }
    Ok(workers)
}

fn signals() -> Result<SignalFd, Error> {
    let mask = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    mask.thread_block().map_err(Error::own("block signals"))?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).map_err(Error::own("make a signalfd"))
}
