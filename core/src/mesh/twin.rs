//! Two machines with one key: a copy of a machine's state runs beside the machine itself, each takes the other's sessions,
//! and both lose half of their packets.
//!
//! A probe carries the number that its sender drew when it booted ([`Run`]). A peer that hears two numbers take turns under
//! one key has proof: a number is never used again once its machine has drawn another. It says so in its own probes, with both
//! numbers, and the machine whose number came later stands back.

use crate::key::PublicKey;
use std::collections::BTreeMap;

/// Milliseconds on the caller's monotonic clock.
pub type Millis = u64;

/// Drawn when a machine boots, never 0.
pub type Run = u64;

/// Who was heard under one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Senders {
    heard: BTreeMap<Run, Heard>,
    current: Option<Run>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    first: Millis,
    last: Millis,
    /// When it spoke again after another had.
    returns: Vec<Millis>,
}

/// Two that take turns under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Was heard first.
    pub first: Run,
    /// Came later: this one is to stand back.
    pub later: Run,
}

/// What is known of this machine's own key and of the peers'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Twins {
    senders: BTreeMap<PublicKey, Senders>,
    /// What each peer says of this machine's own key.
    said: BTreeMap<PublicKey, (Millis, Option<Pair>)>,
}

/// What the peers say of this machine's own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is this machine's alone.
    Alone,
    /// Another machine uses it, and this one was there first, or the peers do not agree.
    Contested,
    /// Another machine uses it and was there first: this one is the copy, or is taken for it.
    Later,
}

impl Senders {
    /// A probe came from this one.
    pub fn heard(&mut self, run: Run, now: Millis) {
        self.heard.retain(|_, heard| now.saturating_sub(heard.last) < ALTERNATION_WINDOW);
        let begins = Heard { first: now, last: now, returns: Vec::new() };
        let heard = self.heard.entry(run).or_insert(begins);
        if heard.first != now && self.current != Some(run) {
            heard.returns.push(now);
        }
        heard.returns.retain(|at| now.saturating_sub(*at) < ALTERNATION_WINDOW);
        heard.last = now;
        self.current = Some(run);
    }

    /// The two that take turns: each has spoken again after the other more than once. One that has only begun, as a machine
    /// that was just booted, is none of them.
    pub fn pair(&self, now: Millis) -> Option<Pair> {
        let active = |heard: &Heard| {
            let returns =
                heard.returns.iter().filter(|at| now.saturating_sub(**at) < ALTERNATION_WINDOW).count();
            now.saturating_sub(heard.last) < ACTIVE_AGE && returns >= TURNS
        };
        let mut two: Vec<(Millis, Run)> = self
            .heard
            .iter()
            .filter(|(_, heard)| active(heard))
            .map(|(run, heard)| (heard.first, *run))
            .collect();
        two.sort_unstable();
        match two[..] {
            [(_, first), .., (_, later)] => Some(Pair { first, later }),
            _ => None,
        }
    }
}

impl Twins {
    /// A peer's probe came: who sent it, and what it says of our own key.
    pub fn heard(&mut self, peer: PublicKey, run: Run, says: Option<Pair>, now: Millis) {
        self.senders.entry(peer).or_default().heard(run, now);
        self.said.insert(peer, (now, says));
    }

    /// What to tell a peer of its key.
    pub fn tell(&self, peer: &PublicKey, now: Millis) -> Option<Pair> {
        self.senders.get(peer)?.pair(now)
    }

    /// The peers whose key two machines use.
    pub fn contested(&self, now: Millis) -> Vec<PublicKey> {
        self.senders.iter().filter(|(_, senders)| senders.pair(now).is_some()).map(|(key, _)| *key).collect()
    }

    /// What the peers say of the key of this machine. One peer may be wrong, or lie: more than half of those that are heard
    /// must say the same before this machine stands back.
    pub fn verdict(&self, own: Run, now: Millis) -> Verdict {
        let heard = self.said.values().filter(|(at, _)| now.saturating_sub(*at) < CLAIM_TTL);
        let says: Vec<Option<Pair>> = heard.map(|(_, says)| *says).collect();
        let later = says.iter().filter(|says| says.is_some_and(|pair| pair.later == own)).count();
        if later * 2 > says.len() {
            Verdict::Later
        } else if says.iter().any(Option::is_some) {
            Verdict::Contested
        } else {
            Verdict::Alone
        }
    }
}

