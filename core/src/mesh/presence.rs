//! Whether a machine that is not connected to the store is worth waiting for: one that was there a moment ago, or whose
//! ployzd runs, is about to come back; one that has been away for long is refused at once.
//!
//! A restart of the founder's NATS, or of a machine's own, takes every ployzd behind it off the store for a second or two
//! while all of them go on running.

use std::time::Duration;

/// How a machine's ployzd answers on its own overlay address, where neither store nor NATS is in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// It listens: it runs and connects again by itself.
    Open,
    /// The machine is there and refuses: its ployzd does not run.
    Shut,
    /// No answer at all.
    Silent,
}

/// What is known of a machine that is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// How its ployzd answers by itself.
    pub door: Door,
    /// How long ago it last answered anything over the store; `None` = never since this ployzd started.
    pub heard: Option<Duration>,
    /// How long ago a wait for it ended without it; `None` = never, or it answered since.
    pub given_up: Option<Duration>,
    /// For how long this command has waited for it.
    pub waited: Duration,
}

impl Absence {
    /// Whether to go on waiting.
    pub fn should_wait(&self) -> bool {
        let lately = self.heard.is_some_and(|ago| ago < RECENT_AGE);
        let tried = self.given_up.is_some_and(|ago| ago < GIVEN_UP_GRACE);
        self.waited < RETURN_TIMEOUT && !tried && (lately || self.door == Door::Open)
    }
}

/// The longest that one command waits for one machine.
pub const RETURN_TIMEOUT: Duration = Duration::from_secs(10);
/// "A moment ago".
pub const RECENT_AGE: Duration = Duration::from_secs(10);
/// A machine that did not come back within [`RETURN_TIMEOUT`] is not waited for again before this.
pub const GIVEN_UP_GRACE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_there_a_moment_ago_is_waited_for_and_one_long_away_is_not() {
        let s = Duration::from_secs;
        let rows = [
            // door, last heard, last given up, waited so far: whether to go on
            (Door::Open, None, None, 0, true),
            (Door::Open, Some(s(3600)), None, 9, true),
            (Door::Open, Some(s(3600)), None, 10, false),
            (Door::Open, None, Some(s(59)), 0, false),
            (Door::Open, None, Some(s(60)), 0, true),
            (Door::Shut, None, None, 0, false),
            (Door::Shut, Some(s(9)), None, 0, true),
            (Door::Shut, Some(s(10)), None, 0, false),
            (Door::Silent, None, None, 0, false),
            (Door::Silent, Some(s(2)), None, 3, true),
            (Door::Silent, Some(s(2)), Some(s(1)), 0, false),
            (Door::Silent, Some(s(3600)), None, 0, false),
        ];
        for (door, heard, given_up, waited, wanted) in rows {
            let absence = Absence { door, heard, given_up, waited: s(waited) };
            assert_eq!(absence.should_wait(), wanted, "{absence:?}");
        }
    }
}
