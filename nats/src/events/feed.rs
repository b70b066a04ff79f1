//! The feed: one task that follows, serves, and says how far what it serves is to be trusted.

use crate::events::follow::{Follow, Step};
use crate::events::link::{Lost, Report, link};
use crate::events::saver::{Due, Saver};
use crate::events::settings::Settings;
use crate::events::snapshot::{self, Kept};
use crate::events::stats::Stats;
use crate::events::view::{Snapshot, View};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ployz_core::address::OverlayPrefix;
use ployz_core::routing::credible::Grounds;
use ployz_core::routing::{Freshness, State, Value};
use ployz_host::backoff::{Backoff, jitter};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Follows the routing events until it is stopped or dropped.
pub struct Feed<V> {
    snapshots: watch::Receiver<Arc<Snapshot<V>>>,
    stats: Stats,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl<V: View> Feed<V> {
    /// Starts to follow; on a tokio runtime. Reads the snapshot on disk, so that what is served first is the last good
    /// state if there is one; waits for nothing else and never fails: what is wrong is in the log and the figures.
    pub fn start(settings: Settings) -> Self {
        let (follow, heard, saver) = begin(&settings, V::reads);
        let freshness = heard.map_or(Freshness::Empty, last_good);
        let first =
            Snapshot { view: Arc::new(V::of(follow.state())), freshness, sequence: follow.sequence() };
        let stats = Stats::default();
        stats.with(|stats| {
            (stats.figures.freshness, stats.figures.sequence, stats.heard) =
                (freshness, first.sequence, heard);
            stats.figures.views = 1;
        });
        let (out, snapshots) = watch::channel(Arc::new(first));
        let settings = Arc::new(settings);
        let stop = CancellationToken::new();
        let now = Instant::now();
        let keeper = Keeper {
            link: link(settings.clone(), Duration::ZERO),
            settings,
            follow,
            out,
            stats: stats.clone(),
            heard: heard.map(|at| (now, at)),
            freshness,
            build: None,
            changed: false,
            earliest: now,
            since: now,
            backoff: Backoff::new(RETRY_DELAY, RETRY_DELAY_MAX),
            said: String::new(),
            saver,
        };
        let task = tokio::spawn(keeper.run(stop.clone()));
        Self { snapshots, stats, stop: stop.drop_guard(), task }
    }

    /// The snapshots from now on; [`watch::Receiver::borrow`] is cheap enough for every request. Its `changed` fails
    /// only when the feed was stopped or has died: a program that did not stop it should end and be started again.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot<V>>> {
        self.snapshots.clone()
    }

    /// The feed's figures.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// Writes the snapshot to disk if it is not there yet, and ends.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(died) = self.task.await {
            tracing::error!(error = %died, "the routing feed task failed");
        }
    }
}

struct Keeper<V> {
    settings: Arc<Settings>,
    link: BoxStream<'static, Report>,
    follow: Follow,
    out: watch::Sender<Arc<Snapshot<V>>>,
    stats: Stats,
    /// When what is served was last known to be what the stream says.
    heard: Option<(Instant, SystemTime)>,
    freshness: Freshness,
    /// When the next snapshot is to go out.
    build: Option<Instant>,
    /// Whether that needs another view.
    changed: bool,
    /// Before this no other view is made.
    earliest: Instant,
    /// When this link caught up.
    since: Instant,
    backoff: Backoff,
    /// The last complaint: each one is said once.
    said: String,
    saver: Saver,
}

