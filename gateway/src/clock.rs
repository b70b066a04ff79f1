//! Monotonic time as a plain number, so that it fits into an atomic.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Time since the process began to count.
pub fn now() -> Duration {
    ORIGIN.elapsed()
}

/// The same in whole milliseconds.
pub fn millis() -> u64 {
    now().as_millis() as u64
}

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
