//! The only reader of routing events: a [`Feed`] keeps one [`View`] of them up to date and says how far it is to be
//! trusted. Beside it the writer, [`Publisher`], and the stream itself, [`ensure_stream`].
//!
//! A feed subscribes first, then takes in what the stream holds and what follows; after anything it may have missed it
//! builds anew from nothing, and serves what it had until then. It never serves half of a rebuild.
//!
//! ```no_run
//! use ployz_core::routing::{Freshness, State};
//! use ployz_nats::events::{Feed, Settings, View};
//!
//! struct Zone(usize);
//!
//! impl View for Zone {
//!     fn of(state: &State) -> Self {
//!         Zone(state.services.len())
//!     }
//! }
//!
//! # async fn example(settings: Settings) {
//! let feed = Feed::<Zone>::start(settings);
//! let snapshots = feed.watch(); // clone it into every task that answers
//! let figures = feed.stats(); // and this into whatever serves /metrics
//!
//! // For every request:
//! let now = snapshots.borrow().clone();
//! match now.freshness {
//!     Freshness::Empty => { /* 503, SERVFAIL */ }
//!     Freshness::Live | Freshness::LastGood(_) => { /* answer from now.view */ }
//! }
//! for metric in figures.read().metrics() {
//!     println!("ployz_gateway_{} {}", metric.name, metric.value);
//! }
//! feed.stop().await; // writes the snapshot
//! # }
//! ```

mod feed;
mod follow;
mod link;
mod publish;
mod saver;
mod settings;
mod snapshot;
mod stats;
mod stream;
mod view;

pub use feed::Feed;
pub use publish::{Current, PublishError, Publisher};
pub use settings::{Seed, Settings};
pub use snapshot::last_good;
pub use stats::{FeedStats, Metric, Stats};
pub use stream::ensure_stream;
pub use view::{Snapshot, View};
