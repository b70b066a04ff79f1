//! Answers of others, kept as long as they may be, and a while longer for when nobody answers.
//!
//! Two generations: what is used in the younger half stays, the older half goes as a whole when the younger one is full.
//! That bounds memory, and needs neither a list nor a clock hand.

use crate::answer::Ask;
use crate::wire::{self, Response, flag};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an answer depends on: the question in lower case, and what DNSSEC makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    question: Box<[u8]>,
    dnssec_ok: bool,
    checking_disabled: bool,
}

/// A kept answer.
#[derive(Debug)]
pub struct Entry {
    /// The whole message without OPT.
    message: Vec<u8>,
    ttls: Vec<u16>,
    stored: Instant,
    /// Until when it is as good as new.
    expires: Instant,
    /// Whether it is past its time and kept only because nobody answers.
    stale: bool,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Key, Arc<Entry>>,
    bytes: usize,
}

impl Key {
    /// Of a question.
    pub fn of(ask: &Ask) -> Self {
        Self {
            question: wire::in_lower_case(&ask.question).into(),
            dnssec_ok: ask.edns.unwrap_or(false),
            checking_disabled: ask.flags & flag::CD != 0,
        }
    }

    /// The question: name, type, class.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// Whether signatures are wanted.
    pub fn dnssec_ok(&self) -> bool {
        self.dnssec_ok
    }

    /// Whether the upstream is not to check them.
    pub fn checking_disabled(&self) -> bool {
        self.checking_disabled
    }
}

impl Entry {
    /// An upstream's answer; what must not be kept expires at once.
    pub fn new(response: Response, now: Instant) -> Self {
        let lifetime = match response.rcode {
            wire::rcode::SERVFAIL => FAILURE_TTL,
            _ => Duration::from_secs(response.lifetime().unwrap_or(0).into()),
        };
        Self {
            message: response.message,
            ttls: response.ttls,
            stored: now,
            expires: now + lifetime,
            stale: false,
        }
    }

    /// That nobody answered, for a moment (RFC 9520: a failure is not asked for again at once).
    pub fn failure(question: &[u8], now: Instant) -> Self {
        let mut message = wire::header(0, flag::QR | wire::rcode::SERVFAIL);
        wire::put(&mut message, 4, 1);
        message.extend_from_slice(question);
        Self { message, ttls: Vec::new(), stored: now, expires: now + FAILURE_TTL, stale: false }
    }

    /// The same past its time; asked for again after a while (RFC 8767 section 5).
    pub fn made_stale(&self, now: Instant) -> Self {
        Self {
            message: self.message.clone(),
            ttls: self.ttls.clone(),
            stored: self.stored,
            expires: now + STALE_RECHECK_INTERVAL,
            stale: true,
        }
    }

    /// Whether it is as good as new.
    pub fn fresh(&self, now: Instant) -> bool {
        now < self.expires
    }

    /// Whether it may still be given out when nobody answers.
    pub fn usable_stale(&self, now: Instant) -> bool {
        matches!(self.code(), wire::rcode::NOERROR | wire::rcode::NXDOMAIN)
            && now.duration_since(self.stored) < STALE_MAX_AGE
    }

    fn code(&self) -> u16 {
        wire::word(&self.message, 2).unwrap_or(0) & 0xf
    }

    /// The reply to one asker: its id, its spelling of the name, its limit.
    pub fn reply(&self, ask: &Ask, now: Instant) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.message.len() + 11);
        self.write(ask, now, &mut out);
        out
    }

    /// The same in the place of what `out` holds.
    pub fn write(&self, ask: &Ask, now: Instant, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.message);
        wire::put(out, 0, ask.id);
        let theirs = wire::word(out, 2).unwrap_or(0);
        // RFC 6840 section 5.7: who does not know the bit is not told.
        let knows_ad = ask.flags & flag::AD != 0 || ask.edns == Some(true);
        let ad = if knows_ad && !self.stale { theirs & flag::AD } else { 0 };
        wire::put(out, 2, flag::QR | flag::RA | (ask.flags & (flag::RD | flag::CD)) | ad | theirs & 0xf);
        let question_end = wire::HEADER + ask.question.len();
        out[wire::HEADER..question_end].copy_from_slice(&ask.question);
        let expired = self.stale || !self.fresh(now);
        let age = u32::try_from(now.duration_since(self.stored).as_secs()).unwrap_or(u32::MAX);
        for at in &self.ttls {
            if let Some(place) = out.get_mut(usize::from(*at)..usize::from(*at) + 4) {
                let ttl = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
                let left = if expired { ttl.min(STALE_TTL) } else { ttl.saturating_sub(age) };
                place.copy_from_slice(&left.to_be_bytes());
            }
        }
        let opt = if ask.edns.is_some() { 11 } else { 0 };
        if out.len() + opt > ask.limit {
            out.truncate(question_end);
            (6..=10).step_by(2).for_each(|at| wire::put(out, at, 0));
            let flags = wire::word(out, 2).unwrap_or(0);
            wire::put(out, 2, flags | flag::TC);
        }
        if let Some(dnssec_ok) = ask.edns {
            wire::append_opt(out, dnssec_ok);
        }
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        self.message.len() + 2 * self.ttls.len() + 256
    }
}

