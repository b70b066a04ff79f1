//! Names in NATS: buckets, keys and subjects.

use crate::address::NodeSubnet;
use crate::id::{MachineId, NetworkId};

/// KV bucket of [`crate::wire::v1::record::MachineMembership`].
pub const MACHINES: &str = "machines";
/// KV bucket of [`crate::wire::v1::record::InviteRecord`].
pub const INVITES: &str = "invites";
/// KV bucket of locks and reservations.
pub const LOCKS: &str = "locks";

/// Key of a slice's reservation in [`LOCKS`].
pub fn subnet_lock(subnet: &NodeSubnet) -> String {
    format!("subnet.{}", subnet.store_key())
}

/// Key of a name's reservation in [`LOCKS`].
pub fn name_lock(machine: &MachineId) -> String {
    format!("name.{machine}")
}

/// Stream of routing events: the last one of every key is kept.
pub const ROUTING_EVENTS: &str = "routing_events";

/// Subject prefix of all routing events, without the key ([`crate::routing::Key`]).
pub fn routing(network: &NetworkId) -> String {
    format!("ployz.v1.{network}.routing")
}

/// Subject of one command of one machine.
pub fn rpc(network: &NetworkId, machine: &MachineId, command: &str) -> String {
    format!("ployz.v1.{network}.rpc.{machine}.{command}")
}

/// Subject filter of all commands of one machine.
pub fn rpc_all(network: &NetworkId, machine: &MachineId) -> String {
    format!("ployz.v1.{network}.rpc.{machine}.>")
}

/// A machine's private inbox prefix.
pub fn inbox(machine: &MachineId) -> String {
    format!("_INBOX.{machine}")
}
