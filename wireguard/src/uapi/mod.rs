//! The cross-platform configuration protocol (<https://www.wireguard.com/xplatform/>), which `wg` speaks.
//!
//! A request is lines of `key=value` up to an empty line; the first is `get=1` or `set=1`. A `set` is read
//! whole before any of it is applied, so a malformed one changes nothing. Errors are negative errno values, as
//! wireguard-go sends them and `wg set` expects them.

mod get;
mod parse;

pub(super) use get::{DeviceView, PeerView, format};
pub(super) use parse::parse;

use super::identity::Secret;
use ipnet::IpNet;
use nix::errno::Errno;
use ployz_core::key::{PrivateKey, PublicKey};
use std::net::SocketAddr;

/// A request as read.
pub(super) enum Request {
    Get,
    Set(SetDevice),
}

/// What to change of the device; what is absent stays as it is.
#[derive(Default)]
pub(super) struct SetDevice {
    /// `Some(None)` takes the key away.
    pub(super) private_key: Option<Option<PrivateKey>>,
    /// 0 picks a free port.
    pub(super) listen_port: Option<u16>,
    /// 0 takes the mark away.
    pub(super) fwmark: Option<u32>,
    pub(super) replace_peers: bool,
    /// In the order of the message; a key may come up twice.
    pub(super) peers: Vec<SetPeer>,
}

/// What to change of one peer.
pub(super) struct SetPeer {
    pub(super) public_key: PublicKey,
    pub(super) remove: bool,
    /// Leave a peer that is not there alone instead of making it.
    pub(super) update_only: bool,
    /// `Some(None)` takes the key away.
    pub(super) preshared_key: Option<Option<Secret>>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds, 0 is off.
    pub(super) keepalive: Option<u16>,
    pub(super) replace_allowed_ips: bool,
    pub(super) allowed_ips: Vec<AllowedIp>,
}

/// A prefix to give to a peer, or to take away if it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AllowedIp {
    Add(IpNet),
    Remove(IpNet),
}

/// Why a request was not carried out. Names the key of the line, never its value, which may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {errno}")]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) subject: String,
}

impl Refusal {
    pub(super) fn new(errno: Errno, subject: &str) -> Self {
        Self { errno, subject: subject.to_owned() }
    }
}

impl SetPeer {
    pub(super) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// The answer to a request that has no other: a `set`, or one that was refused.
pub(super) fn status(result: Result<(), &Refusal>) -> String {
    format!("errno={}\n\n", result.err().map_or(0, |refusal| -(refusal.errno as i32)))
}

#[cfg(test)]
mod tests;
