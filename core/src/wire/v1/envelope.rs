//! What a machine signs about a command it sends to another: who asks whom for what, until when, and once.
//!
//! It travels in a header beside the command ([`HEADER`]): base64url(JSON) `.` base64url(Ed25519 signature over [`DOMAIN`] and
//! those JSON bytes), under the key that the sender's record names (decision 0022). The command itself is bound by its SHA-256.

use crate::id::{MachineId, NetworkId, hex};
use crate::wire::v1::api::ErrorCode;
use crate::wire::v1::token::verifying_key;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The header it travels in.
pub const HEADER: &str = "Ployz-Envelope";

/// What is signed in front of the bytes: a signature of another purpose under the same key is none of this one.
const DOMAIN: &[u8] = b"ployz command v1\0";

/// What is said about one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Contract version: 1.
    pub version: u8,
    /// The network.
    pub network: NetworkId,
    /// The machine that asks.
    pub from: MachineId,
    /// The machine that is asked.
    pub to: MachineId,
    /// The command, as its subject ends: `deploy.start`.
    pub command: String,
    /// Unix seconds after which it is refused.
    pub not_after: u64,
    /// Drawn at random for each sending: 32 hexadecimal digits.
    pub nonce: String,
    /// SHA-256 of the command's bytes, in hexadecimal digits.
    pub payload: String,
}

/// Why a command is refused before its room hears of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not signed, by a machine that signs, or for what must be signed.
    #[error("it is not signed")]
    Unsigned,
    /// The header is not an envelope.
    #[error("its envelope is malformed: {0}")]
    Malformed(&'static str),
    /// The sender is no member as far as this machine knows.
    #[error("its sender {0} is not a member")]
    UnknownSender(String),
    /// The signature does not fit.
    #[error("its signature is not the one of {0}")]
    Signature(MachineId),
    /// For another network, machine, command or payload than it came with.
    #[error("it was signed for another {0}")]
    Misdirected(&'static str),
    /// Too late, or of a clock that differs.
    #[error("it is over since {0}s by this machine's clock")]
    TooLate(u64),
    /// Valid for longer than any envelope may be.
    #[error(
        "it is valid for too long by this machine's clock: the clocks of the two machines differ, or it is forged"
    )]
    TooLong,
    /// Taken before.
    #[error("it was taken before")]
    Replayed,
    /// No such command.
    #[error("there is no such command")]
    UnknownCommand,
    /// The sender may not ask for it.
    #[error("{sender} may not ask for it: {why}")]
    NotAllowed {
        /// Who asked.
        sender: MachineId,
        /// Which rule says so.
        why: &'static str,
    },
}

/// The answer to a refused command. Every room's answer type reads it as a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    answer: String,
    ok: bool,
    /// `COMMAND_REFUSED`.
    pub code: String,
    /// Why.
    pub message: String,
    /// The machine that refuses.
    pub machine: MachineId,
}

impl Refused {
    /// Of this machine.
    pub fn new(machine: &MachineId, command: &str, refusal: &Refusal) -> Self {
        Self {
            answer: "failed".into(),
            ok: false,
            code: ErrorCode::CommandRefused.to_string(),
            message: format!("{machine} refuses {command}: {refusal}"),
            machine: machine.clone(),
        }
    }
}

/// A machine's hand for signing.
pub struct Signer {
    from: MachineId,
    key: SigningKey,
}

impl Signer {
    /// Of a machine, with its signing key.
    pub fn new(from: MachineId, key: SigningKey) -> Self {
        Self { from, key }
    }

    /// The header of a command to a machine, valid for [`VALID_SECS`] from `now`.
    pub fn seal(
        &self,
        network: &NetworkId,
        to: &MachineId,
        command: &str,
        payload: &[u8],
        now: u64,
        nonce: [u8; 16],
    ) -> String {
        let envelope = Envelope {
            version: VERSION,
            network: network.clone(),
            from: self.from.clone(),
            to: to.clone(),
            command: command.to_owned(),
            not_after: now.saturating_add(VALID_SECS),
            nonce: hex(&nonce),
            payload: digest(payload),
        };
        self.sign(&envelope)
    }

