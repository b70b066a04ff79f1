//! Deploys that this daemon carries out, and those that ended lately: what each has said so far and how it ended, for the
//! caller who asked for it and for all who attach later. A caller that goes away ends nothing; giving a deploy up is asked
//! for by name, and counts only until it is committed.

use crate::failure::{Failure, Result};
use parking_lot::Mutex;
use ployz_core::id::{DeployId, Namespace};
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Event};
use ployz_core::wire::v1::api_deploy::{DeployMark, DeployRequest, ServiceRequest};
use ployz_core::wire::v1::deploy::DeployFailure;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Deploys by when they began, the latest last.
#[derive(Default)]
pub struct Running {
    known: Mutex<VecDeque<Arc<Attended>>>,
}

/// What was asked for: the same again is the same deploy while it is under way.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// A namespace, or one service of it.
    Deploy(DeployRequest),
    /// One service less.
    Remove(ServiceRequest),
}

/// One deploy, as those see it who follow it.
pub struct Attended {
    /// Its id.
    pub id: DeployId,
    /// The namespace it changes.
    pub namespace: Namespace,
    wish: Wish,
    given_up: CancellationToken,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The last lines.
    lines: VecDeque<String>,
    /// How many came before them and are not kept.
    dropped: usize,
    committed: bool,
    end: Option<(Envelope, Instant)>,
}

impl Wish {
    /// The namespace it is about.
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::Deploy(request) => &request.manifest.namespace,
            Self::Remove(request) => &request.namespace,
        }
    }
}

impl Running {
    /// The deploy that this wish has under way, or a new one; whether it is new.
    pub fn attend(&self, wish: &Wish, id: DeployId) -> (Arc<Attended>, bool) {
        let mut known = self.known.lock();
        known.retain(|one| one.ended().is_none_or(|ago| ago < ENDED_RETENTION));
        if let Some(same) = known.iter().rfind(|one| one.ended().is_none() && one.wish == *wish) {
            return (same.clone(), false);
        }
        let over = known.iter().filter(|one| one.ended().is_some()).count();
        if over >= MOST
            && let Some(oldest) = known.iter().position(|one| one.ended().is_some())
        {
            known.remove(oldest);
        }
        let one = Arc::new(Attended {
            id,
            namespace: wish.namespace().clone(),
            wish: wish.clone(),
            given_up: CancellationToken::new(),
            progress: watch::Sender::default(),
        });
        known.push_back(one.clone());
        (one, true)
    }

    /// The one of this id; without one the latest that is under way, else the latest that ended.
    pub fn find(&self, id: Option<&DeployId>) -> Option<Arc<Attended>> {
        let known = self.known.lock();
        let found = match id {
            Some(id) => known.iter().rfind(|one| one.id == *id),
            None => known.iter().rfind(|one| one.ended().is_none()).or_else(|| known.back()),
        };
        found.cloned()
    }

    /// What else is under way in the namespace of this one.
    pub fn others(&self, one: &Attended) -> Option<Arc<Attended>> {
        let in_it = |other: &&Arc<Attended>| {
            other.namespace == one.namespace && other.id != one.id && other.ended().is_none()
        };
        self.known.lock().iter().find(in_it).cloned()
    }
}

impl Attended {
    /// Tells all who follow it.
    pub fn say(&self, line: &str) {
        self.progress.send_modify(|progress| {
            progress.lines.push_back(line.to_owned());
            if progress.lines.len() > LINES {
                progress.lines.pop_front();
                progress.dropped += 1;
            }
        });
    }

    /// From here on nothing can be undone.
    pub fn committed(&self) {
        self.progress.send_modify(|progress| progress.committed = true);
    }

    /// Whether it is committed.
    pub fn is_committed(&self) -> bool {
        self.progress.borrow().committed
    }

    /// It is over.
    pub fn end(&self, envelope: Envelope) {
        self.progress.send_modify(|progress| progress.end = Some((envelope, Instant::now())));
    }

