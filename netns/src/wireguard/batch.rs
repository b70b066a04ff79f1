//! Splitting a change into netlink messages.
//!
//! An attribute's length is 16 bits, and netlink-packet-core panics past it: about 442 small peers. So a message
//! holds at most [`BUDGET`] bytes of peers, device settings go into the first one, and a peer with very many
//! allowed IPs is continued in the next (the first chunk replaces, the following ones add).

use crate::wireguard::{DeviceChange, PeerChange};
use ipnet::IpNet;
use netlink_packet_core::Nla;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardPeer,
    WireguardPeerAttribute, WireguardPeerFlags,
};

/// The attributes of each message, in order.
pub fn messages(device: &str, change: &DeviceChange) -> Vec<Vec<WireguardAttribute>> {
    let mut first = vec![WireguardAttribute::IfName(device.to_owned())];
    if let Some(key) = &change.private_key {
        first.push(WireguardAttribute::PrivateKey(*key.as_bytes()));
    }
    if let Some(port) = change.listen_port {
        first.push(WireguardAttribute::ListenPort(port));
    }
    let mut messages = vec![first];
    let mut batch: Vec<WireguardPeer> = Vec::new();
    let mut size = 0;
    for peer in change.peers.iter().flat_map(chunks) {
        let length = peer.buffer_len_padded();
        if size + length > BUDGET && !batch.is_empty() {
            close(device, &mut messages, std::mem::take(&mut batch));
            size = 0;
        }
        size += length;
        batch.push(peer);
    }
    if !batch.is_empty() {
        close(device, &mut messages, batch);
    }
    messages
}

fn close(device: &str, messages: &mut Vec<Vec<WireguardAttribute>>, batch: Vec<WireguardPeer>) {
    let has_peers = |message: &Vec<WireguardAttribute>| {
        message.iter().any(|attribute| matches!(attribute, WireguardAttribute::Peers(_)))
    };
    if messages.last().is_none_or(has_peers) {
        messages.push(vec![WireguardAttribute::IfName(device.to_owned())]);
    }
    if let Some(message) = messages.last_mut() {
        message.push(WireguardAttribute::Peers(batch));
    }
}

fn chunks(change: &PeerChange) -> Vec<WireguardPeer> {
    match change {
        PeerChange::Remove(key) => vec![WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key.as_bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ])],
        PeerChange::Set { key, update_only, allowed_ips, keepalive, endpoint } => {
            let mut flags = WireguardPeerFlags::empty();
            if *update_only {
                flags |= WireguardPeerFlags::UpdateOnly;
            }
            if allowed_ips.is_some() {
                flags |= WireguardPeerFlags::ReplaceAllowedIps;
            }
            let mut first = vec![WireguardPeerAttribute::PublicKey(*key.as_bytes())];
            if !flags.is_empty() {
                first.push(WireguardPeerAttribute::Flags(flags));
            }
            first.extend(endpoint.map(WireguardPeerAttribute::Endpoint));
            first.extend(keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
            let ips = allowed_ips.as_deref().unwrap_or_default();
            let mut parts = ips.chunks(IPS_A_CHUNK);
            if let Some(part) = parts.next() {
                first.push(WireguardPeerAttribute::AllowedIps(part.iter().map(allowed_ip).collect()));
            }
            let rest = parts.map(|part| {
                WireguardPeer(vec![
                    WireguardPeerAttribute::PublicKey(*key.as_bytes()),
                    WireguardPeerAttribute::AllowedIps(part.iter().map(allowed_ip).collect()),
                ])
            });
            std::iter::once(WireguardPeer(first)).chain(rest).collect()
        }
    }
}

fn allowed_ip(net: &IpNet) -> WireguardAllowedIp {
    let family = match net {
        IpNet::V4(_) => WireguardAddressFamily::Ipv4,
        IpNet::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(net.network()),
        WireguardAllowedIpAttr::Cidr(net.prefix_len()),
    ])
}

trait Padded {
    fn buffer_len_padded(&self) -> usize;
}

impl Padded for WireguardPeer {
    /// Its attributes with their headers, each padded to four bytes, and its own header.
    fn buffer_len_padded(&self) -> usize {
        4 + self.0.iter().map(|attribute| 4 + attribute.value_len().next_multiple_of(4)).sum::<usize>()
    }
}

/// Half of what an attribute can hold, and one netlink dump buffer.
pub const BUDGET: usize = 32 * 1024;

/// At most 32 bytes each.
const IPS_A_CHUNK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::key::PublicKey;
    use std::net::{IpAddr, Ipv4Addr};

    fn peer(n: u32, ips: usize) -> PeerChange {
        let mut key = [0u8; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let allowed =
            (0..ips).map(|i| IpNet::from(IpAddr::V4(Ipv4Addr::from(n * 4096 + i as u32)))).collect();
        PeerChange::Set {
            key: PublicKey::from_bytes(key),
            update_only: false,
            allowed_ips: Some(allowed),
            keepalive: Some(15),
            endpoint: Some(([10, 0, 0, 1], 51820).into()),
        }
    }

    fn peers(message: &[WireguardAttribute]) -> usize {
        message.iter().map(|a| if let WireguardAttribute::Peers(peers) = a { peers.len() } else { 0 }).sum()
    }

    #[test]
    fn ten_thousand_peers_fit_their_messages() {
        let change = DeviceChange {
            private_key: Some(ployz_core::key::PrivateKey::from_random([1; 32])),
            listen_port: Some(51820),
            peers: (0..10_000).map(|n| peer(n, 2)).collect(),
        };
        let messages = messages("wg0", &change);
        assert_eq!(messages.iter().map(|m| peers(m)).sum::<usize>(), 10_000);
        for (at, message) in messages.iter().enumerate() {
            let length: usize = message.iter().map(|a| 4 + a.value_len().next_multiple_of(4)).sum();
            assert!(length < 60_000, "message {at} has {length} bytes");
            assert_eq!(message.iter().any(|a| matches!(a, WireguardAttribute::PrivateKey(_))), at == 0);
        }
    }

    #[test]
    fn a_peer_with_many_allowed_ips_is_continued_without_replacing() {
        let change = DeviceChange { peers: vec![peer(1, 3_000)], ..Default::default() };
        let replacing: Vec<bool> = messages("wg0", &change)
            .iter()
            .flatten()
            .filter_map(|a| if let WireguardAttribute::Peers(peers) = a { Some(peers.clone()) } else { None })
            .flatten()
            .map(|p| p.0.iter().any(|a| matches!(a, WireguardPeerAttribute::Flags(_))))
            .collect();
        assert_eq!(replacing, [true, false, false, false, false, false]);
    }
}
