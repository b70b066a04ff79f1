//! Names of others: asked for at the host's resolvers, once for all who ask at the same time, and kept.
//!
//! Written here and not taken from hickory-resolver: a forwarder made of that lost half of the queries of 100 clients
//! (hickory-dns#2613), and it hands on parsed records instead of what was said. The order is: kept, being asked, asked;
//! when nobody answers, kept past its time.

mod cache;
mod exchange;
mod plain;
mod resolvers;
mod upstream;

pub use cache::Entry;
pub use resolvers::{Source, local, resolvers};
pub use upstream::{Address, Upstream};

use crate::answer::Ask;
use crate::metrics::Forwarding;
use crate::wire;
use cache::{Cache, Key};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::FuturesUnordered;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use upstream::{Query, settles};

/// Asks the host's resolvers.
pub struct Forwarder {
    upstreams: RwLock<Arc<[Arc<Upstream>]>>,
    cache: Mutex<Cache>,
    asked: Mutex<HashMap<Key, Pending>>,
    /// Every try holds a descriptor.
    tries: Semaphore,
    /// What is counted.
    pub counts: Forwarding,
}

type Pending = Shared<BoxFuture<'static, Arc<Entry>>>;

impl Forwarder {
    /// With resolvers in order of preference.
    pub fn new(upstreams: Vec<Address>) -> Self {
        let forwarder = Self {
            upstreams: RwLock::new(Arc::from([])),
            cache: Mutex::default(),
            asked: Mutex::default(),
            tries: Semaphore::new(tries(descriptors())),
            counts: Forwarding::default(),
        };
        forwarder.set_upstreams(upstreams);
        forwarder
    }

    /// Changes the resolvers; what is known of those that stay is kept.
    pub fn set_upstreams(&self, addresses: Vec<Address>) {
        let mut upstreams = self.upstreams.write();
        let known = |address: &Address| upstreams.iter().find(|known| known.address == *address).cloned();
        *upstreams = addresses
            .into_iter()
            .map(|address| known(&address).unwrap_or_else(|| Arc::new(Upstream::new(address))))
            .collect();
    }

    /// The resolvers now.
    pub fn upstreams(&self) -> Arc<[Arc<Upstream>]> {
        self.upstreams.read().clone()
    }

    /// How many answers are kept.
    pub fn kept(&self) -> usize {
        self.cache.lock().kept()
    }

    /// The answer if it is at hand.
    pub fn at_hand(&self, ask: &Ask, now: Instant) -> Option<Arc<Entry>> {
        let entry = self.cache.lock().find(&Key::of(ask)).filter(|entry| entry.fresh(now))?;
        self.counts.hits.fetch_add(1, Relaxed);
        Some(entry)
    }

    /// The answer, however long it takes (at most [`ANSWER_DEADLINE`]).
    pub async fn resolve(self: &Arc<Self>, ask: &Ask) -> Vec<u8> {
        let key = Key::of(ask);
        let kept = self.cache.lock().find(&key);
        let now = Instant::now();
        let stale = match kept {
            Some(entry) if entry.fresh(now) => {
                self.counts.hits.fetch_add(1, Relaxed);
                return entry.reply(ask, now);
            }
            other => other.filter(|entry| entry.usable_stale(now)),
        };
        self.counts.misses.fetch_add(1, Relaxed);
        let pending = self.ask(key, stale.clone());
        let entry = match stale {
            // RFC 8767 section 5: who waits longer than this gives up soon after.
            Some(stale) => match tokio::time::timeout(STALE_AFTER, pending).await {
                Ok(entry) => entry,
                Err(_) => {
                    self.counts.stale.fetch_add(1, Relaxed);
                    stale
                }
            },
            None => pending.await,
        };
        entry.reply(ask, Instant::now())
    }

