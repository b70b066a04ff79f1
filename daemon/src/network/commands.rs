//! What a running network remembers of the commands of other machines.

use parking_lot::Mutex;
use ployz_core::id::{MachineId, OperationId};
use ployz_core::mesh::command::Nonces;
use ployz_core::wire::v1::envelope::Refusal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a network remembers of the commands it was sent.
#[derive(Default)]
pub struct Memory {
    pub(super) nonces: Mutex<Nonces>,
    refused: Mutex<BTreeMap<Option<MachineId>, Complaints>>,
    prepared: Mutex<Option<(OperationId, Instant)>>,
}

/// Refusals of one sender: a line for the first, then one a while that says how many there were.
struct Complaints {
    said: Instant,
    since: u64,
}

impl Memory {
    /// Notes that this machine agreed to be destroyed by an operation.
    pub fn prepare(&self, operation: OperationId) {
        *self.prepared.lock() = Some((operation, Instant::now()));
    }

    /// Whether it did, a moment ago. Asked once: what is executed is prepared for again.
    pub fn is_prepared(&self, operation: &OperationId) -> bool {
        let prepared = self.prepared.lock().take();
        prepared.is_some_and(|(known, at)| known == *operation && at.elapsed() < PREPARED_TTL)
    }

    /// Writes a refusal to the audit log; false for one of many in a short time, which are counted.
    pub(super) fn refused(&self, claimed: Option<MachineId>, command: &str, refusal: &Refusal) -> bool {
        let mut refused = self.refused.lock();
        let now = Instant::now();
        let claimed_sender = claimed.as_ref().map(ToString::to_string);
        let before = match refused.get_mut(&claimed) {
            Some(complaints) if now - complaints.said < REPEAT_INTERVAL => {
                complaints.since += 1;
                return false;
            }
            Some(complaints) => complaints.since,
            None => 0,
        };
        tracing::warn!(
            target: "audit",
            command = command.chars().take(MAX_SHOWN).collect::<String>(),
            claimed_sender,
            reason = %refusal,
            more_since_last = before,
            "command of another machine refused"
        );
        refused.insert(claimed, Complaints { said: now, since: 0 });
        true
    }
}

/// A sender that is refused again and again costs a line in as much time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Between the two halves of a destruction: every machine is asked once, and each takes seconds to leave.
const PREPARED_TTL: Duration = Duration::from_secs(600);
/// Of a command that another machine made up.
const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_is_written_down_once() {
        let (memory, n2) = (Memory::default(), Some("n2".parse().unwrap()));
        assert!(memory.refused(n2.clone(), "ping", &Refusal::Unsigned));
        assert!(!memory.refused(n2.clone(), "ping", &Refusal::Unsigned));
        assert!(memory.refused(None, "ping", &Refusal::Unsigned), "another sender");
        assert_eq!(memory.refused.lock()[&n2].since, 1);
    }

    #[test]
    fn a_destruction_is_executed_once_and_only_as_prepared() {
        let (memory, id) = (Memory::default(), OperationId::from_bytes([1; 8]));
        assert!(!memory.is_prepared(&id));
        memory.prepare(id.clone());
        assert!(!memory.is_prepared(&OperationId::from_bytes([2; 8])));
        memory.prepare(id.clone());
        assert!(memory.is_prepared(&id));
        assert!(!memory.is_prepared(&id));
    }
}
