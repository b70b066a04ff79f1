//! Fresh keys of a machine, and the public halves of those it has.

use crate::state::{Keys, Secret, SidecarSeeds};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nkeys::KeyPair;
use ployz_core::id::{InviteId, MachineId};
use ployz_core::key::PrivateKey;
use ployz_core::wire::v1::envelope::Signer;
use ployz_host::random::bytes;
use zeroize::Zeroizing;

/// Fresh keys for one network.
pub fn fresh(invite: Option<InviteId>) -> Keys {
    let nats = KeyPair::new_user();
    let seed = Zeroizing::new(bytes::<32>());
    Keys {
        wireguard: PrivateKey::from_random(bytes()),
        nats_seed: Secret::new(nats.seed().expect("a fresh pair has a seed")),
        signing_seed: Secret::new(STANDARD.encode(seed.as_slice())),
        sidecars: Some(sidecar_seeds()),
        invite,
    }
}

/// Fresh users for the sidecars of one machine.
pub fn sidecar_seeds() -> SidecarSeeds {
    let seed = || Secret::new(KeyPair::new_user().seed().expect("a fresh pair has a seed"));
    SidecarSeeds { gateway: seed(), dns: seed() }
}

/// Public half of a NATS user's seed.
pub fn nats_key(keys: &Keys) -> Option<String> {
    public(&keys.nats_seed)
}

/// Public half of any NATS user's seed.
pub fn public(seed: &Secret) -> Option<String> {
    KeyPair::from_seed(seed.expose()).ok().map(|pair| pair.public_key())
}

/// Public half of the signing key, base64.
pub fn verify_key(keys: &Keys) -> Option<String> {
    let seed = decode_seed(keys.signing_seed.expose())?;
    let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
    Some(ployz_core::wire::v1::token::verifying_key_text(&key))
}

/// The hand that signs a machine's commands to others.
pub fn signer(keys: &Keys, machine: &MachineId) -> Option<Signer> {
    let seed = Zeroizing::new(decode_seed(keys.signing_seed.expose())?);
    Some(Signer::new(machine.clone(), ed25519_dalek::SigningKey::from_bytes(&seed)))
}

/// Reads the base64 form of a 32-byte seed.
pub fn decode_seed(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}
