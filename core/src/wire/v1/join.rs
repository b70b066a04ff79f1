//! What a joiner and an issuer say to each other through the tunnel (HTTP/1.1 + JSON on the issuer's overlay
//! address, port [`PORT`]). The caller is known by its overlay source address: WireGuard vouches for it.

use crate::address::AddressPlan;
use crate::id::{InviteId, MachineId, NetworkId, NetworkName};
use crate::key::PublicKey;
use crate::wire::v1::record::{MachineMembership, Topology};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// TCP port of the membership listener on every overlay address.
pub const PORT: u16 = 4318;

/// `POST /v1/redeem`, from the one-time key's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemRequest {
    /// The invite.
    pub invite_id: InviteId,
    /// The name the machine would like.
    pub name: MachineId,
    /// Its own WireGuard key.
    pub public_key: PublicKey,
    /// Its NATS user.
    pub nats_key: String,
    /// Its Ed25519 key (base64).
    pub verify_key: String,
    /// Its endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// Its labels.
    pub topology: Topology,
}

/// The answer: everything the joiner needs on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemResponse {
    /// The network.
    pub network_id: NetworkId,
    /// Its name.
    pub network_name: NetworkName,
    /// Its addresses.
    pub plan: AddressPlan,
    /// The joiner's own record, with its subnet.
    pub membership: MachineMembership,
    /// All members.
    pub machines: Vec<MachineMembership>,
}

/// `POST /v1/confirm`, from the machine's own address: it runs with its own key now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmRequest {
    /// The invite.
    pub invite_id: InviteId,
}

/// `GET /v1/observed`: how the machine asked sees the one that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedResponse {
    /// The caller's endpoint on the underlay.
    pub endpoint: Option<SocketAddr>,
}
