//! What the clients of every kind have in common.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Waits between two questions; `false` when the run is over. Both branches may be dropped at any time.
pub(super) async fn pause(time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = sleep(time) => true,
    }
}
