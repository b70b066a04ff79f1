//! How long an exchange may stand still, by what it waits for.
//!
//! The kind of the *answer* decides how long its silences may be: a stream of events any, an answer whose length is not
//! known beforehand (generated as it goes) long ones, any other the time of its route.

use crate::backend::WRITE_TIMEOUT;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// What an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The head of the answer.
    Head,
    /// More of an answer whose length is known.
    Body,
    /// More of an answer that ends when the backend says so.
    Open,
    /// More of a stream of events.
    Events,
    /// Either side of a tunnel.
    Tunnel,
}

/// The deadline of an exchange; each byte in either direction puts it off.
#[derive(Debug)]
pub(crate) struct Patience {
    /// The time of the route.
    silence: Duration,
    /// The client asked for a stream of events: its head may come with the first of them.
    asked_events: bool,
    /// The client has closed its side: nothing would tell of its going away but a write that fails.
    half_closed: bool,
    wait: Wait,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Begins to wait for the head of an answer.
    pub fn new(silence: Duration, asked_events: bool) -> Self {
        let since = Instant::now();
        Self { silence, asked_events, half_closed: false, wait: Wait::Head, since, timer: None }
    }

    /// Waits for something else from now on.
    pub fn wait_for(&mut self, wait: Wait) {
        self.wait = wait;
        self.moved();
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.since = Instant::now();
    }

    /// The client has closed its side.
    pub fn half_closed(&mut self) {
        self.half_closed = true;
        self.moved();
    }

    /// How long the present silence may last; shorter while the backend has bytes to take and takes none.
    fn limit(&self, writes: bool) -> Option<Duration> {
        let limit = match self.wait {
            Wait::Head if self.asked_events => None,
            Wait::Head | Wait::Body => Some(self.silence),
            Wait::Open => Some(self.silence.max(UNSIZED_TIMEOUT)),
            Wait::Events | Wait::Tunnel => None,
        };
        if self.half_closed {
            return Some(self.silence);
        }
        if writes {
            Some(limit.map_or(WRITE_TIMEOUT, |limit| limit.min(WRITE_TIMEOUT.max(self.silence))))
        } else {
            limit
        }
    }

    /// Ready when the silence has lasted too long; `writes`: there is something for the backend to take.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, writes: bool) -> Poll<()> {
        let Some(limit) = self.limit(writes) else { return Poll::Pending };
        let due = self.since + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        loop {
            // One timer for many small steps: it is set again only when it fires, or fires too late.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

/// The kind of an answer, by its head.
pub(crate) fn kind(headers: &HeaderMap, open: bool) -> Wait {
    let essence =
        |value: &[u8]| value.split(|byte| *byte == b';').next().map(<[u8]>::trim_ascii).map(<[u8]>::to_vec);
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| essence(kind.as_bytes()));
    match kind {
        Some(kind) if kind.eq_ignore_ascii_case(EVENTS.as_bytes()) => Wait::Events,
        _ if open => Wait::Open,
        _ => Wait::Body,
    }
}

/// Whether a client names streams of events among what it takes.
pub(crate) fn asks_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|text| text.split(','));
    ranges.any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENTS))
}

const EVENTS: &str = "text/event-stream";
/// For an answer without a length.
const UNSIZED_TIMEOUT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(name: http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_answer_s_type_decides_however_it_is_spelled() {
        assert_eq!(kind(&of(CONTENT_TYPE, "Text/Event-Stream; charset=utf-8"), true), Wait::Events);
        assert_eq!(kind(&of(CONTENT_TYPE, "text/event-streams"), true), Wait::Open);
        assert_eq!(kind(&HeaderMap::new(), true), Wait::Open);
        assert_eq!(kind(&of(CONTENT_TYPE, "application/json"), false), Wait::Body);
        assert!(asks_events(&of(ACCEPT, "application/json, TEXT/event-stream;q=0.9")));
        assert!(!asks_events(&of(ACCEPT, "*/*")));
    }

    #[test]
    fn each_kind_has_its_limit_and_a_half_closed_client_the_route_s() {
        let silence = Duration::from_secs(5);
        let mut patience = Patience::new(silence, false);
        assert_eq!(patience.limit(false), Some(silence));
        patience.wait_for(Wait::Open);
        assert_eq!(patience.limit(false), Some(UNSIZED_TIMEOUT));
        patience.wait_for(Wait::Events);
        assert_eq!(patience.limit(false), None);
        patience.half_closed();
        assert_eq!(patience.limit(false), Some(silence));
        assert_eq!(Patience::new(silence, true).limit(false), None);
    }

    #[test]
    fn a_backend_that_takes_nothing_is_given_up_whatever_it_is_waited_for() {
        let mut patience = Patience::new(Duration::from_secs(5), true);
        assert_eq!(patience.limit(true), Some(WRITE_TIMEOUT), "no head, because events were asked for");
        for wait in [Wait::Events, Wait::Tunnel, Wait::Open] {
            patience.wait_for(wait);
            assert_eq!(patience.limit(true), Some(WRITE_TIMEOUT), "{wait:?}");
        }
        patience.wait_for(Wait::Body);
        assert_eq!(patience.limit(true), Some(Duration::from_secs(5)));
        let mut long = Patience::new(Duration::from_secs(900), false);
        assert_eq!(long.limit(true), Some(Duration::from_secs(900)), "the route says so");
        long.wait_for(Wait::Tunnel);
        assert_eq!(long.limit(true), Some(WRITE_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_puts_the_deadline_off() {
        let mut patience = Patience::new(Duration::from_secs(5), false);
        let begin = Instant::now();
        for _ in 0..3 {
            let over = std::future::poll_fn(|cx| patience.poll_over(cx, false));
            assert!(tokio::time::timeout(Duration::from_secs(4), over).await.is_err());
            patience.moved();
        }
        std::future::poll_fn(|cx| patience.poll_over(cx, false)).await;
        assert_eq!(begin.elapsed().as_secs(), 17);
    }
}
