//! Names of requests: the client's own if it is a sane one, else one that nobody else has drawn.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// An id of at most [`LONGEST`] characters, on the stack.
#[derive(Clone, Copy)]
pub struct RequestId {
    text: [u8; LONGEST],
    length: u8,
}

impl RequestId {
    /// A new one: 32 hexadecimal digits, half drawn when the process began, half counted and mixed.
    pub fn draw() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let value = u128::from(SEED.0) << 64 | u128::from(mix(count ^ SEED.1));
        let mut id = Self { text: [0; LONGEST], length: 32 };
        for (place, digit) in id.text[..32].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(value >> (124 - 4 * place)) as usize & 15];
        }
        id
    }

    /// The client's, when it is nothing but 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub fn given(value: &[u8]) -> Option<Self> {
        let sane = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if value.is_empty() || value.len() > LONGEST || !value.iter().all(sane) {
            return None;
        }
        let mut id = Self { text: [0; LONGEST], length: value.len() as u8 };
        id.text[..value.len()].copy_from_slice(value);
        Some(id)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII was put in.
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

/// The finaliser of SplitMix64: a bijection, so counted numbers stay different.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static SEED: LazyLock<(u64, u64)> = LazyLock::new(|| {
    let drawn = || getrandom::u64().expect("the kernel gives random numbers once it has started");
    (drawn(), drawn())
});
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_ids_differ_and_given_ones_are_kept_only_when_sane() {
        let drawn: std::collections::HashSet<String> =
            (0..1_000).map(|_| RequestId::draw().as_str().to_owned()).collect();
        assert_eq!(drawn.len(), 1_000);
        assert!(drawn.iter().all(|id| id.len() == 32));
        assert_eq!(RequestId::given(b"abc-1.2_3").unwrap().as_str(), "abc-1.2_3");
        for bad in [&b""[..], b"a b", b"a\r\nx: y", b"\"", &[b'a'; 65]] {
            assert!(RequestId::given(bad).is_none());
        }
    }
}
