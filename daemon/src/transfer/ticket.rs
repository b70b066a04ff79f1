//! Tickets: who shows one gets, once, what it was made for. They live in memory only; a daemon that was restarted honours
//! none.

use parking_lot::Mutex;
use ployz_core::id::MachineId;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// The tickets that may be shown now.
#[derive(Default)]
pub struct Tickets(Arc<Mutex<HashMap<Mark, Open>>>);

/// A ticket of which the other end is awaited. Dropped, it is good for nothing.
pub struct Ticket {
    /// What is to be shown: 64 hexadecimal digits.
    pub text: String,
    /// Where the connection comes from which it was shown on.
    pub shown: oneshot::Receiver<TcpStream>,
    mark: Mark,
    all: Arc<Mutex<HashMap<Mark, Open>>>,
}

/// Looked up by hash, so that how long it takes says nothing about the tickets that there are.
type Mark = [u8; 32];

struct Open {
    machine: MachineId,
    until: Instant,
    hand_over: oneshot::Sender<TcpStream>,
}

impl Tickets {
    /// A new one, for this machine.
    pub fn issue(&self, machine: &MachineId) -> Ticket {
        let text = ployz_host::random::bytes::<32>().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let (hand_over, shown) = oneshot::channel();
        let (mark, until) = (mark(&text), Instant::now() + TICKET_TTL);
        self.0.lock().insert(mark, Open { machine: machine.clone(), until, hand_over });
        Ticket { text, shown, mark, all: self.0.clone() }
    }

    /// Takes a ticket that a machine shows; `None` when it is not that machine's, or not good any more. Either way it is
    /// worth nothing afterwards.
    pub fn take(&self, text: &str, machine: &MachineId, now: Instant) -> Option<oneshot::Sender<TcpStream>> {
        let open = self.0.lock().remove(&mark(text))?;
        (open.machine == *machine && now < open.until).then_some(open.hand_over)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.all.lock().remove(&self.mark);
    }
}

fn mark(text: &str) -> Mark {
    Sha256::digest(text.as_bytes()).into()
}

/// From its making until it is shown.
const TICKET_TTL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (MachineId, MachineId) {
        ("n1".parse().unwrap(), "n2".parse().unwrap())
    }

    #[test]
    fn a_ticket_is_good_once_for_its_machine() {
        let (tickets, (n1, n2), now) = (Tickets::default(), ids(), Instant::now());
        let ticket = tickets.issue(&n1);
        assert_eq!(ticket.text.len(), 64);
        assert!(tickets.take("", &n1, now).is_none());
        assert!(tickets.take(&ticket.text, &n1, now).is_some());
        assert!(tickets.take(&ticket.text, &n1, now).is_none(), "shown twice");
        let stolen = tickets.issue(&n1);
        assert!(tickets.take(&stolen.text, &n2, now).is_none());
        assert!(tickets.take(&stolen.text, &n1, now).is_none(), "who shows another's ticket ends it");
    }

    #[test]
    fn a_ticket_ends_with_its_time_and_with_who_waits_for_it() {
        let (tickets, (n1, _), now) = (Tickets::default(), ids(), Instant::now());
        let late = tickets.issue(&n1);
        assert!(tickets.take(&late.text, &n1, now + TICKET_TTL + Duration::from_secs(1)).is_none());
        let given_up = tickets.issue(&n1);
        let text = given_up.text.clone();
        drop(given_up);
        assert!(tickets.take(&text, &n1, now).is_none());
        drop(late);
        assert!(tickets.0.lock().is_empty());
    }
}
