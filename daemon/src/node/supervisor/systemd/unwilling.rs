//! Sockets that the manager does not open although they look free.

use crate::node::supervisor::ports;
use parking_lot::Mutex;
use ployz_core::live::SidecarLive;
use ployz_core::spec::SidecarSpec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sockets that could be opened by all that can be seen, and that the manager nevertheless did not open: they are left
/// alone for a while, because every try is a restart.
#[derive(Clone, Default)]
pub(super) struct Unwilling(Arc<Mutex<BTreeMap<String, (Instant, String)>>>);

impl Unwilling {
    /// Those of the missing that are not tried again yet.
    pub(super) fn of(&self, spec: &SidecarSpec, live: &SidecarLive) -> BTreeMap<String, String> {
        let mut noted = self.0.lock();
        noted.retain(|_, (since, _)| since.elapsed() < RETRY_INTERVAL);
        let missing = spec.routes.wanted.iter().filter(|want| ports::is_missing(want, live));
        let purposes = missing.map(|want| &want.purpose);
        purposes.filter_map(|purpose| Some((purpose.clone(), noted.get(purpose)?.1.clone()))).collect()
    }

    pub(super) fn note(&self, told: BTreeMap<String, String>) {
        let mut noted = self.0.lock();
        let now = Instant::now();
        noted.extend(told.into_iter().map(|(purpose, why)| {
            let why = format!("systemd did not open it: {why}");
            tracing::warn!(purpose, error = why, "a socket is not open");
            (purpose, (now, why))
        }));
    }
}

const RETRY_INTERVAL: Duration = Duration::from_secs(60);
