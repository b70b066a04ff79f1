//! Requests a second from one client address, without a lock and in memory of a fixed size.
//!
//! The generic cell rate algorithm (ITU-T I.371): all that is kept of a client is when its next request would be due if
//! they came evenly. A client of whom nothing was heard for a second is forgotten without loss. When more clients than fit
//! are being limited at once, the one due soonest is forgotten: too lenient, never too strict.

use crate::clients::network;
use crate::clock;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The limiter of all routes.
pub struct Limiter {
    /// Drawn at random, so that nobody can choose whom to share a place with.
    hasher: RandomState,
    sets: Box<[[AtomicU64; WAYS]]>,
}

impl Limiter {
    /// Counts a request; the error says how long the client should wait.
    pub fn take(&self, route: &str, client: IpAddr, per_second: u32) -> Result<(), Duration> {
        self.take_at(clock::now(), route, client, per_second)
    }

    fn take_at(&self, now: Duration, route: &str, client: IpAddr, per_second: u32) -> Result<(), Duration> {
        let hash = self.hasher.hash_one((route, network(client)));
        let tag = (hash >> (64 - TAG_BITS)).max(1);
        let set = &self.sets[hash as usize % self.sets.len()];
        let now = (now.as_micros() as u64 / TICK_MICROS) & TIME_MASK;
        let interval = (TICKS_PER_SECOND / u64::from(per_second)).max(1);
        let slot = slot(set, tag, now);
        let mut seen = slot.load(Ordering::Relaxed);
        loop {
            // A second's worth may come at once.
            let ahead = if seen >> TIME_BITS == tag { ahead(seen, now) } else { 0 };
            if ahead + interval > TICKS_PER_SECOND {
                let wait = ahead + interval - TICKS_PER_SECOND;
                return Err(Duration::from_micros(wait * TICK_MICROS));
            }
            let next = tag << TIME_BITS | ((now + ahead + interval) & TIME_MASK);
            match slot.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => seen = other,
            }
        }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        let set = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { hasher: RandomState::new(), sets: (0..SETS).map(|_| set()).collect() }
    }
}

/// The place of a tag in its set: its own, or that of whoever is due soonest.
fn slot(set: &[AtomicU64; WAYS], tag: u64, now: u64) -> &AtomicU64 {
    let own = set.iter().find(|slot| slot.load(Ordering::Relaxed) >> TIME_BITS == tag);
    let soonest = || set.iter().min_by_key(|slot| ahead(slot.load(Ordering::Relaxed), now));
    own.or_else(soonest).unwrap_or(&set[0])
}

/// How far from now a place's next request is due. Nobody is due later than in a second, so whatever else the clock's
/// turn makes of the difference is in the past.
fn ahead(seen: u64, now: u64) -> u64 {
    let ahead = (seen & TIME_MASK).wrapping_sub(now) & TIME_MASK;
    if ahead <= TICKS_PER_SECOND { ahead } else { 0 }
}

/// 16,384 sets of 4 places: 512 KiB, some 20,000 clients within one second.
const SETS: usize = 16_384;
const WAYS: usize = 4;
const TAG_BITS: u32 = 24;
const TIME_BITS: u32 = 64 - TAG_BITS;
/// 40 bits of 10 µs: the clock turns every 127 days.
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const TICK_MICROS: u64 = 10;
const TICKS_PER_SECOND: u64 = 1_000_000 / TICK_MICROS;

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn at(millis: u64) -> Duration {
        Duration::from_millis(60_000 + millis)
    }

    #[test]
    fn the_clocks_turn_changes_nothing() {
        let turn = (TIME_MASK + 1) * TICK_MICROS;
        for start in [turn - 400_000, turn, 5 * turn - 1, 7 * turn + 123] {
            let limiter = Limiter::default();
            let at = |micros| limiter.take_at(Duration::from_micros(start + micros), "a", CLIENT, 10);
            assert_eq!((0..10).filter(|_| at(0).is_ok()).count(), 10, "{start}");
            assert!(at(0).is_err() && at(50_000).is_err() && at(800_000).is_ok(), "{start}");
        }
    }

    #[test]
    fn a_seconds_worth_passes_at_once_and_the_next_waits_its_turn() {
        let limiter = Limiter::default();
        for _ in 0..5 {
            assert_eq!(limiter.take_at(at(0), "r", CLIENT, 5), Ok(()));
        }
        assert_eq!(limiter.take_at(at(0), "r", CLIENT, 5), Err(Duration::from_millis(200)));
        assert_eq!(limiter.take_at(at(200), "r", CLIENT, 5), Ok(()));
        assert!(limiter.take_at(at(200), "r", CLIENT, 5).is_err());
        assert_eq!(limiter.take_at(at(2_000), "r", CLIENT, 5), Ok(()));
    }

    #[test]
    fn clients_and_routes_are_counted_apart_but_not_addresses_of_one_host() {
        let limiter = Limiter::default();
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(limiter.take_at(at(0), "r", CLIENT, 1), Ok(()));
        assert_eq!(limiter.take_at(at(0), "s", CLIENT, 1), Ok(()));
        assert_eq!(limiter.take_at(at(0), "r", v6("2001:db8::1"), 1), Ok(()));
        assert!(limiter.take_at(at(0), "r", v6("2001:db8::2"), 1).is_err());
        assert!(limiter.take_at(at(0), "r", v6("::ffff:192.0.2.1"), 1).is_err());
    }

    #[test]
    fn ten_thousand_clients_are_told_apart() {
        let limiter = Limiter::default();
        let clients = || (0..10_000u32).map(|n| IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + n)));
        assert!(clients().all(|client| limiter.take_at(at(0), "r", client, 1).is_ok()));
        let refused = clients().filter(|client| limiter.take_at(at(1), "r", *client, 1).is_err()).count();
        assert!(refused > 9_900, "{refused}");
    }
}
