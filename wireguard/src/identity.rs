//! The device's own key and the limits on handshakes that go with it.

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;
use ployz_core::key::{PrivateKey, PublicKey};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A preshared key. Deliberately without `Debug` and `Display`; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Zeroizing<[u8; 32]>);

/// A private key in the forms the data path needs.
pub(super) struct Identity {
    private: PrivateKey,
    secret: x25519::StaticSecret,
    public: PublicKey,
    limiter: RateLimiter,
    tunnel_limiter: Arc<RateLimiter>,
}

impl Secret {
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Identity {
    /// The identity of `private`.
    pub(super) fn new(private: PrivateKey) -> Self {
        let secret = x25519::StaticSecret::from(*private.as_bytes());
        let public = x25519::PublicKey::from(&secret);
        Self {
            private,
            secret,
            public: PublicKey::from_bytes(public.to_bytes()),
            limiter: RateLimiter::new(&public, HANDSHAKES_PER_SECOND),
            tunnel_limiter: Arc::new(RateLimiter::new(&public, u64::MAX)),
        }
    }

    /// For `get=1` alone.
    pub(super) fn private(&self) -> &PrivateKey {
        &self.private
    }

    pub(super) fn secret(&self) -> &x25519::StaticSecret {
        &self.secret
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Judges each datagram once, before its peer is known. To be reset every second.
    pub(super) fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// `Tunn` judges every datagram again; with this limiter it never finds itself under load, so nothing is
    /// counted twice.
    pub(super) fn tunnel_limiter(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.tunnel_limiter)
    }
}

/// Handshake messages a second above which senders must prove their address with a cookie; the limit of
/// boringtun's own device, and enough for 100 machines that come back in the same second.
const HANDSHAKES_PER_SECOND: u64 = 100;