    /// The header that says this.
    pub fn sign(&self, envelope: &Envelope) -> String {
        let json = serde_json::to_vec(envelope).expect("an envelope holds only strings and numbers");
        let signature = self.key.sign(&signed(&json)).to_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(&json), URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What a command has to be, for its envelope to be good.
pub struct Expected<'a> {
    /// This machine's network.
    pub network: &'a NetworkId,
    /// This machine.
    pub machine: &'a MachineId,
    /// The command, as its subject ended.
    pub command: &'a str,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Unix seconds.
    pub now: u64,
}

/// The envelope in a header, when the key of the machine it names signed it and it is for what it came with. Whether it came before
/// is for the caller to know ([`crate::mesh::command::Nonces`]).
///
/// # Errors
/// A [`Refusal`] that names what does not fit.
pub fn open(
    header: &str,
    expected: &Expected<'_>,
    verify_key: impl FnOnce(&MachineId) -> Option<String>,
) -> Result<Envelope, Refusal> {
    if header.len() > MAX_HEADER {
        return Err(Refusal::Malformed("it is too long"));
    }
    let (body, signature) = header.split_once('.').ok_or(Refusal::Malformed("no signature part"))?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed("not base64url"));
    let (json, signature) = (decode(body)?, decode(signature)?);
    let signature = Signature::from_slice(&signature)
        .map_err(|_| Refusal::Malformed("the signature has the wrong length"))?;
    let envelope: Envelope =
        serde_json::from_slice(&json).map_err(|_| Refusal::Malformed("the first part is no envelope"))?;
    if envelope.version != VERSION {
        return Err(Refusal::Malformed("it is of another version"));
    }
    let key = verify_key(&envelope.from)
        .and_then(|text| verifying_key(&text))
        .ok_or_else(|| Refusal::UnknownSender(envelope.from.to_string()))?;
    key.verify_strict(&signed(&json), &signature).map_err(|_| Refusal::Signature(envelope.from.clone()))?;
    let fits = [
        (envelope.network == *expected.network, "network"),
        (envelope.to == *expected.machine, "machine"),
        (envelope.command == expected.command, "command"),
        (envelope.payload == digest(expected.payload), "payload"),
    ];
    if let Some((_, what)) = fits.into_iter().find(|(fits, _)| !fits) {
        return Err(Refusal::Misdirected(what));
    }
    if envelope.not_after < expected.now {
        return Err(Refusal::TooLate(expected.now - envelope.not_after));
    }
    if envelope.not_after > expected.now.saturating_add(MAX_VALID_SECS) {
        return Err(Refusal::TooLong);
    }
    Ok(envelope)
}

fn signed(json: &[u8]) -> Vec<u8> {
    [DOMAIN, json].concat()
}

fn digest(payload: &[u8]) -> String {
    hex(&Sha256::digest(payload))
}

