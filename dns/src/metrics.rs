//! What is counted, and `GET /metrics` for Prometheus.
//!
//! Labels are from fixed lists, so no query can add a series. Counting is one or two atomic additions.

use crate::forward::Forwarder;
use crate::wire;
use crate::zone::Zone;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use ployz_nats::events::{FeedStats, Metric, Snapshot, Stats};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Counters of the server.
#[derive(Debug, Default)]
pub struct Metrics {
    queries: [[AtomicU64; RCODES.len()]; QTYPES.len()],
    durations: [[AtomicU64; BOUNDS.len() + 1]; ORIGINS.len()],
    microseconds: [AtomicU64; ORIGINS.len()],
    /// Messages that were not answered at all.
    pub silent: AtomicU64,
    /// Replies that could not be sent.
    pub unsent: AtomicU64,
    /// Queries that were refused work because too many were waiting.
    pub overloaded: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections closed at once, their source having its share.
    pub connections_refused: AtomicU64,
}

/// Counters of the forwarder.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// Answered from what is kept.
    pub hits: AtomicU64,
    /// Not kept, or past its time.
    pub misses: AtomicU64,
    /// External queries that joined one in flight.
    pub joined: AtomicU64,
    /// Queries sent to resolvers.
    pub tries: AtomicU64,
    /// External queries answered with expired cache entries.
    pub stale: AtomicU64,
    /// Nobody answered.
    pub unanswered: AtomicU64,
    /// External queries refused: too many in flight.
    pub overloaded: AtomicU64,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The zone, or a refusal.
    Own,
    /// An answer of others that was kept.
    Kept,
    /// An upstream.
    Asked,
}

impl Metrics {
    /// Counts a reply.
    pub fn count(&self, reply: &[u8], origin: Origin, took: Duration) {
        let kind = wire::question_end(reply).and_then(|end| wire::word(reply, end - 4)).unwrap_or(0);
        let kind = QTYPES.iter().position(|(number, _)| *number == kind).unwrap_or(QTYPES.len() - 1);
        let code = usize::from(wire::word(reply, 2).unwrap_or(0) & 0xf).min(RCODES.len() - 1);
        self.queries[kind][code].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.durations[origin as usize][bucket].fetch_add(1, Relaxed);
        self.microseconds[origin as usize].fetch_add(micros, Relaxed);
    }

    fn write(&self, page: &mut Page) {
        page.head("queries_total", "counter", "Replies by type of the question and response code");
        for (kind, row) in QTYPES.iter().zip(&self.queries) {
            for (code, value) in RCODES.iter().zip(row) {
                let value = value.load(Relaxed);
                if value > 0 {
                    page.line(
                        "queries_total",
                        &format!("{{qtype=\"{}\",rcode=\"{code}\"}}", kind.1),
                        value as f64,
                    );
                }
            }
        }
        page.head("query_duration_seconds", "histogram", "Time from reading a query to its reply");
        for (place, origin) in ORIGINS.iter().enumerate() {
            let mut sum = 0;
            for (bucket, value) in self.durations[place].iter().enumerate() {
                sum += value.load(Relaxed);
                let le = BOUNDS.get(bucket).map_or("+Inf".into(), |bound| (*bound as f64 / 1e6).to_string());
                let labels = format!("{{origin=\"{origin}\",le=\"{le}\"}}");
                page.line("query_duration_seconds_bucket", &labels, sum as f64);
            }
            let labels = format!("{{origin=\"{origin}\"}}");
            let seconds = self.microseconds[place].load(Relaxed) as f64 / 1e6;
            page.line("query_duration_seconds_sum", &labels, seconds);
            page.line("query_duration_seconds_count", &labels, sum as f64);
        }
        page.counter("silent_total", "Messages that were not answered", &self.silent);
        page.counter("unsent_total", "Replies that could not be sent", &self.unsent);
        page.counter("overloaded_total", "Queries refused because too many were waiting", &self.overloaded);
        page.counter(
            "connections_refused_total",
            "TCP connections beyond their source's share",
            &self.connections_refused,
        );
        page.gauge("connections", "TCP connections open", self.connections.load(Relaxed) as f64);
    }
}