    /// One question on its way for all who ask it. It is a task of its own: who gives up stops nobody else's. It ends by
    /// itself within [`ANSWER_DEADLINE`], and a stop of the process waits for those who wait for it, not for it.
    fn ask(self: &Arc<Self>, key: Key, stale: Option<Arc<Entry>>) -> Pending {
        let mut asked = self.asked.lock();
        if let Some(pending) = asked.get(&key) {
            self.counts.joined.fetch_add(1, Relaxed);
            return pending.clone();
        }
        if asked.len() >= ASKED_MOST {
            self.counts.overloaded.fetch_add(1, Relaxed);
            let failure = Arc::new(Entry::failure(key.question(), Instant::now()));
            return futures_util::future::ready(failure).boxed().shared();
        }
        let this = self.clone();
        let task = tokio::spawn({
            let key = key.clone();
            async move { this.settle(key, stale).await }
        });
        let question: Box<[u8]> = key.question().into();
        let pending =
            async move { task.await.unwrap_or_else(|_| Arc::new(Entry::failure(&question, Instant::now()))) };
        let pending = pending.boxed().shared();
        asked.insert(key, pending.clone());
        pending
    }

    /// Asks, keeps what comes of it, and lets the next one ask again.
    async fn settle(self: Arc<Self>, key: Key, stale: Option<Arc<Entry>>) -> Arc<Entry> {
        let query = Query {
            question: key.question(),
            dnssec_ok: key.dnssec_ok(),
            checking_disabled: key.checking_disabled(),
        };
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.to_the_end(query)).await.ok().flatten();
        let now = Instant::now();
        let entry = match (answer, stale) {
            (Some(response), _) if settles(&response) => Entry::new(response, now),
            (_, Some(stale)) => {
                self.counts.stale.fetch_add(1, Relaxed);
                stale.made_stale(now)
            }
            // What the last one said is between it and us: to an asker FORMERR would mean its own query, and one of musl's goes
            // on waiting after REFUSED.
            (said, None) => {
                self.counts.unanswered.fetch_add(u64::from(said.is_none()), Relaxed);
                Entry::failure(key.question(), now)
            }
        };
        let entry = Arc::new(entry);
        if entry.fresh(now) {
            self.cache.lock().insert(key.clone(), entry.clone());
        }
        self.asked.lock().remove(&key);
        entry
    }

    /// An answer that may be an alias alone is followed to what that leads to.
    async fn to_the_end(&self, query: Query<'_>) -> Option<wire::Response> {
        let mut answer = self.race(query).await?;
        for _ in 0..ALIASES_MOST {
            let Some(mut question) = answer.leads_to.take().filter(|_| settles(&answer)) else {
                return Some(answer);
            };
            let kind = query.question.len() - wire::TYPE_AND_CLASS;
            question.extend_from_slice(&query.question[kind..]);
            let further = self.race(Query { question: &question, ..query }).await.filter(settles)?;
            let joined = wire::joined(&answer.message, &further.message).ok()?;
            let id = wire::word(&joined, 0).ok()?;
            answer = wire::response(&joined, id, query.question).ok()?;
        }
        None
    }

    /// The first answer that settles the question. Another try starts when one fails, and when it takes longer than it
    /// should; the ones before it stay in the race. A try that is refused at once has cost nothing; of the others there are
    /// [`TRIES_EACH`]. `None`: nobody said anything. Otherwise unsettled: what the last said.
    async fn race(&self, query: Query<'_>) -> Option<wire::Response> {
        let mut upstreams: Vec<_> = self.upstreams().iter().cloned().collect();
        // Stable: what the host prefers comes first among equals, and 10 ms more or less are equal.
        upstreams.sort_by_key(|upstream| upstream.expected().as_millis() / 10);
        let mut left: VecDeque<_> =
            (0..ROUNDS).flat_map(|round| upstreams.iter().map(move |one| (one.clone(), round))).collect();
        let mut running = FuturesUnordered::new();
        let mut best = None;
        let mut rest = NEXT_TRY_DELAY_MIN;
        let mut mute = 0;
        loop {
            let held = running.len() + mute;
            let next = if held < TRIES_EACH { left.pop_front() } else { None };
            let wait = match next {
                Some((upstream, round)) => {
                    let usual = (upstream.expected() * 3).clamp(NEXT_TRY_DELAY_MIN, NEXT_TRY_DELAY_MAX);
                    self.counts.tries.fetch_add(1, Relaxed);
                    let edns = with_edns(query.dnssec_ok, round, held);
                    running.push(self.try_once(upstream, query, edns));
                    usual.max(rest)
                }
                None if running.is_empty() => return best,
                None => ANSWER_DEADLINE,
            };
            // Cancel-safe: `next` keeps the tries that go on, and the timer is made anew.
            tokio::select! {
                Some((upstream, came)) = running.next() => match came {
                    Came::Answer(response) if settles(&response) => return Some(response),
                    Came::Answer(response) => {
                        // It knows, and would say the same again; the others may know better.
                        left.retain(|(other, _)| !Arc::ptr_eq(other, &upstream));
                        best = Some(response);
                    }
                    Came::Error => {}
                    Came::Nothing => mute += 1,
                },
                () = tokio::time::sleep(wait) => rest = (rest * 2).min(NEXT_TRY_DELAY_MAX),
            }
        }
    }

    async fn try_once(&self, upstream: Arc<Upstream>, query: Query<'_>, edns: bool) -> (Arc<Upstream>, Came) {
        // The semaphore is never closed.
        let _descriptor = self.tries.acquire().await;
        let came = match tokio::time::timeout(TRY_TIMEOUT, upstream.ask(query, edns)).await {
            Ok(Ok(response)) => {
                if !edns && settles(&response) {
                    upstream.plain.edns_was_unheard(Instant::now());
                }
                Came::Answer(response)
            }
            Ok(Err(error)) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(%error, source, "an upstream failed");
                Came::Error
            }
            Err(_) => {
                upstream.failed();
                Came::Nothing
            }
        };
        (upstream, came)
    }
}

