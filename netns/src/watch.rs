//! Being told of changes: links, addresses, routes, policy rules, sysctls and nftables rules, in the host and in the
//! namespace.
//!
//! Only *that* something changed is said; what it is now is for an inspection to find out.

use crate::error::{Context, Result};
use crate::namespace;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use ployz_core::adopt::KernelEvent;
use ployz_core::spec::Side;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::net::UnixDatagram;

/// Subscriptions in both namespaces.
pub struct Events {
    sources: Vec<Source>,
}

struct Source {
    event: KernelEvent,
    // A netlink socket is read with the same calls as any datagram socket.
    socket: UnixDatagram,
}

/// Subscribes. The namespace must be there.
pub fn open(netns: &str) -> Result<Events> {
    let file = namespace::path(netns);
    let mut sources = vec![
        Source::new(KernelEvent::Links(Side::Host), route_socket()?)?,
        Source::new(KernelEvent::Firewall(Side::Host), firewall_socket()?)?,
    ];
    let (route, firewall) = namespace::inside(&file, || (route_socket(), firewall_socket()))?;
    sources.push(Source::new(KernelEvent::Links(Side::Netns), route?)?);
    sources.push(Source::new(KernelEvent::Firewall(Side::Netns), firewall?)?);
    Ok(Events { sources })
}

impl Events {
    /// The next change that matters; `None` when a socket broke.
    pub async fn next(&mut self) -> Option<KernelEvent> {
        loop {
            let waits = self.sources.iter().map(|source| Box::pin(source.socket.readable()));
            let (ready, at, _) = futures_util::future::select_all(waits).await;
            ready.ok()?;
            let source = &self.sources[at];
            if source.read() {
                return Some(source.event);
            }
        }
    }

    /// Takes in all that has been said so far; whether any of it matters.
    pub fn drain(&mut self) -> bool {
        self.sources.iter().fold(false, |matters, source| source.read() | matters)
    }
}

impl Source {
    fn new(event: KernelEvent, socket: OwnedFd) -> Result<Self> {
        let socket = UnixDatagram::from_std(socket.into()).doing("watch", event.as_str())?;
        Ok(Self { event, socket })
    }

    /// Reads all there is; whether any of it matters.
    fn read(&self) -> bool {
        let mut buffer = [0u8; 32 * 1024];
        let routine = matches!(self.event, KernelEvent::Links(_));
        let mut matters = false;
        loop {
            match self.socket.try_recv(&mut buffer) {
                Ok(0) => return matters,
                Ok(length) => matters |= !routine || interesting(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return matters,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Too much at once was lost (ENOBUFS): something did change.
                Err(_) => return true,
            }
        }
    }
}

/// Whether one of the messages takes something away or changes a link, an address, a policy rule or a sysctl of a link
/// (forwarding, rp_filter). New routes of others are routine on a router.
fn interesting(mut messages: &[u8]) -> bool {
    while let [a, b, c, d, e, f, ..] = *messages {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        if matches!(
            u16::from_ne_bytes([e, f]),
            RTM_NEWLINK
                | RTM_DELLINK
                | RTM_NEWADDR
                | RTM_DELADDR
                | RTM_DELROUTE
                | RTM_NEWRULE
                | RTM_DELRULE
                | RTM_NEWNETCONF
        ) {
            return true;
        }
        messages = messages.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    false
}

fn route_socket() -> Result<OwnedFd> {
    netlink(SockProtocol::NetlinkRoute, ROUTE_GROUPS)
}

fn firewall_socket() -> Result<OwnedFd> {
    netlink(SockProtocol::NetlinkNetFilter, FIREWALL_GROUPS)
}

fn netlink(protocol: SockProtocol, groups: u32) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).doing("open", "netlink socket")?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).doing("subscribe to", "netlink groups")?;
    Ok(fd)
}

/// RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE; RTNLGRP_IPV6_RULE = 19, IPV4_NETCONF = 24,
/// IPV6_NETCONF = 25 (linux/rtnetlink.h).
const ROUTE_GROUPS: u32 =
    0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << (19 - 1) | 1 << (24 - 1) | 1 << (25 - 1);
/// NFNLGRP_NFTABLES = 7 (linux/netfilter/nfnetlink.h).
const FIREWALL_GROUPS: u32 = 1 << (7 - 1);
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNETCONF: u16 = 80;
