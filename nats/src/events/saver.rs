//! When the snapshot is written: at most once a second, never two at a time, and at the end.

use crate::events::snapshot::{self, Kept};
use ployz_core::id::NetworkId;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

/// Keeps one file up to date. Without a path it does nothing.
pub(crate) struct Saver {
    path: Option<PathBuf>,
    network: NetworkId,
    due: Option<Instant>,
    next: Instant,
    touch: Instant,
    running: Option<JoinHandle<io::Result<()>>>,
    /// Whether the file on disk is what is served: only then its time may be moved on.
    ours: bool,
}

/// What there is to do.
pub(crate) enum Due {
    /// Something ended: a write, well or not.
    Written(io::Result<()>),
    /// Call [`Saver::write`].
    Write,
    /// Call [`Saver::touch`].
    Touch,
}

impl Saver {
    /// `ours`: whether the file there is what is served.
    pub fn new(path: Option<PathBuf>, network: NetworkId, ours: bool) -> Self {
        let now = Instant::now();
        Self { path, network, due: None, next: now, touch: now + TOUCH_INTERVAL, running: None, ours }
    }

    /// What is served has changed.
    pub fn changed(&mut self) {
        if self.path.is_some() {
            self.due.get_or_insert(self.next);
        }
    }

    /// What is served was built anew and is the same; written only if it is not on disk yet.
    pub fn same(&mut self) {
        if !self.ours {
            self.changed();
        }
    }

    /// Waits until there is something to do. Cut short, it loses nothing.
    pub async fn due(&mut self) -> Due {
        if let Some(running) = &mut self.running {
            let done = running.await.unwrap_or_else(|died| Err(io::Error::other(died)));
            self.running = None;
            return Due::Written(done);
        }
        match self.due {
            Some(at) => {
                sleep_until(at).await;
                Due::Write
            }
            None if self.ours && self.path.is_some() => {
                sleep_until(self.touch).await;
                Due::Touch
            }
            None => pending().await,
        }
    }

    /// Writes.
    pub fn write(&mut self, kept: Kept) {
        let now = Instant::now();
        (self.due, self.next, self.touch) = (None, now + SAVE_INTERVAL, now + TOUCH_INTERVAL);
        let Some(path) = self.path.clone() else { return };
        let network = self.network.clone();
        self.ours = true;
        self.running = Some(spawn_blocking(move || snapshot::save(&path, &network, &kept)));
    }

    /// Moves the file's time on; `None` when nothing is known of it.
    pub fn touch(&mut self, live: Option<SystemTime>) {
        self.touch = Instant::now() + TOUCH_INTERVAL;
        if let (Some(path), Some(live)) = (self.path.clone(), live) {
            self.running = Some(spawn_blocking(move || snapshot::touch(&path, live)));
        }
    }

    /// It could not be written: another time.
    pub fn failed(&mut self) {
        self.ours = false;
        self.next = Instant::now() + RETRY_DELAY;
        self.due = Some(self.next);
    }

    /// Writes what is not written yet, for the last time.
    pub async fn finish(mut self, kept: Option<Kept>) -> io::Result<()> {
        if let Some(running) = self.running.take() {
            let _ = running.await;
        }
        let Some(kept) = kept else { return Ok(()) };
        match (self.due.is_some(), self.ours) {
            (true, _) => self.write(kept),
            (false, true) => self.touch(Some(kept.live)),
            (false, false) => {}
        }
        match self.running {
            Some(running) => running.await.unwrap_or_else(|died| Err(io::Error::other(died))),
            None => Ok(()),
        }
    }
}

const SAVE_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// How exact the time of the last good state is after a crash.
const TOUCH_INTERVAL: Duration = Duration::from_secs(10);
