//! What is being done, on a terminal's standard error, for anything that takes over a second. Never when piped.

use crate::render::text::clean;
use ployz_core::wire::v1::api_deploy::DeployMark;
use std::cell::RefCell;
use std::future;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Holds messages back until the operation has lasted long enough to be worth a word.
pub(crate) struct Progress {
    held_until: Option<Instant>,
    latest: String,
    on: bool,
    deploy: Rc<RefCell<Option<DeployMark>>>,
}

impl Progress {
    /// Shown on a terminal, when `wanted`.
    pub(crate) fn on_terminal(wanted: bool) -> Self {
        Self {
            held_until: Some(Instant::now() + FIRST_LINE_DELAY),
            latest: "waiting for ployzd".to_owned(),
            on: wanted && io::stderr().is_terminal(),
            deploy: Rc::default(),
        }
    }

    /// Never shown.
    pub(crate) fn silent() -> Self {
        Self { held_until: None, latest: String::new(), on: false, deploy: Rc::default() }
    }

    /// Holds nothing back.
    pub(crate) fn at_once(self) -> Self {
        Self { held_until: None, ..self }
    }

    /// Takes a message: shown at once, or when the patience is over if it is still the latest.
    pub(crate) fn say(&mut self, message: &str) {
        clean(message).clone_into(&mut self.latest);
        if self.held_until.is_none() {
            self.show();
        }
    }

    /// Notes which deploy is under way.
    pub(crate) fn note(&self, deploy: DeployMark) {
        *self.deploy.borrow_mut() = Some(deploy);
    }

    /// The deploy that is under way, as soon as that is known.
    pub(crate) fn deploy(&self) -> Rc<RefCell<Option<DeployMark>>> {
        self.deploy.clone()
    }

    /// Waits until the messages held back may be shown; for ever when there is nothing to wait for.
    pub(crate) async fn patience(&self) {
        match self.held_until {
            Some(until) if self.on => sleep_until(until).await,
            _ => future::pending().await,
        }
    }

    /// Shows the latest message and holds none back from now on.
    pub(crate) fn open(&mut self) {
        self.held_until = None;
        self.show();
    }

    fn show(&self) {
        if self.on {
            let _ = writeln!(io::stderr().lock(), "... {}", self.latest);
        }
    }
}

const FIRST_LINE_DELAY: Duration = Duration::from_secs(1);
