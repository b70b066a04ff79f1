//! A command that runs in a node while the test goes on.
//!
//! It leads a session of its own, noted in a file of the node: ending the near side of an ssh connection would not end it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::host::{Input, Output, Running, quote};
use super::node::{Entry, Node};

/// A command that runs in a node meanwhile. Dropping it stops it.
pub struct Background {
    node: Node,
    cmd: String,
    mark: String,
    running: Option<Running>,
}

impl Background {
    pub(super) fn start(node: &Node, cmd: &str) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("/run/lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let script = format!("exec setsid -w bash -c 'echo $$ >{mark}; exec bash -c \"$0\"' {}", quote(cmd));
        let running = Running::start(&mut node.enter(&script, Entry::Unlimited)?, Input::Nothing)?;
        Ok(Self { node: node.clone(), cmd: cmd.to_owned(), mark, running: Some(running) })
    }

    /// What it printed to standard output so far.
    pub fn stdout(&self) -> String {
        self.running.as_ref().map(Running::stdout).unwrap_or_default()
    }

    /// What it printed to standard error so far.
    pub fn stderr(&self) -> String {
        self.running.as_ref().map(Running::stderr).unwrap_or_default()
    }

    /// Waits for its end.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let limit = self.node.clock().limit(limit)?;
        let what = format!("{}: `{}`", self.node.name(), self.cmd);
        let mut running = self.running.take().context("already stopped")?;
        if let Some(status) = running.wait(limit)? {
            return Ok(running.output(status));
        }
        self.running = Some(running);
        let output = self.stop().with_context(|| what.clone())?;
        bail!("{what} did not end within {limit:.1?}: {}", output.describe())
    }

    /// Ends it: SIGTERM to its session, SIGKILL two seconds later; returns all it printed.
    pub fn stop(mut self) -> Result<Output> {
        self.end()
    }

    fn end(&mut self) -> Result<Output> {
        let mut running = self.running.take().context("already stopped")?;
        for signal in ["TERM", "KILL"] {
            if let Some(status) = running.wait(Duration::ZERO)? {
                return Ok(running.output(status));
            }
            let cmd = format!("kill -{signal} -- -$(cat {0})", self.mark);
            let _ = self.node.run_for(Duration::from_secs(5), &cmd);
            let limit = self.node.lane().scale(Duration::from_secs(2));
            if let Some(status) = running.wait(limit)? {
                return Ok(running.output(status));
            }
        }
        running.kill(Signal::SIGKILL); // the node is frozen or gone: end our side of it
        running.finish(Duration::from_secs(1))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.running.is_some() {
            let _ = self.end();
        }
    }
}
