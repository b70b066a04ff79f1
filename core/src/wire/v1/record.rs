//! Records in the store and on disk.

use crate::address::{AddressPlan, NodeSubnet, OverlayPrefix};
use crate::id::{InviteId, MachineId, OperationId};
use crate::key::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

/// One member of a network: bucket `machines`, key = its id. Each machine writes only its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineMembership {
    /// Unique in the network.
    pub id: MachineId,
    /// WireGuard public key.
    pub public_key: PublicKey,
    /// Overlay IPv6 address, derived from the key.
    pub overlay_ip: Ipv6Addr,
    /// IPv4 node subnet, such as `10.101.3.0/24`.
    pub subnet: NodeSubnet,
    /// Candidate endpoints, best first.
    pub endpoints: Vec<SocketAddr>,
    /// NATS user (`U...`), public half.
    pub nats_key: String,
    /// Ed25519 key (base64) its invites are signed with, public half.
    pub verify_key: String,
    /// What it may be used for.
    pub lifecycle: Lifecycle,
    /// Whether it holds the store.
    pub storage: StorageParticipation,
    /// Role of its region.
    pub region_role: RegionRole,
    /// Topology labels.
    pub topology: Topology,
    /// Operator's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What its ployzd speaks with other machines ([`PROTOCOL`]); 0 = a version that did not say so.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub protocol: u32,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub updated_at: u64,
}

/// What this version speaks with other machines. 1: it signs the commands it sends.
pub const PROTOCOL: u32 = 1;

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl MachineMembership {
    /// Whether its addresses are the ones that its key and the network give it: a record that claims others is
    /// an attempt to be routed another machine's traffic.
    pub fn fits(&self, prefix: OverlayPrefix, plan: &AddressPlan) -> bool {
        self.overlay_ip == prefix.address(&self.public_key) && plan.holds(&self.subnet)
    }
}

/// Lifecycle of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Lifecycle {
    /// Member without work.
    Standby,
    /// May be given work.
    Active,
    /// Gets no new work.
    Draining,
}

/// Part a machine has in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum StorageParticipation {
    /// Holds the store.
    Authority,
    /// Could hold it.
    Candidate,
}

/// Role of the region a machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RegionRole {
    /// The region that holds the store.
    HomeData,
    /// Workloads only.
    Compute,
}

/// Where a machine stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Region label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Availability zone label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
}

/// An invite: bucket `invites`, key = its id. Changed only by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRecord {
    /// Its id.
    pub id: InviteId,
    /// The machine that issued it and serves its redemption.
    pub issuer: MachineId,
    /// Public half of the one-time WireGuard key.
    pub one_time_key: PublicKey,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
    /// Where it stands.
    pub state: InviteState,
}

/// Where an invite stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum InviteState {
    /// Can be redeemed.
    Active,
    /// A machine presented it and is being let in; not a member yet.
    Redeemed {
        /// What will become its record.
        joiner: Box<MachineMembership>,
    },
    /// The machine is a member.
    Consumed {
        /// Its record as it became a member: a member that finds it missing creates it.
        joiner: Box<MachineMembership>,
        /// Unix seconds.
        at: u64,
    },
    /// Taken back by an operator.
    Revoked {
        /// Unix seconds.
        at: u64,
    },
    /// Not used in time.
    Expired,
}

/// A taken name: bucket `locks`, key `name.<id>`; created, never overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameLock {
    /// Key of the machine it was taken for.
    pub owner: PublicKey,
    /// The invite it was taken under.
    pub invite: InviteId,
}

/// That an operator of the bootstrap node destroys the network: bucket `locks`, key `destroy`. No machine prepares for it without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyRecord {
    /// The operation; commands name it.
    pub id: OperationId,
    /// The machine whose operator asks.
    pub by: MachineId,
    /// Unix seconds after which it counts for nothing.
    pub expires_at: u64,
}

/// A taken node subnet: bucket `locks`, key `subnet.<node subnet>`; created, never overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetLock {
    /// The node subnet.
    pub subnet: NodeSubnet,
    /// Key of the machine it was taken for.
    pub owner: PublicKey,
    /// The invite it was taken under; `None` for the founder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<InviteId>,
}
