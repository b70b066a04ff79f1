//! How a feed is doing, as numbers.

use parking_lot::Mutex;
use ployz_core::routing::Freshness;
use ployz_host::page;
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Reads a feed's figures; clones read the same feed, also after it was stopped.
#[derive(Debug, Clone, Default)]
pub struct Stats(Arc<Mutex<Inner>>);

/// The figures of a feed at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedStats {
    /// How far what is served can be trusted.
    pub freshness: Freshness,
    /// The stream's number of the last event in what is served.
    pub sequence: u64,
    /// Since when nothing was heard of the stream: at most some seconds while live, `None` when it never was.
    pub age: Option<Duration>,
    /// How often the state was built from nothing.
    pub rebuilds: u64,
    /// How often a message was missed.
    pub gaps: u64,
    /// How often the stream could not be reached or was lost for another reason.
    pub losses: u64,
    /// Messages that this build could not read.
    pub unreadable: u64,
    /// How often a view was made.
    pub views: u64,
    /// How often the snapshot could not be written to disk.
    pub unsaved: u64,
}

/// One figure as Prometheus knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Name, to be put behind a prefix like `ployz_gateway_`; `_total` is not part of it.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it only grows; a gauge otherwise.
    pub counter: bool,
    /// The figure.
    pub value: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// All but the age, which is counted when it is asked for.
    pub figures: FeedStats,
    /// When the stream was last heard of.
    pub heard: Option<SystemTime>,
}

impl Stats {
    /// The figures now.
    pub fn read(&self) -> FeedStats {
        self.with(|inner| FeedStats {
            age: inner.heard.map(|at| at.elapsed().unwrap_or_default()),
            ..inner.figures
        })
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock())
    }
}

impl FeedStats {
    /// Writes them to a metrics page.
    pub fn encode(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for Metric { name, help, counter, value } in self.metrics() {
            if counter {
                page::counter(to, name, help, value as u64)?;
            } else {
                page::gauge(to, name, help, value)?;
            }
        }
        Ok(())
    }

    /// The figures as Prometheus knows them. The age is left out while there is none.
    pub fn metrics(&self) -> Vec<Metric> {
        let gauge = |name, help, value| Metric { name, help, counter: false, value };
        #[allow(clippy::cast_precision_loss)] // Prometheus has floats only.
        let counter = |name, help, value: u64| Metric { name, help, counter: true, value: value as f64 };
        let state = match self.freshness {
            Freshness::Empty => 0.0,
            Freshness::LastGood(_) => 1.0,
            Freshness::Live => 2.0,
        };
        #[allow(clippy::cast_precision_loss)]
        let sequence = self.sequence as f64;
        let mut all = vec![
            gauge("routing_freshness", "0 never filled, 1 last good state, 2 live", state),
            gauge("routing_sequence", "Stream sequence of the routing state that is served", sequence),
            counter("routing_rebuilds", "Full rebuilds of the routing state", self.rebuilds),
            counter("routing_gaps", "Missed routing events", self.gaps),
            counter(
                "routing_losses",
                "Failed or lost connections to the stream of routing events",
                self.losses,
            ),
            counter("routing_unreadable", "Routing events that could not be read", self.unreadable),
            counter("routing_views", "Views built of the routing state", self.views),
            counter("routing_unsaved", "Times the routing snapshot could not be written", self.unsaved),
        ];
        let help = "Seconds since the last message from the stream of routing events";
        all.extend(self.age.map(|age| gauge("routing_age_seconds", help, age.as_secs_f64())));
        all
    }
}
