//! What is counted while serving, in plain atomics, and how Prometheus sees it.
//!
//! Labels are bounded: routes are those of the table (the first [`MOST_ROUTES`] of it by name, the rest as `other`), causes
//! and code classes are fixed. Nothing a client sends ever becomes a label.

use crate::served::Served;
use ployz_host::page;
use ployz_nats::events::FeedStats;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Counted for one route.
#[derive(Debug, Default)]
pub struct Tally {
    turn: AtomicUsize,
    classes: [AtomicU64; CLASSES.len()],
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    micros: AtomicU64,
}

/// Counted for the whole gateway.
#[derive(Debug, Default)]
pub struct Counters {
    refused: [AtomicU64; CAUSES.len()],
    /// Requests sent to another backend after one failed.
    pub retries: AtomicU64,
    /// Connections that ended because a backend sent bytes that no request asked for.
    pub out_of_turn: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open now.
    pub open: AtomicI64,
    /// Requests and TCP connections under way.
    pub active: AtomicI64,
    /// Lines of the access log that nobody took in time.
    pub lost_lines: AtomicU64,
}

/// Why something was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Not HTTP, or not well-formed.
    Malformed,
    /// Framing that two readers could read in two ways.
    Smuggling,
    /// No host, or text that is none.
    BadHost,
    /// The head of a request is too large.
    HeadTooLarge,
    /// The head of a request did not come in time.
    HeadTooSlow,
    /// The body is larger than the route allows.
    BodyTooLarge,
    /// More requests than the route allows.
    RateLimited,
    /// Nothing is routed there.
    NoRoute,
    /// Nothing serves the route, or nothing is known yet.
    NoBackend,
    /// The TLS handshake failed, or there is no certificate for the name.
    Tls,
    /// Too many connections are open.
    TooManyConnections,
    /// Too many connections of one client are open.
    TooManyOfClient,
}

