//! Names in NATS: buckets, keys and subjects.

use crate::address::NodeSubnet;
use crate::id::{DeployId, MachineId, Namespace, NetworkId};

/// KV bucket of [`crate::wire::v1::record::MachineMembership`].
pub const MACHINES: &str = "machines";
/// KV bucket of [`crate::wire::v1::record::InviteRecord`].
pub const INVITES: &str = "invites";
/// KV bucket of locks and reservations.
pub const LOCKS: &str = "locks";

/// KV bucket of [`crate::wire::v1::certificate::CertificateRecord`].
pub const CERTIFICATES: &str = "certificates";

/// Key of a node subnet's reservation in [`LOCKS`].
pub fn subnet_lock(subnet: &NodeSubnet) -> String {
    format!("subnet.{}", subnet.store_key())
}

/// Key of the network's [`crate::wire::v1::record::DestroyRecord`] in [`LOCKS`].
pub const DESTROY_LOCK: &str = "destroy";

/// Key of a name's reservation in [`LOCKS`].
pub fn name_lock(machine: &MachineId) -> String {
    format!("name.{machine}")
}

/// JetStream domain of the store: without one a leaf's clients do not reach the founder's JetStream (nats-server 2.15.1).
pub const DOMAIN: &str = "hub";

/// Port of the store's server for clients, on every machine's overlay address.
pub const CLIENT_PORT: u16 = 4222;

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

/// KV bucket of [`crate::wire::v1::deploy::DeployStatus`], by namespace.
pub const DEPLOY_STATUS: &str = "deploy_status";
/// Stream of [`crate::wire::v1::deploy::Decision`]: one message a subject, never overwritten.
pub const DEPLOY_COMMITS: &str = "deploy_commits";

/// Key of a namespace's [`crate::wire::v1::deploy::DeployLock`] in [`LOCKS`].
pub fn deploy_lock(namespace: &Namespace) -> String {
    format!("deploy.{namespace}")
}

/// Subject of the decision on one deploy in [`DEPLOY_COMMITS`]; published with an expected last sequence of 0.
pub fn deploy_commit(network: &NetworkId, namespace: &Namespace, deploy: &DeployId) -> String {
    format!("ployz.v1.{network}.deploy.commit.{namespace}.{deploy}")
}

/// Subject filter of all decisions.
pub fn deploy_commits(network: &NetworkId) -> String {
    format!("ployz.v1.{network}.deploy.commit.>")
}

/// Inbox prefix of one of a machine's sidecars: inside the machine's own, which is all that its leaf connection may
/// subscribe to.
pub fn sidecar_inbox(machine: &MachineId, sidecar: &str) -> String {
    format!("{}.{sidecar}", inbox(machine))
}