    /// Asks for it to be given up.
    pub fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Whether that was asked for.
    pub fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }

    /// Ends when that is asked for.
    pub async fn until_given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// Work that changes nothing yet, unless the deploy is given up meanwhile.
    pub async fn unless_given_up<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        // Cancel-safe: nothing was changed, so there is nothing to undo.
        let done = self.given_up.run_until_cancelled(work).await;
        done.ok_or_else(|| {
            let message = format!("deploy {} was aborted; nothing was changed", self.id);
            Failure::new(ErrorCode::DeployAborted, message)
        })
    }

    /// Why it comes to nothing, when it was given up.
    pub fn aborted(&self) -> DeployFailure {
        DeployFailure::new(ErrorCode::DeployAborted, "aborted by an operator")
    }

    /// Everything from its beginning, as it comes; returns how it ended.
    pub async fn follow(&self, send: &(dyn Fn(Event) + Send + Sync)) -> Envelope {
        let mut progress = self.progress.subscribe();
        let mut shown = 0;
        loop {
            let (lines, committed, end) = {
                let now = progress.borrow_and_update();
                let fresh = now.lines.iter().skip(shown.max(now.dropped) - now.dropped);
                let lines: Vec<String> = fresh.cloned().collect();
                shown = now.dropped + now.lines.len();
                (lines, now.committed, now.end.as_ref().map(|(envelope, _)| envelope.clone()))
            };
            for message in lines {
                send(Event::Progress { message, deploy: Some(self.mark(committed)) });
            }
            if let Some(end) = end {
                return end;
            }
            if progress.changed().await.is_err() {
                let message = format!("deploy {} was interrupted", self.id);
                return Envelope::error(ErrorCode::DeployInterrupted, message, Vec::new());
            }
        }
    }

    fn mark(&self, committed: bool) -> DeployMark {
        DeployMark { id: self.id.clone(), namespace: self.namespace.clone(), committed }
    }

    fn ended(&self) -> Option<Duration> {
        self.progress.borrow().end.as_ref().map(|(_, at)| at.elapsed())
    }
}

/// How long one that ended can be attached to.
const ENDED_RETENTION: Duration = Duration::from_secs(3600);
/// How many that ended are kept.
const MOST: usize = 20;
/// Lines kept of each: an image's progress comes once a second.
const LINES: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(namespace: &str) -> Wish {
        Wish::Remove(ServiceRequest {
            namespace: namespace.parse().unwrap(),
            service: "web".parse().unwrap(),
        })
    }

    fn id(n: u8) -> DeployId {
        DeployId::from_bytes([n; 8])
    }

    async fn all(one: &Attended) -> (Vec<String>, Envelope) {
        let lines = Mutex::new(Vec::new());
        let take = |event| {
            if let Event::Progress { message, deploy } = event {
                let mark = deploy.unwrap();
                lines.lock().push(format!("{} {} {message}", mark.id, mark.committed));
            }
        };
        let end = one.follow(&take).await;
        (lines.into_inner(), end)
    }

    #[tokio::test]
    async fn who_attaches_late_sees_all_from_the_beginning_and_the_end() {
        let running = Running::default();
        let (one, is_new) = running.attend(&wish("shop"), id(1));
        assert!(is_new);
        one.say("a");
        let early = all(&one);
        let (early, ()) = tokio::join!(early, async {
            tokio::task::yield_now().await;
            one.committed();
            one.say("b");
            one.end(Envelope::ok("done", None));
        });
        let (lines, end) = all(&running.find(Some(&id(1))).unwrap()).await;
        assert_eq!((lines.len(), end.message.as_str()), (2, "done"));
        assert!(lines[1].ends_with("true b"), "{lines:?}");
        assert!(early.0.len() == 2 && early.0[0].ends_with("false a"), "{early:?}");
        assert_eq!(early.1, end);
    }

    #[tokio::test]
    async fn the_same_wish_is_the_same_deploy_until_it_is_over() {
        let running = Running::default();
        let (one, _) = running.attend(&wish("shop"), id(1));
        let (again, is_new) = running.attend(&wish("shop"), id(2));
        assert!(!is_new && again.id == one.id);
        let (other, is_new) = running.attend(&wish("blog"), id(3));
        assert!(is_new && running.find(None).unwrap().id == other.id);
        assert!(running.others(&one).is_none(), "that is another namespace");
        other.end(Envelope::ok("done", None));
        assert_eq!(running.find(None).unwrap().id, one.id, "one under way comes before one that ended");
        one.end(Envelope::ok("done", None));
        assert!(running.attend(&wish("shop"), id(4)).1);
        assert_eq!(running.others(&one).map(|other| other.id.clone()), Some(id(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_in_number_time_and_lines() {
        let running = Running::default();
        for n in 0..30 {
            let (one, _) = running.attend(&wish("shop"), id(n));
            (0..LINES + 5).for_each(|line| one.say(&line.to_string()));
            one.end(Envelope::ok("done", None));
        }
        assert_eq!(running.known.lock().len(), MOST);
        let (lines, _) = all(&running.find(Some(&id(29))).unwrap()).await;
        assert!(lines.len() == LINES && lines[0].ends_with(" 5"), "{}", lines[0]);
        assert!(running.find(Some(&id(0))).is_none());
        tokio::time::sleep(ENDED_RETENTION).await;
        running.attend(&wish("blog"), id(99));
        assert_eq!(running.known.lock().len(), 1);
    }

    #[tokio::test]
    async fn what_was_given_up_before_it_changed_anything_says_so() {
        let (one, _) = Running::default().attend(&wish("shop"), id(1));
        assert_eq!(one.unless_given_up(async { 1 }).await.unwrap(), 1);
        one.give_up();
        let failure = one.unless_given_up(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::DeployAborted);
    }
}
