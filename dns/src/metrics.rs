//! What is counted, and `GET /metrics` for Prometheus.
//!
//! Labels are from fixed lists, so no query can add a series. Counting is one or two atomic additions.

use crate::forward::Forwarder;
use crate::wire;
use crate::zone::{Counts, Zone};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use ployz_host::page;
use ployz_nats::events::{FeedStats, Snapshot, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use std::fmt;
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

    fn write(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Replies by type of the question and response code";
        let mut family = to.encode_descriptor("queries", help, None, MetricType::Counter)?;
        for ((_, qtype), row) in QTYPES.iter().zip(&self.queries) {
            for (rcode, value) in RCODES.iter().zip(row) {
                let value = value.load(Relaxed);
                if value > 0 {
                    let labels = [("qtype", *qtype), ("rcode", *rcode)];
                    page::write_count(family.encode_family(&labels)?, value)?;
                }
            }
        }
        self.write_durations(to)?;
        for (name, help, value) in [
            ("silent", "Messages that were not answered", &self.silent),
            ("unsent", "Replies that could not be sent", &self.unsent),
            ("overloaded", "Queries refused because too many were waiting", &self.overloaded),
            ("connections_refused", "TCP connections beyond their source's share", &self.connections_refused),
        ] {
            page::counter(to, name, help, value.load(Relaxed))?;
        }
        page::gauge(to, "connections", "TCP connections open", self.connections.load(Relaxed) as f64)
    }

    fn write_durations(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time from reading a query to its reply";
        let mut family = to.encode_descriptor("query_duration_seconds", help, None, MetricType::Histogram)?;
        for (origin, (counts, micros)) in ORIGINS.iter().zip(self.durations.iter().zip(&self.microseconds)) {
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
            let counts = counts.iter().map(|count| count.load(Relaxed));
            let seconds = micros.load(Relaxed) as f64 / 1e6;
            page::write_histogram(family.encode_family(&[("origin", *origin)])?, seconds, bounds, counts)?;
        }
        Ok(())
    }
}

/// What a scrape reads.
pub struct Scrape {
    /// Of the server.
    pub metrics: Arc<Metrics>,
    /// Of the forwarder, and of its upstreams.
    pub forwarder: Arc<Forwarder>,
    /// Of the routing state.
    pub feed: FeedStats,
    /// How many names are served.
    pub zone: Counts,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("feed", &self.feed).finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family =
            to.encode_descriptor("build_info", "The running version", None, MetricType::Gauge)?;
        family.encode_family(&version)?.encode_gauge(&1.0)?;
        self.metrics.write(to)?;
        self.write_forwarding(to)?;
        self.write_upstreams(to)?;
        self.feed.encode(to)?;
        page::gauge(to, "zone_machines", "Machines in the zone", self.zone.machines as f64)?;
        page::gauge(to, "zone_services", "Services in the zone", self.zone.services as f64)?;
        page::gauge(to, "zone_instances", "Instances in the zone", self.zone.instances as f64)
    }
}

impl Scrape {
    fn write_forwarding(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.forwarder.counts;
        for (name, help, value) in [
            ("cache_hits", "External queries answered from the cache", &counts.hits),
            ("cache_misses", "External queries that were not in the cache", &counts.misses),
            ("forward_joined", "External queries that joined one in flight", &counts.joined),
            ("forward_tries", "Queries sent to upstreams", &counts.tries),
            ("forward_stale", "External queries answered with expired cache entries", &counts.stale),
            ("forward_unanswered", "External queries that no upstream answered", &counts.unanswered),
            ("forward_overloaded", "External queries refused: too many in flight", &counts.overloaded),
        ] {
            page::counter(to, name, help, value.load(Relaxed))?;
        }
        page::gauge(to, "cache_entries", "Answers in the cache", self.forwarder.kept() as f64)
    }

    fn write_upstreams(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let upstreams = self.forwarder.upstreams();
        let named: Vec<_> = upstreams
            .iter()
            .map(|upstream| ([("upstream", upstream.address.to_string())], upstream))
            .collect();
        let help = "Attempts at an upstream without a usable answer";
        let mut family = to.encode_descriptor("upstream_failures", help, None, MetricType::Counter)?;
        for (label, upstream) in &named {
            let failures = upstream.failures.load(Relaxed);
            page::write_count(family.encode_family(label)?, failures)?;
        }
        let help = "Expected response time of an upstream";
        let mut family = to.encode_descriptor("upstream_expected_seconds", help, None, MetricType::Gauge)?;
        for (label, upstream) in &named {
            let expected = upstream.expected().as_secs_f64();
            family.encode_family(label)?.encode_gauge(&expected)?;
        }
        Ok(())
    }
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
        let zone = snapshots.borrow().view.counts;
        let scrape = Scrape { metrics, forwarder, feed: feed.read(), zone };
        ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], page::text("ployz_dns", scrape))
    };
    let router = Router::new().route("/metrics", get(scrape));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "no longer serving metrics");
    }
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
