//! Who is connected to the store, as far as this machine knows: who answered last and when, and how a ployzd answers by
//! itself, over the overlay and without the store. What follows from it is decided in `ployz_core::mesh::presence`.

use crate::disk::PeersFile;
use crate::mesh::desired;
use crate::reach;
use async_nats::{RequestError, RequestErrorKind};
use ployz_core::id::MachineId;
use ployz_core::mesh::presence::{Absence, Door};
use ployz_core::wire::v1::join::PORT;
use ployz_netns::namespace;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What one ployzd knows of the others' connections; it outlives its own.
pub struct Presence {
    peers: watch::Receiver<PeersFile>,
    known: Mutex<BTreeMap<MachineId, Known>>,
}

#[derive(Default, Clone, Copy)]
struct Known {
    heard: Option<Instant>,
    given_up: Option<Instant>,
}

impl Presence {
    /// Of these members.
    pub fn of(peers: watch::Receiver<PeersFile>) -> Self {
        Self { peers, known: Mutex::default() }
    }

    /// A machine has answered.
    pub fn heard(&self, machine: &MachineId) {
        let now = Known { heard: Some(Instant::now()), given_up: None };
        lock(&self.known).insert(machine.clone(), now);
    }

    /// A wait for a machine ended without it.
    fn gave_up(&self, machine: &MachineId) {
        lock(&self.known).entry(machine.clone()).or_default().given_up = Some(Instant::now());
    }

    /// Whether to go on waiting for a machine that is not connected, after so long.
    pub async fn is_waited_for(&self, machine: &MachineId, waited: Duration) -> bool {
        let address = self.address(machine);
        let door = match address {
            Some(address) => knock(address).await,
            None => Door::Silent,
        };
        let known = lock(&self.known).get(machine).copied().unwrap_or_default();
        let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
        let absence = Absence { door, heard: ago(known.heard), given_up: ago(known.given_up), waited };
        let goes_on = absence.is_waited_for();
        if !goes_on && !waited.is_zero() {
            self.gave_up(machine);
        }
        goes_on
    }

    fn address(&self, machine: &MachineId) -> Option<Ipv6Addr> {
        let peers = self.peers.borrow();
        peers.machines.iter().find(|peer| peer.id == *machine).map(|peer| peer.overlay_ip)
    }
}

impl Default for Presence {
    fn default() -> Self {
        Self::of(watch::channel(PeersFile::default()).1)
    }
}

/// What is answered to `send` by a machine that may be about to connect again: while it is not there it is asked again for `least`,
/// and for as long as `goes_on` says after so much waiting.
pub async fn connected<T, W, G>(
    least: Duration,
    send: impl Fn() -> W,
    goes_on: impl Fn(Duration) -> G,
) -> Result<T, RequestError>
where
    W: Future<Output = Result<T, RequestError>>,
    G: Future<Output = bool>,
{
    let began = Instant::now();
    loop {
        match send().await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                let waited = began.elapsed();
                if waited >= least && !goes_on(waited).await {
                    return Err(error);
                }
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// A connection to its membership listener, given up as soon as it stands.
async fn knock(overlay: Ipv6Addr) -> Door {
    let to = SocketAddr::V6(SocketAddrV6::new(overlay, PORT, 0, 0));
    let netns = namespace::path(desired::NETNS);
    match tokio::time::timeout(KNOCK, reach::connect(&netns, to)).await {
        Ok(Ok(_)) => Door::Open,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Door::Shut,
        Ok(Err(_)) | Err(_) => Door::Silent,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const AGAIN: Duration = Duration::from_millis(300);
const KNOCK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const LEAST: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_connected_is_waited_for_only_so_long() {
        let (asked, absent) = (Cell::new(0), || Err(RequestError::new(RequestErrorKind::NoResponders)));
        let send = |from| {
            asked.set(asked.get() + 1);
            let there = asked.get() >= from;
            async move { if there { Ok("answer") } else { absent() } }
        };
        let long_away = |_| async { false };
        assert_eq!(connected(LEAST, || send(8), long_away).await.ok(), Some("answer"));
        asked.set(0);
        let began = Instant::now();
        let kind = connected(LEAST, || send(u32::MAX), long_away).await.unwrap_err().kind();
        assert_eq!(kind, RequestErrorKind::NoResponders);
        assert!(began.elapsed() >= LEAST && began.elapsed() < LEAST + 2 * AGAIN);
        asked.set(0);
        assert!(
            connected(Duration::ZERO, || send(2), long_away).await.is_err(),
            "a question is not put again"
        );
        assert_eq!(asked.get(), 1);
        asked.set(0);
        let back_soon = |waited| async move { waited < Duration::from_secs(2) };
        assert_eq!(connected(Duration::ZERO, || send(4), back_soon).await.ok(), Some("answer"));
        assert!(connected(Duration::ZERO, || send(u32::MAX), back_soon).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_answered_lately_is_waited_for_once() {
        let (presence, machine): (Presence, MachineId) = (Presence::default(), "n2".parse().unwrap());
        let goes_on = async |waited| presence.is_waited_for(&machine, Duration::from_secs(waited)).await;
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