/// Whether a try asks with EDNS. A box on the way may drop all that has it, and then only a try without is heard: that is what
/// the second to the same resolver and the third of all are for, or only the third to the same one where signatures are wanted,
/// which do not come without. `held`: tries before it that have brought nothing yet.
fn with_edns(dnssec_ok: bool, round: usize, held: usize) -> bool {
    let last = held + 1 == TRIES_EACH;
    if dnssec_ok { round == 0 || !last } else { round == 0 && !last }
}

/// What became of one try.
enum Came {
    Answer(wire::Response),
    Error,
    /// Silence until the deadline.
    Nothing,
}

/// How many tries may be under way: half of what may be open. Of the unit's, one client can hold a twentieth;
/// where a process may open only the usual 1,024, three quarters.
fn tries(descriptors: u64) -> usize {
    usize::try_from(descriptors / 2).unwrap_or(TRIES_MOST).clamp(TRIES_LEAST, TRIES_MOST)
}

fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// A stub resolver asks again after 5 seconds (resolv.conf(5)); its answer must be there before.
pub const ANSWER_DEADLINE: Duration = Duration::from_millis(4500);
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// A resolver that has to look far for the answer may take seconds.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);
const NEXT_TRY_DELAY_MIN: Duration = Duration::from_millis(100);
const NEXT_TRY_DELAY_MAX: Duration = Duration::from_millis(800);
/// How often each resolver is tried for one question, at most.
const ROUNDS: usize = 3;
/// Tries for one question that are not over at once. Each holds a descriptor for up to [`TRY_TIMEOUT`].
const TRIES_EACH: usize = 3;
/// Aliases that are followed one by one; a chain of one answer counts as one.
const ALIASES_MOST: usize = 8;
const TRIES_LEAST: usize = 128;
/// Each holds a local port too.
const TRIES_MOST: usize = 8192;
const ASKED_MOST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_one_that_a_box_which_drops_edns_lets_through() {
        // One resolver, then three: (round, held) of each try.
        let (one, three) = ([(0, 0), (1, 1), (2, 2)], [(0, 0), (0, 1), (0, 2)]);
        let edns = |dnssec_ok, tries: [(usize, usize); 3]| {
            tries.map(|(round, held)| with_edns(dnssec_ok, round, held))
        };
        assert_eq!(edns(false, one), [true, false, false]);
        assert_eq!(edns(false, three), [true, true, false]);
        assert_eq!(edns(true, one), [true, true, false]);
        assert_eq!(edns(true, three), [true, true, true]);
    }

    #[test]
    fn tries_leave_descriptors_for_the_rest() {
        for (descriptors, expected) in [(0, 128), (1024, 512), (65_536, 8192), (u64::MAX, 8192)] {
            assert_eq!(tries(descriptors), expected, "{descriptors}");
        }
    }
}
