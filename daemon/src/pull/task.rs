//! What takes long on behalf of a coordinator: begun when it is first asked for, looked at when it is asked for again, and
//! given up when nothing asks any more. A coordinator that died leaves no pull behind, and two that want the same share it.

use parking_lot::Mutex;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::pull::PullAnswer;
use ployz_engine::registry::Progress;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

type Result<T> = std::result::Result<T, DeployFailure>;

/// By what they do.
#[derive(Default)]
pub struct Tasks(Mutex<BTreeMap<String, Task>>);

struct Task {
    shared: Arc<Shared>,
    _work: AbortOnDropHandle<()>,
}

struct Shared {
    progress: Arc<Progress>,
    asked: Mutex<Instant>,
    outcome: OnceLock<Result<()>>,
}

impl Tasks {
    /// How far the work of this key is, which is begun if it is not under way. Its outcome is given once; asked for again, it
    /// begins again.
    pub fn look<W>(&self, key: &str, work: impl FnOnce(Arc<Progress>) -> W) -> Result<PullAnswer>
    where
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let mut tasks = self.0.lock();
        tasks.retain(|_, task| task.shared.outcome.get().is_none() || task.shared.idle() < OUTCOME_RETENTION);
        if let Some(task) = tasks.get(key) {
            task.shared.ask();
            let Some(outcome) = task.shared.outcome.get().cloned() else {
                return Ok(PullAnswer::Working(task.shared.progress.now()));
            };
            tasks.remove(key);
            return outcome.map(|()| PullAnswer::Done);
        }
        if tasks.len() >= MOST {
            let what = "too many pulls in progress on this machine";
            return Err(DeployFailure::new(ErrorCode::TransferBusy, what));
        }
        let shared = Arc::new(Shared {
            progress: Arc::default(),
            asked: Mutex::new(Instant::now()),
            outcome: OnceLock::new(),
        });
        let work = carry_out(shared.clone(), work(shared.progress.clone()));
        let answer = PullAnswer::Working(shared.progress.now());
        tasks.insert(key.to_owned(), Task { shared, _work: AbortOnDropHandle::new(tokio::spawn(work)) });
        Ok(answer)
    }
}

async fn carry_out(shared: Arc<Shared>, work: impl Future<Output = Result<()>>) {
    let failure = |what: String| Err(DeployFailure::new(ErrorCode::ImagePullFailed, what));
    // Cancel-safe: given up, an engine drops what it has not got whole.
    let outcome = tokio::select! {
        done = work => done,
        () = shared.unattended() => failure("aborted: no machine waits for it any more".into()),
        () = tokio::time::sleep(PULL_TIMEOUT) => failure(format!("timed out after {}s", PULL_TIMEOUT.as_secs())),
    };
    let _ = shared.outcome.set(outcome);
}

impl Shared {
    fn ask(&self) {
        *self.asked.lock() = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.asked.lock().elapsed()
    }

    async fn unattended(&self) {
        while self.idle() < UNATTENDED_TIMEOUT {
            tokio::time::sleep(UNATTENDED_TIMEOUT.saturating_sub(self.idle())).await;
        }
    }
}

/// A coordinator asks every second; its store may be away for a moment.
const UNATTENDED_TIMEOUT: Duration = Duration::from_secs(30);
/// An outcome that was not asked for.
const OUTCOME_RETENTION: Duration = Duration::from_secs(60);
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn work_is_begun_once_and_its_outcome_is_given() {
        let (tasks, begun) = (Tasks::default(), AtomicU32::new(0));
        let look = || {
            tasks.look("a", |_| {
                begun.fetch_add(1, Ordering::Relaxed);
                async {
                    tokio::time::sleep(Duration::from_secs(100)).await;
                    Ok(())
                }
            })
        };
        for _ in 0..90 {
            assert!(matches!(look(), Ok(PullAnswer::Working(_))));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!((look(), begun.load(Ordering::Relaxed)), (Ok(PullAnswer::Done), 1));
        assert!(matches!(look(), Ok(PullAnswer::Working(_))), "asked for again it begins again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nothing_asks_for_any_more_is_given_up() {
        struct Dropped(Arc<AtomicU32>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (tasks, dropped) = (Tasks::default(), Arc::new(AtomicU32::new(0)));
        let guard = Dropped(dropped.clone());
        let work = |_| async move {
            let _guard = guard;
            std::future::pending().await
        };
        assert!(tasks.look("a", work).is_ok());
        tokio::time::sleep(UNATTENDED_TIMEOUT + Duration::from_secs(1)).await;
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
        let answer = tasks.look("a", |_| std::future::pending());
        assert_eq!(answer.unwrap_err().code, "IMAGE_PULL_FAILED");
    }
}
