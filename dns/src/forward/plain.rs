//! What is known of a resolver and EDNS: whether it is better asked without.
//!
//! A resolver that does not know EDNS says so, at the cost of a round trip; one behind a box that drops such queries says nothing
//! and costs the time until the next try. Either is remembered for a while, and only for questions that want no signatures.

use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What was heard of one resolver.
#[derive(Debug, Default)]
pub struct Plain {
    /// Times in a row that it answered without EDNS while a query with it was left unanswered.
    unheard: AtomicU32,
    until: Mutex<Option<Instant>>,
}

impl Plain {
    /// Whether it should be asked without EDNS now.
    pub fn is_better(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// It answered a query with EDNS.
    pub fn edns_was_heard(&self) {
        self.unheard.store(0, Relaxed);
    }

    /// It refused one, and answered without.
    pub fn edns_was_refused(&self, now: Instant) {
        *self.until() = Some(now + WITHOUT_EDNS_TTL);
    }

    /// It left one unanswered, and answered another without. Datagrams are lost too, so once says little.
    pub fn edns_was_unheard(&self, now: Instant) {
        if self.unheard.fetch_add(1, Relaxed) + 1 >= CERTAIN {
            self.unheard.store(0, Relaxed);
            self.edns_was_refused(now);
        }
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.until.lock()
    }
}

const CERTAIN: u32 = 3;
const WITHOUT_EDNS_TTL: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_are_believed_and_forgotten_after_ten_minutes() {
        let (plain, now) = (Plain::default(), Instant::now());
        for _ in 0..3 {
            plain.edns_was_unheard(now);
            plain.edns_was_unheard(now);
            plain.edns_was_heard();
        }
        assert!(!plain.is_better(now));
        (0..3).for_each(|_| plain.edns_was_unheard(now));
        assert!(plain.is_better(now) && !plain.is_better(now + WITHOUT_EDNS_TTL));
        plain.edns_was_refused(now + WITHOUT_EDNS_TTL);
        assert!(plain.is_better(now + WITHOUT_EDNS_TTL));
    }
}
