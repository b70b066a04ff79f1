//! The TUN device: made inside another network namespace, used from this one.
//!
//! A descriptor keeps pointing at the namespace it was made in, so only a throw-away thread ever enters it.
//! The device is not persistent: it disappears with the last descriptor, so a killed process leaves nothing.
//! This is the one file of the crate's userspace WireGuard with `unsafe`: nix has no wrapper for these ioctls.
#![allow(unsafe_code)]

use super::error::Error;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

/// An open interface.
pub(super) struct Tun {
    /// Its name, fixed by us at creation.
    pub(super) interface: String,
    /// One non-blocking descriptor per queue; the kernel hashes flows over them, so a flow stays in order.
    pub(super) queues: Vec<File>,
    /// Any socket of the namespace: SIOCGIFMTU looks the name up where the socket lives.
    probe: UdpSocket,
}

impl Tun {
    /// Makes `interface` inside the namespace of `netns`; an interface of that name is an error.
    pub(super) fn create(netns: &Path, interface: &str, queues: usize) -> Result<Self, Error> {
        check_name(interface)?;
        let namespace =
            File::open(netns).map_err(|source| Error::OpenNetns { path: netns.to_owned(), source })?;
        let inside = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::EnterNetns { path: netns.to_owned(), source: errno.into() })?;
            open(netns, interface, queues)
        };
        // The thread ends here and with it the only thing of the process that was inside.
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|_| Err(Error::Panicked("tun".to_owned())))
    }

    /// The interface's MTU at this moment.
    pub(super) fn mtu(&self) -> io::Result<u16> {
        let mut request = request(&self.interface, 0);
        // SAFETY: SIOCGIFMTU reads ifr_name and writes ifru_mtu of the ifreq, which lives to the end of the
        // call and is wholly initialised by `request`.
        Errno::result(unsafe { libc::ioctl(self.probe.as_raw_fd(), libc::SIOCGIFMTU as _, &mut request) })?;
        // SAFETY: the call succeeded, so the kernel has written ifru_mtu; any bytes are a valid c_int.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Packets that may wait for us. A refusal costs speed alone.
    fn set_queue_length(&self, packets: libc::c_int) {
        let mut request = request(&self.interface, 0);
        // ifr_qlen, which libc lacks, is an int at the place of ifr_mtu.
        request.ifr_ifru.ifru_mtu = packets;
        // SAFETY: SIOCSIFTXQLEN reads one ifreq, which lives to the end of the call.
        let result = Errno::result(unsafe {
            libc::ioctl(self.probe.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &mut request)
        });
        if let Err(error) = result {
            tracing::debug!(%error, "cannot set the queue length of the interface");
        }
    }
}

fn open(netns: &Path, interface: &str, queues: usize) -> Result<Tun, Error> {
    let probe = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"));
    let probe = probe.map_err(Error::own("open a socket inside the namespace"))?;
    let multi = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut files = Vec::new();
    for queue in 0..queues.max(1) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(Error::OpenTun)?;
        // Only the first queue makes the interface; the others attach to it.
        let exclusive = if queue == 0 { libc::IFF_TUN_EXCL } else { 0 };
        let mut request = request(interface, libc::IFF_TUN | libc::IFF_NO_PI | exclusive | multi);
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives to the end of the call.
        let result =
            Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) });
        match result {
            Ok(_) => files.push(file),
            Err(Errno::EBUSY) => {
                return Err(Error::InterfaceExists {
                    interface: interface.to_owned(),
                    netns: netns.to_owned(),
                });
            }
            Err(errno) => {
                return Err(Error::CreateInterface { interface: interface.to_owned(), source: errno.into() });
            }
        }
    }
    let tun = Tun { interface: interface.to_owned(), queues: files, probe };
    tun.set_queue_length(QUEUE_LENGTH);
    Ok(tun)
}

/// The request names the interface and carries `flags`; every other byte of it is zero.
fn request(interface: &str, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: ifreq is plain C data (an array of char and a union of integers, addresses and pointers), for
    // which all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // 0x8000 does not fit a positive i16; the kernel reads the bits.
    request.ifr_ifru.ifru_flags = flags as u16 as i16;
    request
}

fn check_name(interface: &str) -> Result<(), Error> {
    let refused = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    let reserved = interface == "." || interface == "..";
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ || reserved || interface.contains(refused) {
        return Err(Error::InterfaceName(interface.to_owned()));
    }
    Ok(())
}

/// A TUN device drops when its queue is full instead of slowing the sender. With the kernel's 500 packets a
/// local TCP sender lost 1 to 5 % at 2 Gbit/s, with 2000 none.
const QUEUE_LENGTH: libc::c_int = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_checked_before_the_kernel_sees_them() {
        for good in ["wg0", "ployz-wireguard"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "..", "wg 0", "wg%d", "sixteen-letters-"] {
            assert!(matches!(check_name(bad), Err(Error::InterfaceName(_))), "{bad}");
        }
    }
}
