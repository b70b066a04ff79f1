//! The zone's replies as bytes, for the same query again: containers ask for few names, and ask often.
//!
//! Each loop has its own, so there is nothing to lock. What is kept is forgotten with the snapshot it was made from: a change
//! is answered from the next query on. Answers of others are not kept here, because their time to live counts down.

use crate::wire;
use crate::zone::Zone;
use ployz_routing::Snapshot;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Replies by query.
#[derive(Default)]
pub struct Packets {
    replies: HashMap<Box<[u8]>, Kept>,
    /// The query looked for last.
    key: Vec<u8>,
    made_from: Option<Arc<Snapshot<Zone>>>,
}

struct Kept {
    reply: Vec<u8>,
    /// Where the addresses are that take turns in being first.
    turns: Vec<usize>,
}

impl Packets {
    /// The reply to a query that was seen before.
    pub fn find(&mut self, query: &[u8], from: IpAddr, at: &Arc<Snapshot<Zone>>) -> Option<&[u8]> {
        if !self.made_from.as_ref().is_some_and(|before| Arc::ptr_eq(before, at)) {
            self.replies.clear();
            self.made_from = Some(at.clone());
        }
        // Everything a reply depends on: what was asked, how, and from which namespace; not the id.
        self.key.clear();
        if query.len() <= wire::HEADER || query.len() > LONGEST_QUERY {
            return None;
        }
        self.key
            .extend_from_slice(at.view.namespace(from).map_or("", |namespace| namespace.as_str()).as_bytes());
        self.key.push(0);
        self.key.extend_from_slice(&query[2..]);
        let kept = self.replies.get_mut(self.key.as_slice())?;
        kept.reply[..2].copy_from_slice(&query[..2]);
        for pair in kept.turns.windows(2) {
            for octet in 0..ADDRESS {
                kept.reply.swap(pair[0] + octet, pair[1] + octet);
            }
        }
        Some(&kept.reply)
    }

    /// Keeps the reply to the query that was looked for last.
    pub fn keep(&mut self, reply: &[u8]) {
        if self.key.is_empty() || reply.len() > usize::from(wire::UDP_PAYLOAD) {
            return;
        }
        if self.replies.len() >= MOST {
            self.replies.clear();
        }
        let kept = Kept { reply: reply.to_vec(), turns: turns(reply).unwrap_or_default() };
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
