//! From a message to its reply, whatever it came by; and the sockets' loops.
//!
//! What was read is answered: a stop ends reading first, then waits for what is on its way.

mod packets;
mod share;
pub mod tcp;
pub mod udp;

use crate::answer::{Answerer, Ask, Reply, Transport};
use crate::forward::{Entry, Forwarder};
use crate::metrics::{Metrics, Origin};
use crate::wire;
use crate::zone::Zone;
use ployz_nats::events::Snapshot;
use share::{Piece, Shares};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Everything a loop needs.
pub struct Server {
    /// Decides.
    pub answerer: Answerer,
    /// Asks others.
    pub forwarder: Arc<Forwarder>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The zone, now.
    pub snapshots: watch::Receiver<Arc<Snapshot<Zone>>>,
    waiting: Arc<Semaphore>,
    /// Who waits for others' answers.
    questions: Shares,
    /// Who is connected.
    connected: Shares,
}

/// What becomes of a message.
pub enum Outcome {
    /// Nothing is sent.
    Silence,
    /// This is sent; it came from there.
    Reply(Vec<u8>, Origin),
    /// This is sent; it was made from an answer that is kept.
    Kept(Vec<u8>, Ask, Arc<Entry>),
    /// This is waited for.
    Wait(Waiting),
}

/// A query that others must be asked for.
pub struct Waiting {
    ask: Ask,
    since: Instant,
    _place: OwnedSemaphorePermit,
    _share: Piece,
}

impl Server {
    /// A server.
    pub fn new(
        answerer: Answerer,
        forwarder: Arc<Forwarder>,
        snapshots: watch::Receiver<Arc<Snapshot<Zone>>>,
    ) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING_MOST));
        let (questions, connected) = (Shares::new(QUESTIONS_EACH), Shares::new(CONNECTIONS_EACH));
        Self { answerer, forwarder, metrics: Arc::default(), snapshots, waiting, questions, connected }
    }

    /// Takes in a message.
    pub fn take(
        &self,
        packet: &[u8],
        from: SocketAddr,
        transport: Transport,
        at: &Snapshot<Zone>,
    ) -> Outcome {
        let since = Instant::now();
        let ask = match self.answerer.reply(packet, from, transport, at) {
            Reply::Silence => {
                self.metrics.silent.fetch_add(1, Relaxed);
                return Outcome::Silence;
            }
            Reply::Now(reply) => {
                self.metrics.count(&reply, Origin::Own, since.elapsed());
                tracing::debug!(%from, code = wire::word(&reply, 2).unwrap_or(0) & 0xf, "answered");
                return Outcome::Reply(reply, Origin::Own);
            }
            Reply::Forward(ask) => ask,
        };
        if let Some(entry) = self.forwarder.at_hand(&ask, since) {
            let reply = entry.reply(&ask, since);
            self.metrics.count(&reply, Origin::Kept, since.elapsed());
            return Outcome::Kept(reply, ask, entry);
        }
        match (self.questions.take(from.ip()), self.waiting.clone().try_acquire_owned()) {
            (Some(share), Ok(place)) => Outcome::Wait(Waiting { ask, since, _place: place, _share: share }),
            _ => {
                self.metrics.overloaded.fetch_add(1, Relaxed);
                let reply = crate::answer::bare(ask.id, ask.flags, wire::rcode::SERVFAIL);
                self.metrics.count(&reply, Origin::Kept, since.elapsed());
                Outcome::Reply(reply, Origin::Kept)
            }
        }
    }

    /// The reply to a query that had to wait.
    pub async fn wait(&self, waiting: Waiting) -> Vec<u8> {
        let reply = self.forwarder.resolve(&waiting.ask).await;
        self.metrics.count(&reply, Origin::Asked, waiting.since.elapsed());
        tracing::debug!(code = wire::word(&reply, 2).unwrap_or(0) & 0xf, "answered by an upstream");
        reply
    }
}

/// Queries that wait at the same time, of all sockets; a few kilobytes each.
const WAITING_MOST: usize = 20_000;
/// Questions of one source that wait for others. With dead names each holds three of the forwarder's tries for four
/// seconds: of the unit's 8,192 that leaves enough for everybody else. A whole node that asks through one cache of its own has enough of them.
const QUESTIONS_EACH: usize = 128;
/// Connections of one source (RFC 7766 section 6.2.2: a client needs one).
const CONNECTIONS_EACH: usize = 16;
