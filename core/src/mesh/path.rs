//! Which of a peer's endpoints to use: a state machine over probe answers and a clock the caller hands in.
//!
//! A probe is an ICMPv6 echo over the overlay, answered by the peer's kernel whether or not its ployzd runs. As
//! long as one is answered nothing is touched, wherever the peer has roamed to (kilo#34, netmaker#571). A path
//! that has been silent for [`DEAD_AFTER`] is left for the next candidate.

use std::net::SocketAddr;

/// Milliseconds on the caller's monotonic clock.
pub type Millis = u64;

/// What is known about the path to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    answered_at: Option<Millis>,
    waiting_since: Option<Millis>,
    moved_at: Option<Millis>,
    moves: u32,
    rtt_micros: Option<u64>,
}

/// What the tunnel says about the peer right now.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel {
    /// Endpoint in use, roamed or set.
    pub endpoint: Option<SocketAddr>,
    /// Whether a session of less than [`SESSION_AGE_MAX_SECS`] stands: then a new endpoint works at once, without a handshake.
    pub session: bool,
}

impl Default for Path {
    fn default() -> Self {
        Self::new()
    }
}

impl Path {
    /// A path nothing is known about.
    pub fn new() -> Self {
        Self { answered_at: None, waiting_since: None, moved_at: None, moves: 0, rtt_micros: None }
    }

    /// A probe was sent.
    pub fn sent(&mut self, now: Millis) {
        self.waiting_since.get_or_insert(now);
    }

    /// A probe was answered after so many microseconds.
    pub fn answered(&mut self, now: Millis, rtt_micros: u64) {
        *self = Self { answered_at: Some(now), rtt_micros: Some(rtt_micros), ..Self::new() };
    }

    /// Whether probes are being answered.
    pub fn reachable(&self, now: Millis) -> bool {
        self.answered_at.is_some_and(|at| now.saturating_sub(at) < DEAD_AFTER)
    }

    /// Round trip of the last answered probe, in microseconds.
    pub fn rtt_micros(&self) -> Option<u64> {
        self.rtt_micros
    }

    /// The endpoint to move to now, or `None` to leave things as they are.
    pub fn tick(&mut self, now: Millis, tunnel: Tunnel, candidates: &[SocketAddr]) -> Option<SocketAddr> {
        let waiting = now.saturating_sub(self.waiting_since?);
        let patience = match self.moved_at {
            None => DEAD_AFTER,
            Some(_) if self.moves as usize > candidates.len() * 2 => LONG_TRY_TIMEOUT,
            Some(_) if tunnel.session => SESSION_TRY_TIMEOUT,
            Some(_) => HANDSHAKE_TRY_TIMEOUT,
        };
        let since = self.moved_at.map_or(waiting, |at| now.saturating_sub(at));
        if since < patience {
            return None;
        }
        let next = next_candidate(tunnel.endpoint, candidates)?;
        self.moved_at = Some(now);
        self.moves = self.moves.saturating_add(1);
        Some(next)
    }
}

/// The candidate after the one in use, wrapping; the first when the one in use is not a candidate. `None` when
/// there is no other.
fn next_candidate(current: Option<SocketAddr>, candidates: &[SocketAddr]) -> Option<SocketAddr> {
    let at = current.and_then(|endpoint| candidates.iter().position(|c| *c == endpoint));
    let next = match at {
        Some(index) => candidates.get((index + 1) % candidates.len()),
        None => candidates.first(),
    };
    next.copied().filter(|next| Some(*next) != current)
}

