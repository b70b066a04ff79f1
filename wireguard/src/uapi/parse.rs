//! Reading requests.

use super::{AllowedIp, Refusal, Request, SetDevice, SetPeer};
use crate::identity::Secret;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use ployz_core::key::{PrivateKey, PublicKey};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use zeroize::Zeroizing;

/// Reads one request, without the empty line that ends it.
pub(crate) fn parse(text: &[u8]) -> Result<Request, Refusal> {
    let text = std::str::from_utf8(text).map_err(|_| Refusal::new(Errno::EPROTO, "text"))?;
    let (operation, lines) = text.split_once('\n').unwrap_or((text, ""));
    match operation {
        "get=1" if lines.is_empty() => Ok(Request::Get),
        "set=1" => set(lines).map(Request::Set),
        _ => Err(Refusal::new(Errno::EPROTO, "operation")),
    }
}

fn set(lines: &str) -> Result<SetDevice, Refusal> {
    let mut device = SetDevice::default();
    for line in lines.lines() {
        let (key, value) = line.split_once('=').ok_or_else(|| Refusal::new(Errno::EPROTO, "line"))?;
        let applied = match (key, device.peers.last_mut()) {
            ("public_key", _) => {
                public_key(value).map(|public_key| device.peers.push(SetPeer::new(public_key)))
            }
            (_, Some(peer)) => peer_line(peer, key, value),
            (_, None) => device_line(&mut device, key, value),
        };
        applied.ok_or_else(|| Refusal::new(Errno::EINVAL, known(key)))?;
    }
    Ok(device)
}

fn device_line(device: &mut SetDevice, key: &str, value: &str) -> Option<()> {
    match key {
        "private_key" => {
            device.private_key = Some(nonzero(value)?.map(|bytes| PrivateKey::from_random(*bytes)));
        }
        "listen_port" => device.listen_port = Some(decimal(value)?),
        "fwmark" => device.fwmark = Some(decimal(value)?),
        "replace_peers" => device.replace_peers = yes(value)?,
        _ => return None,
    }
    Some(())
}

fn peer_line(peer: &mut SetPeer, key: &str, value: &str) -> Option<()> {
    match key {
        "remove" => peer.remove = yes(value)?,
        "update_only" => peer.update_only = yes(value)?,
        "preshared_key" => {
            peer.preshared_key = Some(nonzero(value)?.map(|bytes| Secret::from_bytes(*bytes)));
        }
        "endpoint" => peer.endpoint = Some(endpoint(value)?),
        "persistent_keepalive_interval" => peer.keepalive = Some(decimal(value)?),
        "replace_allowed_ips" => peer.replace_allowed_ips = yes(value)?,
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
        "protocol_version" if value == "1" => {}
        _ => return None,
    }
    Some(())
}

/// `true` is the only value the protocol knows for a flag.
fn yes(value: &str) -> Option<bool> {
    (value == "true").then_some(true)
}

/// Digits alone; `FromStr` would take a plus sign.
fn decimal<T: FromStr>(value: &str) -> Option<T> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

fn public_key(value: &str) -> Option<PublicKey> {
    hex(value).map(|bytes| PublicKey::from_bytes(*bytes))
}

/// All zeroes stand for no key.
fn nonzero(value: &str) -> Option<Option<Zeroizing<[u8; 32]>>> {
    let bytes = hex(value)?;
    Some(bytes.iter().any(|byte| *byte != 0).then_some(bytes))
}

fn hex(value: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    if value.len() != 64 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

/// `IP:port` or `[IPv6]:port`, where a link-local address may carry its interface as `%eth0` or `%2`.
fn endpoint(value: &str) -> Option<SocketAddr> {
    let Some((address, rest)) = value.split_once('%') else {
        let endpoint: SocketAddr = value.parse().ok()?;
        return Some(SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port()));
    };
    let (scope, port) = rest.split_once("]:")?;
    let scope = decimal(scope).or_else(|| if_nametoindex(scope).ok())?;
    let address = address.strip_prefix('[')?.parse().ok()?;
    Some(SocketAddrV6::new(address, decimal(port)?, 0, scope).into())
}

/// `IP/length`, the length being optional; a leading `-` takes the prefix away (wireguard-tools from 2025).
fn allowed_ip(value: &str) -> Option<AllowedIp> {
    let (action, value): (fn(IpNet) -> AllowedIp, _) = match value.strip_prefix('-') {
        Some(value) => (AllowedIp::Remove, value),
        None => (AllowedIp::Add, value),
    };
    let prefix = value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(action(prefix.trunc()))
}

/// A key of the protocol, fit to be logged. Anything else may be a value that lost its line.
fn known(key: &str) -> &str {
    const KEYS: [&str; 13] = [
        "private_key",
        "listen_port",
        "fwmark",
        "replace_peers",
        "public_key",
        "remove",
        "update_only",
        "preshared_key",
        "endpoint",
        "persistent_keepalive_interval",
        "replace_allowed_ips",
        "allowed_ip",
        "protocol_version",
    ];
    KEYS.into_iter().find(|known| *known == key).unwrap_or("unknown key")
}
