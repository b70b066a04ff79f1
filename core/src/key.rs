//! WireGuard keys. The private half has no `Debug`, no `Serialize` of its own accord and is wiped when dropped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A text that is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: expected 44 characters of base64 (32 bytes)")]
pub struct InvalidKey;

/// A Curve25519 public key as WireGuard uses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A Curve25519 private key. Deliberately without `Debug` and `Display`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PublicKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters of the base64 form: enough for a person to tell peers apart.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl PrivateKey {
    /// The key of 32 random bytes, clamped as RFC 7748 section 5 asks.
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }

    /// The 32 bytes. Handle with care: they must not reach a log, an argument list or a readable file.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// Base64 text for a file of mode 0600 or a token; wiped when dropped.
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(Self)
    }
}

impl FromStr for PrivateKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Serde for the few places where a private key is stored on purpose: use with `#[serde(with = "...")]`.
pub mod stored {
    use super::*;

    /// Writes the base64 form.
    pub fn serialize<S: Serializer>(key: &PrivateKey, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&key.expose_base64())
    }

    /// Reads the base64 form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PrivateKey, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn decode(text: &str) -> Result<[u8; 32], InvalidKey> {
    let mut bytes = STANDARD.decode(text.trim()).map_err(|_| InvalidKey)?;
    let key = bytes.as_slice().try_into().map_err(|_| InvalidKey);
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vector of RFC 7748 section 6.1 (Alice).
    #[test]
    fn public_key_matches_the_rfc_vector() {
        let private = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ];
        assert_eq!(PrivateKey(private).public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn keys_round_trip_and_bad_ones_are_refused() {
        let key = PrivateKey::from_random([7; 32]);
        let back: PrivateKey = key.expose_base64().parse().unwrap();
        assert!(back.as_bytes() == key.as_bytes());
        let public = key.public();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        for bad in ["", "AAAA", "not base64 at all", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo"] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
