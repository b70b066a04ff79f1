//! Waiting: for a condition with a deadline of its own, and never past the deadline of the scenario.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Context, Result, bail};

/// Calls `f` until it returns `Ok(Some(value))`.
///
/// `Ok(None)` and `Err` both mean "not yet"; the error of the last call is told when `deadline` passes, so a closure that
/// ends in `bail!("peers: {peers}")` names the last value seen. Only a passed scenario deadline ends the wait at once.
pub fn poll<T>(deadline: Duration, what: &str, mut f: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let last = match f() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) if error.is::<OutOfTime>() => return Err(error).with_context(|| what.to_owned()),
            Err(error) => format!("{error:#}"),
        };
        let spent = start.elapsed();
        if spent >= deadline {
            bail!("waited {spent:.1?} for {what}; last seen: {last}");
        }
        thread::sleep(pause.min(deadline - spent));
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}

/// The error of every lab call after the scenario's deadline.
#[derive(Debug)]
pub struct OutOfTime;

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the scenario's deadline has passed")
    }
}

impl std::error::Error for OutOfTime {}

/// The scenario's deadline, shared by everything that waits in one lab.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<Mutex<Option<Instant>>>);

impl Clock {
    pub(crate) fn set(&self, end: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// `wanted`, or what is left until the deadline when that is less.
    pub(crate) fn limit(&self, wanted: Duration) -> Result<Duration> {
        let Some(end) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(wanted) };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(OutOfTime.into());
        }
        Ok(wanted.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn timeout_names_the_wait_and_the_last_value() {
        let mut n = 0;
        let error = poll(Duration::from_millis(60), "two peers", || -> Result<Option<()>> {
            n += 1;
            bail!("peers: {n}")
        })
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("two peers") && text.contains(&format!("last seen: peers: {n}")), "{text}");
    }

    #[test]
    fn passed_scenario_deadline_ends_the_wait_at_once() {
        let clock = Clock::default();
        clock.set(Some(Instant::now()));
        let start = Instant::now();
        let error = poll(Duration::from_secs(60), "anything", || -> Result<Option<()>> {
            clock.limit(Duration::from_secs(1)).context("run")?;
            Err(anyhow!("unreachable"))
        })
        .unwrap_err();
        assert!(error.is::<OutOfTime>() && start.elapsed() < Duration::from_secs(5));
    }
}
