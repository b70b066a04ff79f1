//! The page at `/metrics`, in the text format of OpenMetrics 1.0: one way to write what is counted elsewhere.
//!
//! Values are read when the page is asked for. A counter is named without `_total`, which the format adds.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The page's media type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page of these values; every name begins with the prefix and `_`.
pub fn text(prefix: &str, values: impl Collector) -> String {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(values));
    let mut text = String::new();
    // Only whole families are written, each from one place; writing into a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

/// A counter without labels.
pub fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: u64) -> fmt::Result {
    write_count(to.encode_descriptor(name, help, None, MetricType::Counter)?, count)
}

/// A gauge without labels.
pub fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

/// The value of a counter.
pub fn write_count(mut to: MetricEncoder<'_>, count: u64) -> fmt::Result {
    to.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

/// The value of a histogram: its sum, the upper bounds of its buckets, and the count of each bucket alone, of which the last
/// one, beyond all bounds, is the bucket `+Inf`.
pub fn write_histogram(
    mut to: MetricEncoder<'_>,
    sum: f64,
    bounds: impl Iterator<Item = f64>,
    counts: impl Iterator<Item = u64>,
) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    to.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}
