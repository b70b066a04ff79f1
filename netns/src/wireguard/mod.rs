//! `wg0`, whoever runs it: read whole, changed by the least that makes it right.

pub mod batch;
mod kernel;
mod uapi;

pub use kernel::supported;
pub use ployz_core::adopt::device::{DeviceChange, PeerChange};
pub use uapi::socket_path;

use crate::error::{Context, Error, Result};
use crate::link::is_ours_to_judge;
use crate::namespace;
use crate::netlink::Rtnl;
use crate::sysctl;
use ployz_core::adopt::Seen;
use ployz_core::live::WireguardLive;
use ployz_core::spec::{TunnelBackend, WireguardSpec};
use std::fs::File;
use std::path::Path;

/// What a tunnel's configuration protocol tells: the kernel's and the userspace one say the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// Public half of its key.
    pub public_key: Option<ployz_core::key::PublicKey>,
    /// UDP port.
    pub listen_port: u16,
    /// Peers.
    pub peers: std::collections::BTreeMap<ployz_core::key::PublicKey, ployz_core::live::PeerLive>,
}

/// What is there.
pub async fn inspect(name: &str, netns: &Path) -> Seen<WireguardLive> {
    match find(name, netns).await {
        Ok(None) => Seen::Absent,
        Ok(Some(Found::Device(live))) => Seen::Present(live),
        Ok(Some(Found::Other(kind))) => Seen::Foreign(format!("link {name} is of kind {kind}")),
        Err(error) => Seen::Unknown(ployz_core::text::chain(&error)),
    }
}

/// Makes the device, empty. For a userspace tunnel its process has made it already.
///
/// The kernel wants a new link's name to be free in the namespace that asks, which is the host's, and a host may well
/// have a `wg0` of its own. So it is born under another name and renamed where it lives.
pub async fn create(spec: &WireguardSpec, netns: &Path) -> Result<()> {
    if spec.backend == TunnelBackend::Userspace {
        return Ok(());
    }
    let inside = Rtnl::inside(netns)?;
    // One that is there was not renamed by a start that was cut short.
    if inside.link(NEWBORN).await?.is_none() {
        let file = File::open(netns).doing("open namespace", netns.display().to_string())?;
        Rtnl::here()?.add_wireguard(NEWBORN, &file).await?;
    }
    match inside.link(NEWBORN).await? {
        Some(link) => inside.rename(link.index, &spec.name).await,
        None => Err(Error::Protocol {
            operation: "find",
            subject: NEWBORN.to_owned(),
            detail: "the new WireGuard device is not in its namespace".into(),
        }),
    }
}

/// Sends one change.
pub async fn configure(
    backend: TunnelBackend,
    name: &str,
    netns: &Path,
    change: &DeviceChange,
) -> Result<()> {
    match backend {
        TunnelBackend::Kernel => kernel::configure(name, netns, change).await,
        TunnelBackend::Userspace => uapi::configure(name, change).await,
    }
}

/// Removes the device. The caller has proven it is ours.
pub async fn remove(name: &str, netns: &Path) -> Result<()> {
    if namespace::id_of(netns)?.is_none() {
        return Ok(());
    }
    let inside = Rtnl::inside(netns)?;
    match inside.link(name).await? {
        Some(link) => inside.delete_link(link.index).await,
        None => Ok(()),
    }
}

/// Name of a device between its creation and its renaming.
const NEWBORN: &str = "ployz-wg-new";

enum Found {
    Device(WireguardLive),
    Other(String),
}

async fn find(name: &str, netns: &Path) -> Result<Option<Found>> {
    if namespace::id_of(netns)?.is_none() {
        return Ok(None);
    }
    let inside = Rtnl::inside(netns)?;
    let Some(link) = inside.link(name).await? else { return Ok(None) };
    let (backend, state) = match link.kind.as_deref() {
        Some("wireguard") => (TunnelBackend::Kernel, kernel::read(name, netns).await?),
        Some("tun") => (TunnelBackend::Userspace, uapi::read(name).await?),
        other => return Ok(Some(Found::Other(other.unwrap_or("hardware").to_owned()))),
    };
    let addresses = inside.addresses().await?.remove(&link.index).unwrap_or_default();
    Ok(Some(Found::Device(WireguardLive {
        index: link.index,
        backend,
        alias: link.alias,
        public_key: state.public_key,
        listen_port: state.listen_port,
        mtu: link.mtu,
        up: link.up,
        ipv6: sysctl::ipv6_is_on(netns, name)?,
        addresses: addresses.into_iter().filter(is_ours_to_judge).collect(),
        peers: state.peers,
    })))
}
