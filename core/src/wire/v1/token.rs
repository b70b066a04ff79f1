//! Join tokens: base64url(JSON) `.` base64url(Ed25519 signature over those JSON bytes). They begin `eyJ`.
//!
//! A token carries a one-time WireGuard private key, so it is a secret: no `Debug`, and it is handed over on
//! standard input. The signature ties every field to the issuer's key; whether the invite still stands is for
//! the issuer to say, through the tunnel.

use crate::address::AddressPlan;
use crate::id::{InviteId, MachineId, NetworkId, NetworkName};
use crate::key::{PrivateKey, PublicKey, stored};
use crate::text::without_mark;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::net::{Ipv6Addr, SocketAddr};
use zeroize::Zeroizing;

/// What a token says.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    /// Contract version: 1.
    pub version: u8,
    /// The invite in the store.
    pub invite_id: InviteId,
    /// The network.
    pub network_id: NetworkId,
    /// Its name.
    pub network_name: NetworkName,
    /// Its addresses.
    pub plan: AddressPlan,
    /// Who issued it.
    pub issuer: MachineId,
    /// WireGuard public key of the issuer.
    pub issuer_public_key: PublicKey,
    /// Overlay address of the issuer, where the token is redeemed.
    pub issuer_overlay_ip: Ipv6Addr,
    /// Where the issuer can be reached on the underlay, best first.
    pub issuer_endpoints: Vec<SocketAddr>,
    /// Ed25519 key of the issuer (base64), the one that signed.
    pub issuer_verify_key: String,
    /// The one-time WireGuard key.
    #[serde(with = "stored")]
    pub one_time_key: PrivateKey,
    /// Unix seconds.
    pub expires_at: u64,
}

/// Why a token is refused before anything is tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not two parts, or a part that is not base64url: most often cut short when copied.
    #[error("it is incomplete or was changed in transit: {0}")]
    Malformed(&'static str),
    /// The signature does not fit.
    #[error("its signature does not match its contents")]
    Signature,
    /// A version this build does not know.
    #[error("it is of version {0}; this ployzd knows version 1")]
    Version(u8),
}

impl Token {
    /// The signed text.
    pub fn sign(&self, key: &SigningKey) -> Zeroizing<String> {
        let json = Zeroizing::new(serde_json::to_vec(self).expect("a token holds only strings and numbers"));
        let signature = key.sign(&json).to_bytes();
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(json.as_slice()));
        Zeroizing::new(format!("{}.{}", body.as_str(), URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Reads and verifies a signed text. Surrounding white space is allowed.
    pub fn verify(text: &str) -> Result<Self, BadToken> {
        let (body, signature) =
            without_mark(text).trim().split_once('.').ok_or(BadToken::Malformed("no signature part"))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map(Zeroizing::new);
        let json = decode(body).map_err(|_| BadToken::Malformed("the first part is not base64url"))?;
        let signature =
            decode(signature).map_err(|_| BadToken::Malformed("the second part is not base64url"))?;
        let signature = Signature::from_slice(&signature)
            .map_err(|_| BadToken::Malformed("the signature has the wrong length"))?;
        let version = serde_json::from_slice::<Versioned>(&json)
            .map_err(|_| BadToken::Malformed("the first part is not a token"))?
            .version;
        if version != VERSION {
            return Err(BadToken::Version(version));
        }
        let token: Self = serde_json::from_slice(&json)
            .map_err(|_| BadToken::Malformed("the first part is not a token"))?;
        let key =
            verifying_key(&token.issuer_verify_key).ok_or(BadToken::Malformed("its key is not a key"))?;
        key.verify_strict(&json, &signature).map_err(|_| BadToken::Signature)?;
        Ok(token)
    }
}

/// Reads the base64 form of an Ed25519 public key.
pub fn verifying_key(text: &str) -> Option<VerifyingKey> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    VerifyingKey::from_bytes(&bytes).ok()
}

/// The base64 form of an Ed25519 public key.
pub fn verifying_key_text(key: &VerifyingKey) -> String {
    STANDARD.encode(key.as_bytes())
}

#[derive(Deserialize)]
struct Versioned {
    version: u8,
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> (Token, SigningKey) {
        let key = SigningKey::from_bytes(&[3; 32]);
        let token = Token {
            version: VERSION,
            invite_id: InviteId::from_bytes([1; 8]),
            network_id: NetworkId::from_bytes([2; 16]),
            network_name: "prod".parse().unwrap(),
            plan: AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap(),
            issuer: "n1".parse().unwrap(),
            issuer_public_key: PublicKey::from_bytes([4; 32]),
            issuer_overlay_ip: "fd00::1".parse().unwrap(),
            issuer_endpoints: vec!["10.0.0.1:51820".parse().unwrap()],
            issuer_verify_key: verifying_key_text(&key.verifying_key()),
            one_time_key: PrivateKey::from_random([5; 32]),
            expires_at: 1_800_000_000,
        };
        (token, key)
    }

    #[test]
    fn a_signed_token_reads_back_and_begins_as_documented() {
        let (token, key) = token();
        let text = token.sign(&key);
        assert!(text.starts_with("eyJ"));
        let back = Token::verify(&format!("\u{feff}  {}\r\n", text.as_str())).ok().unwrap();
        assert_eq!(back.issuer_endpoints, token.issuer_endpoints);
        assert!(back.one_time_key.as_bytes() == token.one_time_key.as_bytes());
    }

    #[test]
    fn a_cut_token_is_malformed_and_a_foreign_signature_is_refused() {
        let (token, key) = token();
        let text = token.sign(&key);
        assert!(matches!(Token::verify(&text[..text.len() / 2]), Err(BadToken::Malformed(_))));
        assert!(matches!(Token::verify(""), Err(BadToken::Malformed(_))));
        assert!(matches!(Token::verify(&text[..text.len() - 3]), Err(BadToken::Malformed(_))));
        let other = token.sign(&SigningKey::from_bytes(&[9; 32]));
        assert_eq!(Token::verify(&other).err(), Some(BadToken::Signature));
    }

    proptest! {
        #[test]
        fn no_changed_character_passes(at in 0usize..600, with in "[A-Za-z0-9_-]") {
            let (token, key) = token();
            let text = token.sign(&key).to_string();
            let at = at % text.len();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &with);
            // The last character of a base64 part has unused bits; the decoder refuses those that are set.
            prop_assume!(changed != text);
            prop_assert!(Token::verify(&changed).is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            prop_assert!(Token::verify(&text).is_err());
        }
    }
}