impl Tally {
    /// Whose turn it is.
    pub fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a finished request; `status` 0 is a client that went away before there was an answer.
    pub fn count(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).min(CLASSES.len() - 1);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let millis = took.as_millis() as u64;
        let bucket = BUCKETS_MS.iter().position(|bound| millis < *bound).unwrap_or(BUCKETS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn add(&self, other: &Self) {
        let sum = |to: &[AtomicU64], from: &[AtomicU64]| {
            for (to, from) in to.iter().zip(from) {
                to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        };
        sum(&self.classes, &other.classes);
        sum(&self.buckets, &other.buckets);
        self.micros.fetch_add(other.micros.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Counters {
    /// Counts something that was not served.
    pub fn refuse(&self, cause: Cause) {
        self.refused[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often something was not served for a cause.
    pub fn refused(&self, cause: Cause) -> u64 {
        self.refused[cause as usize].load(Ordering::Relaxed)
    }
}

impl Cause {
    /// The word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        CAUSES[self as usize]
    }
}

/// Certificates of the store, as [`crate::tls::Certificates::stored`] says.
pub type Stored = (usize, bool, Option<u64>);

/// The page at `/metrics`, in the text format of OpenMetrics 1.0.
pub fn page(
    counters: &Counters,
    served: &Served,
    feed: &FeedStats,
    changed: SystemTime,
    stored: Option<Stored>,
) -> String {
    let mut page = Page::of(counters, served, feed, changed);
    page.gauges.extend(stored.into_iter().flat_map(certificates));
    page::text("ployz_gateway", page)
}

fn certificates((names, live, until): Stored) -> Vec<(&'static str, &'static str, f64)> {
    let live = if live { 1.0 } else { 0.0 };
    let mut gauges = vec![
        ("certificates", "Host names with a certificate from the store", names as f64),
        ("certificates_live", "Whether the certificates are in sync with the store", live),
    ];
    gauges.extend(
        until.map(|at| {
            ("certificates_until_seconds", "Earliest expiry of a certificate (Unix time)", at as f64)
        }),
    );
    gauges
}

/// The values at the moment of a scrape.
#[derive(Debug)]
struct Page {
    routes: Vec<(String, Arc<Tally>)>,
    refused: Vec<(&'static str, u64)>,
    counts: Vec<(&'static str, &'static str, u64)>,
    gauges: Vec<(&'static str, &'static str, f64)>,
    feed: FeedStats,
}

impl Page {
    fn of(counters: &Counters, served: &Served, feed: &FeedStats, changed: SystemTime) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            routes: routes(served),
            refused: CAUSES.iter().zip(&counters.refused).map(|(word, count)| (*word, read(count))).collect(),
            counts: vec![
                ("retries", "Requests sent to another backend after one failed", read(&counters.retries)),
                (
                    "backend_out_of_turn",
                    "Backend connections closed because of unsolicited data",
                    read(&counters.out_of_turn),
                ),
                ("connections", "Connections accepted", read(&counters.accepted)),
                (
                    "access_log_lost_lines",
                    "Lines of the access log not written in time",
                    read(&counters.lost_lines),
                ),
            ],
            gauges: vec![
                ("connections_open", "Connections open now", counters.open.load(Ordering::Relaxed) as f64),
                ("requests_active", "Requests in flight", counters.active.load(Ordering::Relaxed) as f64),
                ("routes", "Routes in the table", served.tallied().count() as f64),
                ("routes_unchanged_seconds", "Time since the table was last replaced", age(changed)),
            ],
            feed: *feed,
        }
    }
}

impl prometheus_client::collector::Collector for Page {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let mut family = to.encode_descriptor(
            "requests",
            "Requests by route and class of answer",
            None,
            MetricType::Counter,
        )?;
        for (route, tally) in &self.routes {
            for (class, count) in CLASSES.iter().zip(&tally.classes) {
                let labels = [("route", route.as_str()), ("class", *class)];
                page::write_count(family.encode_family(&labels)?, count.load(Ordering::Relaxed))?;
            }
        }
        let name = "request_duration_seconds";
        let mut family =
            to.encode_descriptor(name, "Time until the last byte", None, MetricType::Histogram)?;
        for (route, tally) in &self.routes {
            histogram(family.encode_family(&[("route", route.as_str())])?, tally)?;
        }
        let mut family =
            to.encode_descriptor("refused", "Requests not served, by cause", None, MetricType::Counter)?;
        for (cause, count) in &self.refused {
            page::write_count(family.encode_family(&[("cause", *cause)])?, *count)?;
        }
        for (name, help, count) in &self.counts {
            page::counter(&mut to, name, help, *count)?;
        }
        for (name, help, value) in &self.gauges {
            page::gauge(&mut to, name, help, *value)?;
        }
        self.feed.encode(&mut to)
    }
}

/// Tallies by label, those beyond the bound as one.
fn routes(served: &Served) -> Vec<(String, Arc<Tally>)> {
    let copy = |tally: &Tally| {
        let copy = Tally::default();
        copy.add(tally);
        copy
    };
    let mut routes: Vec<_> = served.tallied().collect();
    routes.sort_by(|(one, _), (other, _)| one.label.cmp(&other.label));
    let rest = routes.split_off(routes.len().min(MOST_ROUTES));
    let mut page: Vec<_> =
        routes.into_iter().map(|(route, tally)| (route.label.to_string(), Arc::new(copy(tally)))).collect();
    if !rest.is_empty() {
        let other = Tally::default();
        rest.iter().for_each(|(_, tally)| other.add(tally));
        page.push(("other".to_owned(), Arc::new(other)));
    }
    page
}

fn histogram(to: MetricEncoder<'_>, tally: &Tally) -> fmt::Result {
    let counts = tally.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
    let bounds = BUCKETS_MS.iter().map(|millis| *millis as f64 / 1000.0);
    page::write_histogram(to, tally.micros.load(Ordering::Relaxed) as f64 / 1e6, bounds, counts)
}

fn age(since: SystemTime) -> f64 {
    since.elapsed().unwrap_or_default().as_secs_f64()
}

/// By the first digit; `gone` is a client that left before there was an answer.
const CLASSES: [&str; 6] = ["gone", "1xx", "2xx", "3xx", "4xx", "5xx"];
const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000];
/// Words for [`Cause`], in its order.
const CAUSES: [&str; 12] = [
    "malformed",
    "smuggling",
    "bad-host",
    "head-too-large",
    "head-too-slow",
    "body-too-large",
    "rate-limited",
    "no-route",
    "no-backend",
    "tls",
    "too-many-connections",
    "too-many-of-client",
];
/// Routes with a series of their own.
pub const MOST_ROUTES: usize = 1_000;
