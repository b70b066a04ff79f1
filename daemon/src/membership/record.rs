//! What this machine is called and what its record says.

use crate::failure::{Failure, Result};
use crate::keys;
use crate::state::Keys;
use ployz_core::address::{NodeSubnet, OverlayPrefix};
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::record::{
    Lifecycle, MachineMembership, PROTOCOL, RegionRole, StorageParticipation, Topology,
};
use ployz_host::clock;

/// The machine's record as its keys give it.
pub fn membership(
    id: MachineId,
    keys: &Keys,
    prefix: OverlayPrefix,
    subnet: NodeSubnet,
) -> Result<MachineMembership> {
    let damaged = || Failure::new(ErrorCode::IoError, "keys.json is damaged");
    let public_key = keys.wireguard.public();
    let now = clock::now();
    Ok(MachineMembership {
        id,
        public_key,
        overlay_ip: prefix.address(&public_key),
        subnet,
        endpoints: Vec::new(),
        nats_key: keys::nats_key(keys).ok_or_else(damaged)?,
        verify_key: keys::verify_key(keys).ok_or_else(damaged)?,
        lifecycle: Lifecycle::Active,
        storage: StorageParticipation::Candidate,
        region_role: RegionRole::Compute,
        protocol: PROTOCOL,
        topology: Topology::default(),
        labels: Default::default(),
        created_at: now,
        updated_at: now,
    })
}

/// This machine's name.
pub fn hostname() -> MachineId {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    MachineId::from_hostname(&name)
}
