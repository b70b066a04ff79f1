//! The kernel's WireGuard over generic netlink. The only module that knows genetlink.

use crate::error::{Context, Error, Result};
use crate::namespace;
use crate::wireguard::{DeviceChange, DeviceState, batch};
use futures_util::StreamExt;
use genetlink::GenetlinkHandle;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute,
};
use ployz_core::key::PublicKey;
use ployz_core::live::{PeerLive, PeerStats};
use std::io;
use std::path::Path;

/// Whether this kernel has WireGuard (asking loads the module where there is one).
pub async fn supported() -> bool {
    let Ok((connection, handle, _)) = genetlink::new_connection() else { return false };
    let driver = tokio::spawn(connection);
    let found = handle.resolve_family::<WireguardMessage>().await.is_ok();
    driver.abort();
    found
}

/// Reads the device. A dump comes in several messages: a peer whose allowed IPs did not fit goes on in the next.
pub(super) async fn read(name: &str, netns: &Path) -> Result<DeviceState> {
    let mut state = DeviceState::default();
    let query = vec![WireguardAttribute::IfName(name.to_owned())];
    for message in request(name, netns, WireguardCmd::GetDevice, query, NLM_F_REQUEST | NLM_F_DUMP).await? {
        for attribute in message.attributes {
            match attribute {
                WireguardAttribute::PublicKey(key) if key != [0; 32] => {
                    state.public_key = Some(PublicKey::from_bytes(key));
                }
                WireguardAttribute::ListenPort(port) => state.listen_port = port,
                WireguardAttribute::Peers(peers) => {
                    peers.into_iter().for_each(|peer| merge(&mut state, peer))
                }
                _ => {}
            }
        }
    }
    Ok(state)
}

/// Sends a change, in as many messages as it needs.
pub(super) async fn configure(name: &str, netns: &Path, change: &DeviceChange) -> Result<()> {
    for attributes in batch::messages(name, change) {
        request(name, netns, WireguardCmd::SetDevice, attributes, NLM_F_REQUEST | NLM_F_ACK).await?;
    }
    Ok(())
}

async fn request(
    name: &str,
    netns: &Path,
    cmd: WireguardCmd,
    attributes: Vec<WireguardAttribute>,
    flags: u16,
) -> Result<Vec<WireguardMessage>> {
    let operation = if cmd == WireguardCmd::GetDevice { "read" } else { "configure" };
    let mut handle = connect(netns)?;
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(WireguardMessage { cmd, attributes }));
    message.header.flags = flags;
    let mut answers = handle
        .request(message)
        .await
        .map_err(|error| io::Error::other(error.to_string()))
        .doing(operation, name)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|error| Error::Protocol {
            operation,
            subject: name.to_owned(),
            detail: error.to_string(),
        })?;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => found.push(message.payload),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(error.to_io()).doing(operation, name);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn connect(netns: &Path) -> Result<GenetlinkHandle> {
    let runtime = tokio::runtime::Handle::current();
    namespace::inside(netns, move || {
        let _context = runtime.enter();
        let (connection, handle, _) = genetlink::new_connection()?;
        tokio::spawn(connection);
        Ok::<_, io::Error>(handle)
    })?
    .doing("open", "generic netlink socket")
}

fn merge(state: &mut DeviceState, peer: WireguardPeer) {
    let mut key = None;
    let mut part = PeerLive { allowed_ips: Default::default(), keepalive: 0, stats: PeerStats::default() };
    for attribute in peer.0 {
        match attribute {
            WireguardPeerAttribute::PublicKey(bytes) => key = Some(PublicKey::from_bytes(bytes)),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => part.keepalive = seconds,
            WireguardPeerAttribute::Endpoint(endpoint) => part.stats.endpoint = Some(endpoint),
            WireguardPeerAttribute::LastHandshake(time) => {
                part.stats.last_handshake = u64::try_from(time.seconds).ok().filter(|seconds| *seconds > 0);
            }
            WireguardPeerAttribute::RxBytes(bytes) => part.stats.rx_bytes = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => part.stats.tx_bytes = bytes,
            WireguardPeerAttribute::AllowedIps(ips) => {
                part.allowed_ips.extend(ips.iter().filter_map(network))
            }
            _ => {}
        }
    }
    let Some(key) = key else { return };
    match state.peers.entry(key) {
        std::collections::btree_map::Entry::Occupied(mut seen) => {
            seen.get_mut().allowed_ips.extend(part.allowed_ips)
        }
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert(part);
        }
    }
}

fn network(ip: &WireguardAllowedIp) -> Option<IpNet> {
    let address =
        ip.0.iter()
            .find_map(|a| if let WireguardAllowedIpAttr::IpAddr(ip) = a { Some(*ip) } else { None })?;
    let length =
        ip.0.iter().find_map(|a| if let WireguardAllowedIpAttr::Cidr(n) = a { Some(*n) } else { None })?;
    IpNet::new(address, length).ok()
}
