//! What transfers share on this machine: tickets and limits.

use crate::transfer::ticket::Tickets;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Transfers of one network on this machine.
pub struct Transfers {
    /// What may be asked for now.
    pub tickets: Tickets,
    /// Transfers from here at a time.
    pub sending: Semaphore,
    /// Transfers to here at a time.
    pub fetching: Arc<Semaphore>,
    /// Questions and orders about transfers at a time.
    pub asked: Arc<Semaphore>,
    pub(super) opening: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            tickets: Tickets::default(),
            sending: Semaphore::new(AT_ONCE),
            fetching: Arc::new(Semaphore::new(AT_ONCE)),
            asked: Arc::new(Semaphore::new(ASKED)),
            opening: Arc::new(Semaphore::new(OPENING)),
            refused: AtomicU64::new(0),
        }
    }
}

impl Transfers {
    /// Connections that were closed because no transfer expected them.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// An engine packs or unpacks a whole image for each: more at a time would only be slower.
const AT_ONCE: usize = 3;
const ASKED: usize = 16;
/// Connections that have not shown a ticket yet.
const OPENING: usize = 16;