/// The page of a scrape.
pub fn text(metrics: &Metrics, forwarder: &Forwarder, feed: &FeedStats, at: &Snapshot<Zone>) -> String {
    let mut page = Page(String::new());
    page.head("build_info", "gauge", "The running version");
    page.line("build_info", &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0);
    metrics.write(&mut page);
    let counts = &forwarder.counts;
    page.counter("cache_hits_total", "External queries answered from the cache", &counts.hits);
    page.counter("cache_misses_total", "External queries that were not in the cache", &counts.misses);
    page.counter("forward_joined_total", "External queries that joined one in flight", &counts.joined);
    page.counter("forward_tries_total", "Queries sent to upstreams", &counts.tries);
    page.counter(
        "forward_stale_total",
        "External queries answered with expired cache entries",
        &counts.stale,
    );
    page.counter(
        "forward_unanswered_total",
        "External queries that no upstream answered",
        &counts.unanswered,
    );
    page.counter(
        "forward_overloaded_total",
        "External queries refused: too many in flight",
        &counts.overloaded,
    );
    page.gauge("cache_entries", "Answers in the cache", forwarder.kept() as f64);
    page.head("upstream_failures_total", "counter", "Attempts at an upstream without a usable answer");
    let upstreams = forwarder.upstreams();
    for upstream in upstreams.iter() {
        let labels = format!("{{upstream=\"{}\"}}", escaped(&upstream.address.to_string()));
        page.line("upstream_failures_total", &labels, upstream.failures.load(Relaxed) as f64);
    }
    page.head("upstream_expected_seconds", "gauge", "Expected response time of an upstream");
    for upstream in upstreams.iter() {
        let labels = format!("{{upstream=\"{}\"}}", escaped(&upstream.address.to_string()));
        page.line("upstream_expected_seconds", &labels, upstream.expected().as_secs_f64());
    }
    for Metric { name, help, counter, value } in feed.metrics() {
        let (name, kind) =
            if counter { (format!("{name}_total"), "counter") } else { (name.into(), "gauge") };
        page.head(&name, kind, help);
        page.line(&name, "", value);
    }
    page.gauge("zone_machines", "Machines in the zone", at.view.counts.machines as f64);
    page.gauge("zone_services", "Services in the zone", at.view.counts.services as f64);
    page.gauge("zone_instances", "Instances in the zone", at.view.counts.instances as f64);
    page.0
}

/// Serves the page until it is told to stop.
pub async fn serve(
    listener: tokio::net::TcpListener,
    metrics: Arc<Metrics>,
    forwarder: Arc<Forwarder>,
    feed: Stats,
    snapshots: watch::Receiver<Arc<Snapshot<Zone>>>,
    stop: CancellationToken,
) {
    let scrape = move || async move {
        let at = snapshots.borrow().clone();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text(&metrics, &forwarder, &feed.read(), &at))
    };
    let router = Router::new().route("/metrics", get(scrape));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "no longer serving metrics");
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = write!(self.0, "# HELP ployz_dns_{name} {help}\n# TYPE ployz_dns_{name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "ployz_dns_{name}{labels} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.head(name, "counter", help);
        self.line(name, "", value.load(Relaxed) as f64);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

const ORIGINS: [&str; 3] = ["own", "kept", "asked"];

/// Response codes by number; the last stands for the rest.
const RCODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"];

/// Types that are told apart; the last stands for the rest.
const QTYPES: [(u16, &str); 14] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (43, "DS"),
    (48, "DNSKEY"),
    (65, "HTTPS"),
    (255, "ANY"),
    (u16::MAX, "other"),
];

/// Microseconds.
const BOUNDS: [u64; 12] =
    [10, 25, 50, 100, 250, 1_000, 5_000, 25_000, 100_000, 500_000, 2_000_000, 5_000_000];
