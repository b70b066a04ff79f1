//! Where the daemon and its sidecars log, the same for all three.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// To the journal when it listens to us, else to standard error; what is said is chosen by `PLOYZ_LOG`, or by `default`.
/// Called once, at the start.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env("PLOYZ_LOG").unwrap_or_else(|_| default.into());
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let registry = tracing_subscriber::registry().with(filter);
    match journal {
        Some(layer) => registry.with(layer).init(),
        None => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false))
            .init(),
    }
}