const VERSION: u8 = 1;
/// An envelope's life: the clocks of two machines may differ by as much.
pub const VALID_SECS: u64 = 300;
/// The longest that one can still be valid, by a clock that is behind the sender's.
pub const MAX_VALID_SECS: u64 = 2 * VALID_SECS;
/// An envelope with the longest names is below 600 characters.
const MAX_HEADER: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1::deploy::DeployAnswer;
    use crate::wire::v1::image::ImageAnswer;
    use crate::wire::v1::peer::PeerAnswer;
    use crate::wire::v1::pull::PullAnswer;
    use crate::wire::v1::token::verifying_key_text;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;
    const PAYLOAD: &[u8] = br#"{"command":"ping"}"#;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn network() -> NetworkId {
        NetworkId::from_bytes([7; 16])
    }

    fn members(machine: &MachineId) -> Option<String> {
        let n = machine.as_str().strip_prefix('n')?.parse().ok()?;
        Some(verifying_key_text(&key(n).verifying_key()))
    }

    fn sealed() -> String {
        let signer = Signer::new("n2".parse().unwrap(), key(2));
        signer.seal(&network(), &"n3".parse().unwrap(), "ping", PAYLOAD, NOW, [9; 16])
    }

    fn opened(header: &str) -> Result<Envelope, Refusal> {
        opened_by("n3", network(), "ping", PAYLOAD, NOW, header)
    }

    fn opened_by(
        machine: &str,
        network: NetworkId,
        command: &str,
        payload: &[u8],
        now: u64,
        header: &str,
    ) -> Result<Envelope, Refusal> {
        let machine = machine.parse().unwrap();
        open(header, &Expected { network: &network, machine: &machine, command, payload, now }, members)
    }

    #[test]
    fn a_sealed_command_is_its_senders_and_nothing_else_than_it_was_sealed_for() {
        let header = sealed();
        assert_eq!(opened(&header).unwrap().from.as_str(), "n2");
        for (machine, network, command, payload, now, want) in [
            ("n3", NetworkId::from_bytes([8; 16]), "ping", PAYLOAD, NOW, Refusal::Misdirected("network")),
            ("n4", network(), "ping", PAYLOAD, NOW, Refusal::Misdirected("machine")),
            ("n3", network(), "mesh.execute_destroy", PAYLOAD, NOW, Refusal::Misdirected("command")),
            ("n3", network(), "ping", b"{}", NOW, Refusal::Misdirected("payload")),
            ("n3", network(), "ping", PAYLOAD, NOW + VALID_SECS + 1, Refusal::TooLate(1)),
            ("n3", network(), "ping", PAYLOAD, NOW - VALID_SECS - 1, Refusal::TooLong),
        ] {
            assert_eq!(opened_by(machine, network, command, payload, now, &header).unwrap_err(), want);
        }
    }

    #[test]
    fn the_named_sender_must_have_signed() {
        let envelope = opened(&sealed()).unwrap();
        let forged = Signer::new("n2".parse().unwrap(), key(4)).sign(&envelope);
        assert_eq!(opened(&forged).unwrap_err(), Refusal::Signature("n2".parse().unwrap()));
        let stranger = Envelope { from: "ghost".parse().unwrap(), ..envelope.clone() };
        let stranger = Signer::new("ghost".parse().unwrap(), key(4)).sign(&stranger);
        assert_eq!(opened(&stranger).unwrap_err(), Refusal::UnknownSender("ghost".into()));
        // A signature over the same bytes for another purpose, as a token's.
        let json = serde_json::to_vec(&envelope).unwrap();
        let bare = key(2).sign(&json).to_bytes();
        let bare = format!("{}.{}", URL_SAFE_NO_PAD.encode(&json), URL_SAFE_NO_PAD.encode(bare));
        assert_eq!(opened(&bare).unwrap_err(), Refusal::Signature("n2".parse().unwrap()));
        // One that never ends, properly signed.
        let endless = Envelope { not_after: u64::MAX, ..envelope };
        let endless = Signer::new("n2".parse().unwrap(), key(2)).sign(&endless);
        assert_eq!(opened(&endless).unwrap_err(), Refusal::TooLong);
    }

    #[test]
    fn every_room_reads_a_refusal_as_a_failure() {
        let refused = Refused::new(&"n3".parse().unwrap(), "deploy.start", &Refusal::Replayed);
        let text = serde_json::to_vec(&refused).unwrap();
        match serde_json::from_slice(&text).unwrap() {
            DeployAnswer::Failed(failure) => assert_eq!(failure.code, "COMMAND_REFUSED"),
            other => panic!("{other:?}"),
        }
        match serde_json::from_slice(&text).unwrap() {
            ImageAnswer::Failed(failure) => assert_eq!(failure.code, "COMMAND_REFUSED"),
            other => panic!("{other:?}"),
        }
        match serde_json::from_slice(&text).unwrap() {
            PullAnswer::Failed(failure) => assert_eq!(failure.code, "COMMAND_REFUSED"),
            other => panic!("{other:?}"),
        }
        let peer: PeerAnswer = serde_json::from_slice(&text).unwrap();
        assert!(!peer.ok && peer.message.contains("n3 refuses deploy.start: it was taken before"));
    }

    proptest! {
        #[test]
        fn no_header_of_a_stranger_is_taken_or_ends_the_reader(header in "[ -~]{0,200}") {
            prop_assert!(opened(&header).is_err());
        }

        #[test]
        fn no_changed_bit_is_taken(at in 0usize..400, bit in 0u8..7) {
            let mut header = sealed().into_bytes();
            let at = at % header.len();
            header[at] ^= 1 << bit;
            let Ok(header) = String::from_utf8(header) else { return Ok(()) };
            prop_assert!(header == sealed() || opened(&header).is_err());
        }
    }
}
