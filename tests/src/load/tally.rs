//! What was asked, answered and lost, by kind of client.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The counts of a whole run.
#[derive(Clone)]
pub(super) struct Tally(Arc<Mutex<Inner>>);

struct Inner {
    start: Instant,
    idle: usize,
    kinds: BTreeMap<&'static str, Counts>,
}

#[derive(Default)]
struct Counts {
    clients: usize,
    asked: u64,
    right: u64,
    failed: u64,
    unfinished: u64,
    retried: u64,
    closed: u64,
    worst: Duration,
    failures: Vec<Value>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { start: Instant::now(), idle: 0, kinds: BTreeMap::new() })))
    }

    /// One client more, of this kind, of this server.
    pub(super) fn score(&self, kind: &'static str, server: SocketAddr) -> Score {
        let mut inner = self.lock();
        inner.idle += 1;
        inner.kinds.entry(kind).or_default().clients += 1;
        Score { tally: self.clone(), kind, server, begun: false }
    }

    /// Whether every client has got a right answer.
    pub(super) fn all_begun(&self) -> bool {
        self.lock().idle == 0
    }

    /// Everything so far, as one JSON object.
    pub(super) fn report(&self) -> Value {
        let inner = self.lock();
        let kinds = inner.kinds.iter().map(|(kind, counts)| (*kind, counts.report()));
        json!({
            "seconds": inner.start.elapsed().as_secs_f64(),
            "failed": inner.kinds.values().map(|counts| counts.failed).sum::<u64>(),
            "kinds": kinds.collect::<BTreeMap<_, _>>(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn report(&self) -> Value {
        json!({
            "clients": self.clients, "asked": self.asked, "right": self.right, "failed": self.failed,
            "unfinished": self.unfinished, "retried": self.retried, "closed": self.closed,
            "worst_ms": self.worst.as_millis(), "failures": self.failures,
        })
    }
}

/// What one client reports.
pub(super) struct Score {
    tally: Tally,
    kind: &'static str,
    server: SocketAddr,
    begun: bool,
}

impl Score {
    /// A question is asked; it ends in exactly one of [`Self::right`], [`Self::lost`] and [`Self::unfinished`].
    pub(super) fn asked(&self) {
        self.count(|counts| counts.asked += 1);
    }

    /// The right answer came after this time.
    pub(super) fn right(&mut self, took: Duration) {
        self.count(|counts| {
            counts.right += 1;
            counts.worst = counts.worst.max(took);
        });
        if !std::mem::replace(&mut self.begun, true) {
            self.tally.lock().idle -= 1;
        }
    }

    /// No answer, half of one or a wrong one; `replica` is who gave it, where that is known.
    pub(super) fn lost(&self, reason: impl Display, replica: Option<&str>) {
        let mut inner = self.tally.lock();
        let at = inner.start.elapsed().as_secs_f64();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let counts = inner.kinds.entry(self.kind).or_default();
        counts.failed += 1;
        if counts.failures.len() < TOLD {
            let server = self.server.to_string();
            counts.failures.push(json!({
                "after": at, "time": time, "server": server, "reason": reason.to_string(), "replica": replica,
            }));
        }
    }

    /// The end of the run came before the answer's; what there was of it was right.
    pub(super) fn unfinished(&self) {
        self.count(|counts| counts.unfinished += 1);
    }

    /// The server said that it did not begin with a question, which was asked again.
    pub(super) fn retried(&self) {
        self.count(|counts| counts.retried += 1);
    }

    /// The server ended a connection in order.
    pub(super) fn closed(&self) {
        self.count(|counts| counts.closed += 1);
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(self.tally.lock().kinds.entry(self.kind).or_default());
    }
}

/// So many failures of a kind are told, all are counted.
const TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begun_is_who_was_answered_and_losses_are_told() {
        let tally = Tally::new();
        let server = "192.0.2.1:80".parse().unwrap();
        let (mut one, two) = (tally.score("a", server), tally.score("b", server));
        one.asked();
        one.right(Duration::from_millis(3));
        one.right(Duration::from_millis(2));
        two.asked();
        two.lost("no answer", Some("web-1"));
        assert!(!tally.all_begun());
        let report = tally.report();
        assert_eq!((&report["failed"], &report["kinds"]["a"]["worst_ms"]), (&json!(1), &json!(3)));
        assert_eq!(report["kinds"]["b"]["failures"][0]["replica"], "web-1");
    }
}
