//! Who is connected to the store, as far as this machine knows: who answered last and when, and how a ployzd answers by
//! itself, over the overlay and without the store. What follows from it is decided in `ployz_core::mesh::presence`.

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ployz_core::id::MachineId;
use ployz_core::mesh::presence::{Absence, Door};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Looks whether a machine's ployzd answers by itself, over the overlay; `Silent` for a machine that is not known.
pub type Knock = Box<dyn Fn(&MachineId) -> BoxFuture<'static, Door> + Send + Sync>;

/// What one ployzd knows of the others' connections; it outlives its own.
pub struct Presence {
    knock: Knock,
    known: Mutex<BTreeMap<MachineId, Known>>,
}

#[derive(Default, Clone, Copy)]
struct Known {
    heard: Option<Instant>,
    given_up: Option<Instant>,
}

impl Presence {
    /// With a way to look at a machine.
    pub fn new(knock: Knock) -> Self {
        Self { knock, known: Mutex::default() }
    }

    /// A machine has answered.
    pub fn heard(&self, machine: &MachineId) {
        let now = Known { heard: Some(Instant::now()), given_up: None };
        self.known.lock().insert(machine.clone(), now);
    }

    /// A wait for a machine ended without it.
    fn gave_up(&self, machine: &MachineId) {
        self.known.lock().entry(machine.clone()).or_default().given_up = Some(Instant::now());
    }

    /// Whether to go on waiting for a machine that is not connected, after so long.
    pub async fn should_wait(&self, machine: &MachineId, waited: Duration) -> bool {
        let door = (self.knock)(machine).await;
        let known = self.known.lock().get(machine).copied().unwrap_or_default();
        let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
        let absence = Absence { door, heard: ago(known.heard), given_up: ago(known.given_up), waited };
        let goes_on = absence.should_wait();
        if !goes_on && !waited.is_zero() {
            self.gave_up(machine);
        }
        goes_on
    }
}

impl Default for Presence {
    fn default() -> Self {
        Self::new(Box::new(|_| Box::pin(async { Door::Silent })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_answered_lately_is_waited_for_once() {
        let (presence, machine): (Presence, MachineId) = (Presence::default(), "n2".parse().unwrap());
        let goes_on = async |waited| presence.should_wait(&machine, Duration::from_secs(waited)).await;
        assert!(!goes_on(0).await, "it never answered");
        presence.heard(&machine);
        assert!(goes_on(0).await && goes_on(9).await && !goes_on(10).await);
        assert!(!goes_on(0).await, "the next command does not wait for it once more");
        presence.heard(&machine);
        assert!(goes_on(0).await);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!goes_on(0).await, "it has been away for long");
    }
}