/// So often each must speak again after the other did: a packet that was overtaken is no second machine.
const TURNS: usize = 2;
/// Within this time: a machine that lost its session to the other takes 15 to 30 s to take it back.
const ALTERNATION_WINDOW: Millis = 180_000;
/// Silent for longer, one is off. Longer than a turn of the other: the one whose turn it is must still be told of both.
const ACTIVE_AGE: Millis = 45_000;
/// What a peer said counts for so long.
const CLAIM_TTL: Millis = 15_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    /// Seconds and who is heard in them.
    fn senders(turns: &[(u64, Run)]) -> (Senders, Millis) {
        let mut senders = Senders::default();
        turns.iter().for_each(|(second, run)| senders.heard(*run, second * 1000));
        (senders, turns.last().map_or(0, |(second, _)| second * 1000))
    }

    const TWO: [(u64, Run); 8] = [(0, 7), (1, 7), (20, 9), (21, 7), (22, 9), (23, 7), (24, 9), (25, 7)];

    #[test]
    fn two_that_take_turns_are_two_machines_and_the_first_is_known() {
        let (two, now) = senders(&TWO);
        assert_eq!(two.pair(now), Some(Pair { first: 7, later: 9 }));
        assert_eq!(two.pair(now + ACTIVE_AGE), None, "one of them is off");
    }

    #[test]
    fn turns_of_half_a_minute_are_turns_and_the_one_whose_turn_it_is_is_told_throughout() {
        let turns: Vec<(u64, Run)> =
            (0..180).map(|second| (second, if second / 30 % 2 == 0 { 7 } else { 9 })).collect();
        for second in 151..=180 {
            let (two, now) = senders(&turns[..second]);
            assert_eq!(two.pair(now), Some(Pair { first: 7, later: 9 }), "second {second}");
        }
    }

    #[test]
    fn a_reboot_is_no_second_machine() {
        let (rebooted, now) = senders(&[(0, 7), (1, 7), (30, 9), (31, 9), (60, 11), (61, 11)]);
        assert_eq!(rebooted.pair(now), None);
        let (overtaken, now) = senders(&[(0, 7), (1, 9), (2, 7), (3, 9), (4, 9)]);
        assert_eq!(overtaken.pair(now), None, "packets of before the reboot came late");
    }

    #[test]
    fn a_machine_that_reboots_while_a_copy_runs_is_not_the_one_that_is_accused() {
        let (two, _) = senders(&TWO);
        let mut rebooted = two;
        rebooted.heard(11, 27_000);
        assert_eq!(rebooted.pair(27_000), Some(Pair { first: 7, later: 9 }), "11 is not named");
    }

    #[test]
    fn more_than_half_of_the_peers_must_say_that_this_machine_is_the_later() {
        let own = 7;
        let (later, first) = (Some(Pair { first: 9, later: own }), Some(Pair { first: own, later: 9 }));
        let verdict = |says: &[Option<Pair>]| {
            let mut twins = Twins::default();
            for (n, says) in (1..).zip(says) {
                twins.heard(key(n), 100, *says, 1_000);
            }
            twins.verdict(own, 2_000)
        };
        assert_eq!(verdict(&[]), Verdict::Alone);
        assert_eq!(verdict(&[None, None]), Verdict::Alone);
        assert_eq!(verdict(&[later]), Verdict::Later, "the only peer there is");
        assert_eq!(verdict(&[later, None, None]), Verdict::Contested, "one of three lies");
        assert_eq!(verdict(&[later, later, None]), Verdict::Later);
        assert_eq!(verdict(&[first, first]), Verdict::Contested);
        assert_eq!(verdict(&[first, later]), Verdict::Contested, "they do not agree");
        assert_eq!(verdict(&[Some(Pair { first: 9, later: 11 })]), Verdict::Contested, "of two others");
    }

    #[test]
    fn what_was_said_long_ago_does_not_count() {
        let mut twins = Twins::default();
        twins.heard(key(1), 100, Some(Pair { first: 9, later: 7 }), 1_000);
        assert_eq!(twins.verdict(7, 1_000 + CLAIM_TTL), Verdict::Alone);
    }
}
