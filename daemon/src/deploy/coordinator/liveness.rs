//! Waiting for an answer that may never come: a machine that is asked is pinged meanwhile, and asked again when the process
//! that was asked is gone. What is asked in this way must bear to be asked twice.

use std::time::Duration;
use tokio::time::Instant;

/// Result of a ping: which process answers on that machine, if it says so, or why none does.
pub(super) type Ping = Result<Option<String>, String>;

/// The answer, within `limit` whatever happens to the machine; `None` if it went away.
///
/// `send` is given the time that is left, and ends after it.
pub(super) async fn answer<T, S: Future<Output = T>, P: Future<Output = Ping>>(
    limit: Duration,
    send: impl Fn(Duration) -> S,
    ping: impl Fn() -> P,
) -> Option<T> {
    let until = Instant::now() + limit;
    let mut pulse = Pulse::default();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Pinged first: the process that answers was there before the command came, or started after it was sent.
        // Cancel-safe: pings change nothing, and an answer that is no longer waited for is requested again.
        tokio::select! {
            biased;
            gone = pulse.lost(&ping) => if gone { return None },
            answer = send(left) => return Some(answer),
        }
    }
}

/// Results of the pings of one machine so far.
#[derive(Debug, Default)]
struct Pulse {
    /// The process that answered last; `None` = none did yet.
    run: Option<Option<String>>,
    /// Pings without an answer since.
    silent: u32,
}

/// What to do after a ping.
#[derive(Debug, PartialEq)]
enum Next {
    Wait,
    /// Another one is there, or answers did not come through for a while.
    AskAgain,
    Gone,
}

impl Pulse {
    fn after(&mut self, ping: Ping) -> Next {
        let Ok(run) = ping else {
            self.silent += 1;
            return if self.silent < MISSED_PINGS_MAX { Next::Wait } else { Next::Gone };
        };
        let missed = std::mem::take(&mut self.silent) > 0;
        let another = self.run.as_ref().is_some_and(|known| *known != run);
        self.run = Some(run);
        if missed || another { Next::AskAgain } else { Next::Wait }
    }

    /// Ends when the answer may be lost: with the machine, or without it.
    async fn lost<P: Future<Output = Ping>>(&mut self, ping: impl Fn() -> P) -> bool {
        loop {
            match self.after(ping().await) {
                Next::Wait => tokio::time::sleep(PING_INTERVAL).await,
                Next::AskAgain => return false,
                Next::Gone => return true,
            }
        }
    }
}

const PING_INTERVAL: Duration = Duration::from_secs(4);
/// A ployzd that is upgraded is away for a few seconds.
const MISSED_PINGS_MAX: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::future::pending;

    fn run(name: &str) -> Ping {
        Ok(Some(name.to_owned()))
    }

    fn silence() -> Ping {
        Err("no answer".to_owned())
    }

    /// A command that takes `work`; everything before the `lost`th time is never answered. Pings by the second.
    async fn asked(lost: u32, work: u64, pings: impl Fn(u64) -> Ping) -> (u32, Option<bool>, u64) {
        let (began, times) = (Instant::now(), Cell::new(0));
        let send = |left: Duration| {
            times.set(times.get() + 1);
            let is_lost = times.get() <= lost;
            let answer = async move {
                if is_lost {
                    pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_secs(work)).await;
            };
            async move { tokio::time::timeout(left, answer).await.is_ok() }
        };
        let ping = || {
            let result = pings(began.elapsed().as_secs());
            async { result }
        };
        let answer = answer(Duration::from_secs(900), send, ping).await;
        (times.get(), answer, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_at_work_is_waited_for_and_asked_once() {
        assert_eq!(asked(0, 500, |_| run("a")).await, (1, Some(true), 500));
        assert_eq!(
            asked(0, 500, |_| Ok(None)).await,
            (1, Some(true), 500),
            "one that does not say who it is"
        );
        assert_eq!(asked(0, 1000, |_| run("a")).await, (1, Some(false), 900));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_restarts_is_asked_again() {
        let at_once = asked(1, 2, |second| run(if second < 10 { "a" } else { "b" })).await;
        assert_eq!(at_once, (2, Some(true), 14));
        let later = asked(1, 2, |second| if second < 10 { silence() } else { Ok(None) }).await;
        assert_eq!(later, (2, Some(true), 14), "and one that does not say who it is, when it was silent");
        let twice = asked(2, 2, |second| run(["a", "b", "c"][(second as usize / 20).min(2)])).await;
        assert_eq!(twice, (3, Some(true), 42));
        let upgraded = asked(1, 2, |second| if second < 10 { Ok(None) } else { run("b") }).await;
        assert_eq!(upgraded, (2, Some(true), 14));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_restarts_all_the_time_is_not_asked_for_ever() {
        let (times, answer, took) = asked(1000, 2, |second| run(&second.to_string())).await;
        assert!(answer == Some(false) && took == 900 && times < 300, "{times} {answer:?} {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stays_silent_is_gone() {
        let gone = asked(1, 2, |second| if second < 10 { run("a") } else { silence() }).await;
        assert_eq!(gone, (1, None, 24));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_pinged_before_it_is_asked() {
        let order = RefCell::new(Vec::new());
        let send = |_| async { order.borrow_mut().push("command") };
        let ping = || async {
            order.borrow_mut().push("ping");
            run("a")
        };
        assert_eq!(answer(Duration::from_secs(10), send, ping).await, Some(()));
        assert_eq!(order.into_inner(), ["ping", "command"]);
    }
}