impl<V: View> Keeper<V> {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // Timers first: a flood of events must not hold them up. Each arm may be cut short: timers are made again
            // from their instants, the link and the saver keep what they have.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = at(self.build) => self.send(),
                () = at(self.stale()) => self.go_stale(),
                due = self.saver.due() => self.save(due),
                report = self.link.next() => match report {
                    Some(Report::Lost(lost)) => self.lost(&lost),
                    Some(report) => self.take(report),
                    None => self.lost(&Lost::Disconnected),
                },
            }
        }
        let kept = self.kept();
        if let Err(error) = self.saver.finish(kept).await {
            tracing::warn!(%error, "cannot write the routing snapshot");
        }
    }

    fn take(&mut self, report: Report) {
        let (step, unreadable) = self.follow.take(report);
        if let Some(unreadable) = unreadable {
            self.stats.with(|stats| stats.figures.unreadable += 1);
            tracing::warn!(error = %unreadable, "an unreadable routing event counts as a deletion");
        }
        match step {
            Step::Nothing => {}
            Step::Alive => {
                self.alive();
                // Nothing to see, but who waits for this place in the stream has reached it.
                if self.follow.sequence() != self.out.borrow().sequence {
                    self.soon();
                }
            }
            Step::Changed => {
                self.alive();
                self.changed = true;
                self.saver.changed();
                self.soon();
            }
            Step::Caught(differs) => self.caught(differs),
            Step::Gap => {
                self.stats.with(|stats| stats.figures.gaps += 1);
                tracing::info!("a routing event was missed: rebuilding");
                self.again();
            }
        }
    }

    fn caught(&mut self, differs: bool) {
        self.stats.with(|stats| stats.figures.rebuilds += 1);
        self.since = Instant::now();
        self.said.clear();
        self.changed |= differs;
        if differs {
            self.saver.changed()
        } else {
            self.saver.same()
        }
        self.alive();
        self.send();
    }

    /// What is served is what the stream says, now.
    fn alive(&mut self) {
        let now = SystemTime::now();
        self.heard = Some((Instant::now(), now));
        self.stats.with(|stats| stats.heard = Some(now));
        if self.freshness != Freshness::Live {
            tracing::info!(sequence = self.follow.sequence(), "routing is live");
            self.freshness = Freshness::Live;
            self.soon();
        }
    }

    fn lost(&mut self, lost: &Lost) {
        self.stats.with(|stats| stats.figures.losses += 1);
        let text = lost.to_string();
        if text != self.said {
            tracing::warn!(error = text, "routing events are lost; serving the last known state");
            self.said = text;
        }
        self.again();
    }

    /// Opens another link, later the more often that was of no use.
    fn again(&mut self) {
        if self.follow.caught() && self.since.elapsed() > STEADY_AFTER {
            self.backoff.reset();
        }
        self.follow.lost();
        self.link = link(self.settings.clone(), jitter(self.backoff.delay()));
    }

    /// At once if the last view is old enough; otherwise with what comes until then.
    fn soon(&mut self) {
        self.build.get_or_insert(self.earliest);
    }

    fn send(&mut self) {
        self.build = None;
        let begun = Instant::now();
        let view = match std::mem::take(&mut self.changed) {
            true => Arc::new(V::of(self.follow.state())),
            false => self.out.borrow().view.clone(),
        };
        let made = !Arc::ptr_eq(&view, &self.out.borrow().view);
        let (freshness, sequence) = (self.freshness, self.follow.sequence());
        self.stats.with(|stats| {
            (stats.figures.freshness, stats.figures.sequence) = (freshness, sequence);
            stats.figures.views += u64::from(made);
        });
        self.out.send_replace(Arc::new(Snapshot { view, freshness, sequence }));
        let now = Instant::now();
        self.earliest = now + VIEW_INTERVAL.max(now - begun);
    }

    /// When what is served stops being live unless something is heard.
    fn stale(&self) -> Option<Instant> {
        self.heard.filter(|_| self.freshness == Freshness::Live).map(|(at, _)| at + LIVE_GRACE)
    }

    fn go_stale(&mut self) {
        let Some((_, at)) = self.heard else { return };
        tracing::warn!(
            sequence = self.follow.sequence(),
            "serving the last known routing state: the stream is disconnected"
        );
        self.freshness = last_good(at);
        self.send();
    }

    fn save(&mut self, due: Due) {
        match due {
            Due::Write => {
                if let Some(kept) = self.kept() {
                    self.saver.write(kept);
                }
            }
            Due::Touch => self.saver.touch(self.heard.map(|(_, at)| at)),
            Due::Written(Ok(())) => {}
            Due::Written(Err(error)) => {
                self.stats.with(|stats| stats.figures.unsaved += 1);
                tracing::warn!(%error, "cannot write the routing snapshot");
                self.saver.failed();
            }
        }
    }

    fn kept(&self) -> Option<Kept> {
        let (_, live) = self.heard?;
        Some(Kept { state: self.follow.state().clone(), sequence: self.follow.sequence(), live })
    }
}

/// What is served first, since when it may be old, and who keeps it on disk.
fn begin(settings: &Settings, reads: fn(&Value) -> bool) -> (Follow, Option<SystemTime>, Saver) {
    let network = &settings.network;
    let found = settings.snapshot.as_deref().and_then(|path| {
        if let Some(dir) = path.parent() {
            ployz_host::file::sweep(dir, LEFTOVER_AGE);
        }
        snapshot::load(path, network).unwrap_or_else(|refused| {
            let why = ployz_core::text::chain(&refused);
            tracing::warn!(file = %path.display(), error = why, "cannot use the routing snapshot");
            None
        })
    });
    let saver = Saver::new(settings.snapshot.clone(), network.clone(), found.is_some());
    let grounds = Grounds { overlay: OverlayPrefix::of(network), plan: settings.plan };
    match found {
        Some(kept) => {
            let state = grounds.believed(&kept.state);
            (Follow::from(state, kept.sequence, reads, grounds), Some(kept.live), saver)
        }
        None => (Follow::from(State::default(), 0, reads, grounds), None, saver),
    }
}

fn last_good(at: SystemTime) -> Freshness {
    Freshness::LastGood(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// How long the stream may be away and what is served still counts as live: longer than a link takes to notice and to
/// be made anew.
const LIVE_GRACE: Duration = Duration::from_secs(4);
/// A temporary file older than this is a crash's, not a write under way.
const LEFTOVER_AGE: Duration = Duration::from_secs(600);
/// Between two views: what a single event waits at most, and with the view's own time half of a core at most.
const VIEW_INTERVAL: Duration = Duration::from_millis(3);
/// A link that held for as long was a good one.
const STEADY_AFTER: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