impl Cache {
    /// What is kept, fresh or not; what is used stays.
    pub fn find(&mut self, key: &Key) -> Option<Arc<Entry>> {
        if let Some(entry) = self.young.entries.get(key) {
            return Some(entry.clone());
        }
        let entry = self.old.entries.get(key)?.clone();
        self.insert(key.clone(), entry.clone());
        Some(entry)
    }

    /// Keeps an answer.
    pub fn insert(&mut self, key: Key, entry: Arc<Entry>) {
        if self.young.entries.len() >= GENERATION_ENTRIES || self.young.bytes >= GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += entry.size();
        if let Some(before) = self.young.entries.insert(key, entry) {
            self.young.bytes -= before.size();
        }
    }

    /// How many answers are kept.
    pub fn kept(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }
}

const GENERATION_ENTRIES: usize = 10_000;
const GENERATION_BYTES: usize = 4 << 20;
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// RFC 8767 section 5: suggested 30 seconds between tries, TTL 30, one to three days at most.
const STALE_RECHECK_INTERVAL: Duration = Duration::from_secs(5);
const STALE_TTL: u32 = 30;
const STALE_MAX_AGE: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, limit: usize) -> Ask {
        let mut question = vec![name.len() as u8];
        question.extend_from_slice(name.as_bytes());
        question.extend_from_slice(b"\0\0\x01\0\x01");
        Ask { id: 9, flags: flag::RD, question, edns: None, limit }
    }

    fn entry(name: &str, ttl: u8, now: Instant) -> Entry {
        let asked = ask(name, 512);
        let mut message = wire::query(1, &asked.question.to_ascii_lowercase(), None, false);
        wire::put(&mut message, 2, flag::QR | flag::AD);
        wire::put(&mut message, 6, 1);
        message.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 1, 2, 3, 4]);
        Entry::new(wire::response(&message, 1, &asked.question).unwrap(), now)
    }

    #[test]
    fn a_reply_counts_down_and_keeps_the_askers_spelling() {
        let now = Instant::now();
        let reply = entry("name", 60, now).reply(&ask("NaMe", 512), now + Duration::from_secs(20));
        assert_eq!(&reply[13..17], b"NaMe");
        assert_eq!(reply[31], 40);
        let flags = wire::word(&reply, 2).unwrap();
        assert_eq!(flags, flag::QR | flag::RD | flag::RA, "AD is only for who knows it");
    }

    #[test]
    fn what_does_not_fit_is_truncated_to_the_question() {
        let now = Instant::now();
        let asked = ask("name", 30);
        let reply = entry("name", 60, now).reply(&asked, now);
        assert_eq!(reply.len(), 12 + asked.question.len());
        assert_ne!(wire::word(&reply, 2).unwrap() & flag::TC, 0);
        assert_eq!(wire::word(&reply, 6).unwrap(), 0);
    }

    #[test]
    fn stale_answers_say_thirty_seconds_and_end_after_a_day() {
        let now = Instant::now();
        let old = entry("name", 60, now);
        let later = now + Duration::from_secs(100);
        assert!(!old.fresh(later) && old.usable_stale(later));
        let kept = old.made_stale(later);
        assert!(kept.fresh(later));
        assert_eq!(kept.reply(&ask("name", 512), later)[31], 30);
        assert!(!old.usable_stale(now + Duration::from_secs(90_000)));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let now = Instant::now();
        let mut cache = Cache::default();
        let used = ask("used", 512);
        cache.insert(Key::of(&used), Arc::new(entry("used", 60, now)));
        for n in 0..50_000 {
            let other = format!("n{n}");
            cache.insert(Key::of(&ask(&other, 512)), Arc::new(entry(&other, 60, now)));
            assert!(cache.find(&Key::of(&used)).is_some());
        }
        assert!(cache.kept() <= 2 * GENERATION_ENTRIES);
    }
}