/// A path silent for this long is dead. With one probe a second that is three lost in a row.
pub const DEAD_AFTER: Millis = 3_500;
/// How long a candidate is given when a session stands.
pub const SESSION_TRY_TIMEOUT: Millis = 1_500;
/// How long a candidate is given when a handshake is needed: the kernel sends one every 5 s (REKEY_TIMEOUT).
pub const HANDSHAKE_TRY_TIMEOUT: Millis = 5_500;
/// How long once all candidates were tried twice: the peer is most likely off.
pub const LONG_TRY_TIMEOUT: Millis = 15_000;
/// Age up to which a session carries data (REJECT_AFTER_TIME), in seconds.
pub const SESSION_AGE_MAX_SECS: u64 = 180;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, n, 1], 51820))
    }

    /// One peer with some candidates of which a set works; probes every second, on a virtual clock.
    struct World {
        path: Path,
        endpoint: SocketAddr,
        candidates: Vec<SocketAddr>,
        works: Vec<SocketAddr>,
        moves: Vec<(Millis, SocketAddr)>,
        now: Millis,
    }

    impl World {
        fn new(endpoint: SocketAddr, candidates: &[SocketAddr], works: &[SocketAddr]) -> Self {
            let (candidates, works) = (candidates.to_vec(), works.to_vec());
            Self { path: Path::new(), endpoint, candidates, works, moves: Vec::new(), now: 0 }
        }

        fn run(&mut self, millis: Millis) {
            let end = self.now + millis;
            while self.now < end {
                self.now += 500;
                if self.now.is_multiple_of(1000) {
                    self.path.sent(self.now);
                    if self.works.contains(&self.endpoint) {
                        self.path.answered(self.now, 900);
                    }
                }
                let tunnel = Tunnel { endpoint: Some(self.endpoint), session: true };
                if let Some(next) = self.path.tick(self.now, tunnel, &self.candidates) {
                    self.endpoint = next;
                    self.moves.push((self.now, next));
                }
            }
        }
    }

    #[test]
    fn a_working_path_is_never_touched() {
        let mut world = World::new(at(1), &[at(1), at(2)], &[at(1)]);
        world.run(600_000);
        assert_eq!(world.moves, []);
        assert!(world.path.reachable(world.now));
    }

    #[test]
    fn a_roamed_peer_is_not_fought() {
        let roamed = at(77);
        let mut world = World::new(roamed, &[at(1), at(2)], &[roamed, at(1)]);
        world.run(600_000);
        assert_eq!((world.endpoint, world.moves.len()), (roamed, 0));
    }

    #[test]
    fn a_dead_path_is_left_within_ten_seconds() {
        let mut world = World::new(at(1), &[at(1), at(2)], &[at(1), at(2)]);
        world.run(60_000);
        world.works = vec![at(2)];
        world.run(10_000);
        assert_eq!(world.endpoint, at(2));
        assert!(world.path.reachable(world.now));
    }

    #[test]
    fn a_single_dead_candidate_is_left_alone() {
        let mut world = World::new(at(1), &[at(1)], &[]);
        world.run(120_000);
        assert_eq!(world.moves, []);
    }

    #[test]
    fn a_dead_peer_is_tried_ever_more_slowly() {
        let mut world = World::new(at(1), &[at(1), at(2)], &[]);
        world.run(120_000);
        let last: Vec<Millis> = world.moves.iter().rev().take(2).map(|(at, _)| *at).collect();
        assert!(last[0] - last[1] >= LONG_TRY_TIMEOUT, "{:?}", world.moves);
    }

    #[test]
    fn without_probes_nothing_is_decided() {
        let mut path = Path::new();
        let tunnel = Tunnel { endpoint: Some(at(1)), session: false };
        assert_eq!(path.tick(1_000_000, tunnel, &[at(1), at(2)]), None);
    }

    proptest! {
        /// Whichever candidate works, it is found, and then nothing moves any more.
        #[test]
        fn the_working_candidate_is_found(n in 2usize..8, good in 0usize..8, start in 0u8..10) {
            let candidates: Vec<SocketAddr> = (0..n as u8).map(at).collect();
            let good = candidates[good % n];
            let mut world = World::new(at(start), &candidates, &[good]);
            world.run(60_000);
            prop_assert_eq!(world.endpoint, good);
            let moves = world.moves.len();
            world.run(600_000);
            prop_assert_eq!(world.moves.len(), moves);
        }
    }
}
