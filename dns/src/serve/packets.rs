//! What was answered to a query, for the same octets again: containers ask for few names, and ask often.
//!
//! Each loop has its own, so there is nothing to lock and nothing to read but the id. The zone's replies are kept whole and
//! forgotten with the snapshot they were made from: a change is answered from the next query on. Of answers of others only
//! where they are kept is remembered, because their time to live counts down.

use crate::answer::Ask;
use crate::forward::Entry;
use crate::metrics::Origin;
use crate::wire;
use crate::zone::Zone;
use ployz_nats::events::Snapshot;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Replies by query.
#[derive(Default)]
pub struct Packets {
    replies: HashMap<Box<[u8]>, Kept>,
    /// The query looked for last.
    key: Vec<u8>,
    made_from: Option<Arc<Snapshot<Zone>>>,
    /// The last reply that was made from another's answer.
    made: Vec<u8>,
}

enum Kept {
    Own {
        reply: Vec<u8>,
        /// Where the addresses are that take turns in being first.
        turns: Vec<usize>,
    },
    Others {
        ask: Ask,
        entry: Arc<Entry>,
    },
}

impl Packets {
    /// The reply to a query that was seen before.
    pub fn find(
        &mut self,
        query: &[u8],
        from: IpAddr,
        at: &Arc<Snapshot<Zone>>,
        now: Instant,
    ) -> Option<(&[u8], Origin)> {
        self.renew(at);
        // Everything a reply depends on: what was asked, how, and from which namespace; not the id.
        self.key.clear();
        if query.len() <= wire::HEADER || query.len() > LONGEST_QUERY {
            return None;
        }
        self.key
            .extend_from_slice(at.view.namespace(from).map_or("", |namespace| namespace.as_str()).as_bytes());
        self.key.push(0);
        self.key.extend_from_slice(&query[2..]);
        match self.replies.get_mut(self.key.as_slice())? {
            Kept::Own { reply, turns } => {
                reply[..2].copy_from_slice(&query[..2]);
                for pair in turns.windows(2) {
                    for octet in 0..ADDRESS {
                        reply.swap(pair[0] + octet, pair[1] + octet);
                    }
                }
                Some((reply, Origin::Own))
            }
            // Past its time it is asked for again, which is for whoever knows how.
            Kept::Others { entry, .. } if !entry.fresh(now) => None,
            Kept::Others { ask, entry } => {
                ask.id = u16::from_be_bytes([query[0], query[1]]);
                entry.write(ask, now, &mut self.made);
                Some((&self.made, Origin::Kept))
            }
        }
    }

    /// Forgets what was made from another snapshot.
    pub fn renew(&mut self, at: &Arc<Snapshot<Zone>>) {
        if !self.made_from.as_ref().is_some_and(|before| Arc::ptr_eq(before, at)) {
            self.replies.clear();
            self.made_from = Some(at.clone());
        }
    }

    /// Keeps the zone's reply to the query that was looked for last.
    pub fn keep(&mut self, reply: &[u8]) {
        if reply.len() <= usize::from(wire::UDP_PAYLOAD) {
            self.insert(Kept::Own { reply: reply.to_vec(), turns: turns(reply).unwrap_or_default() });
        }
    }

    /// Remembers which answer of others is the one to the query that was looked for last.
    pub fn remember(&mut self, ask: Ask, entry: Arc<Entry>) {
        if entry.size() <= LARGEST_ENTRY {
            self.insert(Kept::Others { ask, entry });
        }
    }

    fn insert(&mut self, kept: Kept) {
        if self.key.is_empty() {
            return;
        }
        if self.replies.len() >= MOST {
            self.replies.clear();
        }
        self.replies.insert(self.key.as_slice().into(), kept);
    }
}

/// Where the addresses of a reply are, when all its answers are A records.
fn turns(reply: &[u8]) -> Option<Vec<usize>> {
    let mut at = wire::question_end(reply).ok()?;
    let count = wire::word(reply, 6).ok()?;
    let mut found = Vec::with_capacity(count.into());
    for _ in 0..count {
        at = wire::skip_name(reply, at).ok()?;
        if wire::word(reply, at).ok()? != A || wire::word(reply, at + 8).ok()? != ADDRESS as u16 {
            return None;
        }
        found.push(at + FIXED);
        at += FIXED + ADDRESS;
    }
    (at <= reply.len()).then_some(found)
}

const A: u16 = 1;
/// Octets of an IPv4 address.
const ADDRESS: usize = 4;
/// Type, class, TTL and length of a record.
const FIXED: usize = 10;
/// Queries; with the longest replies 5 MB a loop.
const MOST: usize = 4096;
/// Bytes. Longer ones carry options that differ each time.
const LONGEST_QUERY: usize = 160;
/// Bytes. An entry that the cache has let go lives on here for its time; a few larger ones are looked up there.
const LARGEST_ENTRY: usize = 2048;
