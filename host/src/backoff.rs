//! Exponential backoff: a first delay, doubled up to a cap, begun again after a try that held; and jitter.
//!
//! Not the crate `backon`: it repeats an operation until its result is good. What is tried again here are sessions that
//! end sooner or later and were good when they held, which only their loop knows. Its jitter also adds up to a whole delay, beyond
//! the cap, where ours keeps the mean.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The delays of one loop of tries.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `first` on, doubled each time, at most `cap`.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The delay before the next try.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.cap);
        delay
    }

    /// Begins with the first delay again: the last try was good.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Half to one and a half of a delay: hundreds that lost the same server do not come back at once.
pub fn jitter(delay: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 1024;
    delay * (512 + u32::try_from(random).unwrap_or_default()) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(1));
        let mut delays = |count| -> Vec<u128> { (0..count).map(|_| backoff.delay().as_millis()).collect() };
        assert_eq!(delays(4), [300, 600, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.delay(), Duration::from_millis(300));
    }

    #[test]
    fn jitter_is_half_to_one_and_a_half_and_differs() {
        let whole = Duration::from_secs(1);
        let delays: std::collections::BTreeSet<Duration> = (0..100).map(|_| jitter(whole)).collect();
        assert!(delays.iter().all(|delay| (whole / 2..whole * 3 / 2).contains(delay)), "{delays:?}");
        assert!(delays.len() > 10, "{delays:?}");
    }
}
