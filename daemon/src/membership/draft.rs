//! Invites of a network that is not running, on its founder: kept on disk, and put into the store once that is there.
//!
//! Nobody else may do this: a member's invites are made under the store's compare-and-set from the first moment on.

use crate::failure::{Failure, Result};
use crate::membership::issue::{self, Made};
use crate::state::{Disk, Keys, NetworkFile};
use ployz_core::id::InviteId;
use ployz_core::wire::v1::api::{ErrorCode, InviteRow};
use ployz_host::clock;
use std::net::SocketAddr;

/// A fresh invite. The record is on disk before the token is out.
pub fn create(
    disk: &Disk,
    network: &NetworkFile,
    keys: &Keys,
    ttl_secs: u64,
    endpoints: &[SocketAddr],
) -> Result<Made> {
    founder_only(network)?;
    let (record, token) = issue::draw(network, keys, ttl_secs, endpoints)?;
    let made = Made::new(&record, token, network);
    let mut peers = disk.peers(&network.name)?;
    let now = clock::now();
    peers.drafts.retain(|draft| draft.expires_at > now);
    peers.drafts.push(record);
    disk.put_peers(&network.name, &peers)?;
    tracing::info!(
        target: "audit",
        network = %network.name,
        invite = %made.invite_id,
        expires_at = made.expires_at,
        "invite created"
    );
    Ok(made)
}

/// The invites that wait for the store, oldest first.
pub fn list(disk: &Disk, network: &NetworkFile) -> Result<Vec<InviteRow>> {
    founder_only(network)?;
    let now = clock::now();
    Ok(disk.peers(&network.name)?.drafts.into_iter().map(|draft| issue::row(draft, now)).collect())
}

/// Takes an invite back: the store will never hear of it.
pub fn revoke(disk: &Disk, network: &NetworkFile, id: &InviteId) -> Result<()> {
    founder_only(network)?;
    let mut peers = disk.peers(&network.name)?;
    let before = peers.drafts.len();
    peers.drafts.retain(|draft| draft.id != *id);
    if peers.drafts.len() == before {
        return Err(Failure::new(ErrorCode::InviteNotFound, format!("there is no open invite {id}")));
    }
    disk.put_peers(&network.name, &peers)?;
    tracing::info!(target: "audit", network = %network.name, invite = %id, "invite revoked");
    Ok(())
}

fn founder_only(network: &NetworkFile) -> Result<()> {
    if network.is_founder() {
        return Ok(());
    }
    let message = format!("network {} is not running here, and this machine did not found it", network.name);
    Err(Failure::new(ErrorCode::NoRunningNetwork, message))
}
