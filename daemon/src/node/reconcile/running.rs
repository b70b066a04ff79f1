//! What a run is doing, for `status`: published before each operation, and taken back when the run ends, however it ends.

use ployz_core::adopt::PlannedOp;
use ployz_core::wire::v1::api::RunningOperation;
use tokio::sync::watch;

/// The operation under way; `None` = no run writes anything now.
pub(super) type Running = watch::Sender<Option<RunningOperation>>;

/// Publishes the operations of one run.
pub(super) struct Progress(Running);

impl Progress {
    pub(super) fn new(running: &Running) -> Self {
        Self(running.clone())
    }

    pub(super) fn begin(&self, planned: &PlannedOp) {
        let operation = RunningOperation {
            component: planned.component,
            operation: planned.op.to_string(),
            since: ployz_host::clock::now(),
        };
        self.0.send_replace(Some(operation));
    }
}

/// A run that is dropped in the middle does nothing any more either.
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}
