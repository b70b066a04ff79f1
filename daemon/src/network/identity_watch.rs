//! Who is heard under which key: the number of this run of a machine, and those that its peers' probes carry.

use parking_lot::{Mutex, MutexGuard};
use ployz_core::key::PublicKey;
use ployz_core::mesh::twin::{Pair, Run, Twins};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

/// What one network knows.
pub struct Watch {
    /// This machine's own number.
    pub run: Run,
    twins: Mutex<Twins>,
    /// Where the two of a contested peer were seen.
    pub(super) places: Mutex<BTreeMap<PublicKey, BTreeSet<SocketAddr>>>,
}

impl Watch {
    /// The number is kept beside the socket, where it outlives the daemon and not the boot.
    pub fn new(runtime: Option<&Path>) -> Self {
        let run = runtime.map_or_else(draw, |dir| kept(&dir.join(FILE)));
        Self { run, twins: Mutex::default(), places: Mutex::default() }
    }

    /// A peer's probe came.
    pub fn heard(&self, peer: PublicKey, payload: Payload, now: u64) {
        self.twins().heard(peer, payload.run, payload.says, now);
    }

    /// What a probe to this peer carries.
    pub fn payload(&self, peer: &PublicKey, now: u64) -> Payload {
        Payload { run: self.run, says: self.twins().tell(peer, now) }
    }

    pub(super) fn twins(&self) -> MutexGuard<'_, Twins> {
        self.twins.lock()
    }
}

/// What a probe carries behind its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// The sender's number.
    pub run: Run,
    /// The two that it hears under the receiver's key, where it does.
    pub says: Option<Pair>,
}

impl Payload {
    /// As it is sent.
    pub fn to_bytes(self) -> [u8; PAYLOAD] {
        let mut bytes = [0; PAYLOAD];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.run.to_be_bytes());
        let (first, later) = self.says.map_or((0, 0), |pair| (pair.first, pair.later));
        bytes[16..24].copy_from_slice(&first.to_be_bytes());
        bytes[24..].copy_from_slice(&later.to_be_bytes());
        bytes
    }

    /// What is not such a payload is another program's, or an older release's, and says nothing.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (run, rest) = rest.split_first_chunk::<8>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (later, _) = rest.split_first_chunk::<8>()?;
        let number = |bytes: &[u8; 8]| Some(Run::from_be_bytes(*bytes)).filter(|run| *run != 0);
        (magic == MAGIC).then_some(())?;
        let says = number(first).zip(number(later)).map(|(first, later)| Pair { first, later });
        Some(Self { run: number(run)?, says })
    }
}

/// The next watch draws another number: this machine is not the one any more that its peers have heard, and what they still
/// say of that one is not about it.
pub fn renew(runtime: Option<&Path>) {
    if let Some(Err(error)) = runtime.map(|dir| std::fs::remove_file(dir.join(FILE)))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "cannot draw a new boot number");
    }
}

fn draw() -> Run {
    Run::from_be_bytes(ployz_host::random::bytes()).max(1)
}

fn kept(path: &Path) -> Run {
    let known = std::fs::read_to_string(path).ok().and_then(|text| Run::from_str_radix(text.trim(), 16).ok());
    if let Some(run) = known.filter(|run| *run != 0) {
        return run;
    }
    let run = draw();
    if let Err(error) = crate::state::replace(path, format!("{run:016x}\n").as_bytes(), 0o600) {
        tracing::debug!(error = %ployz_core::text::chain(&error), "cannot write this boot's number");
    }
    run
}

/// Ends with the version of what follows.
const MAGIC: &[u8; 8] = b"ployz\0\0\x01";
/// Magic, the sender's number, and two of the receiver's key: bytes.
pub const PAYLOAD: usize = 32;
const FILE: &str = "run-id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_as_it_was_sent_and_anything_else_is_none() {
        for says in [None, Some(Pair { first: 7, later: 9 })] {
            let payload = Payload { run: 0xfeed, says };
            assert_eq!(Payload::read(&payload.to_bytes()), Some(payload));
        }
        assert_eq!(Payload::read(b"ployz\0\0\0"), None, "an older release's probe");
        let mut zero = Payload { run: 1, says: None }.to_bytes();
        zero[15] = 0;
        assert_eq!(Payload::read(&zero), None, "no machine has the number 0");
        for length in 0..PAYLOAD {
            assert_eq!(Payload::read(&Payload { run: 1, says: None }.to_bytes()[..length]), None);
        }
    }

    #[test]
    fn the_number_outlives_the_daemon() {
        let dir = std::env::temp_dir().join(format!("ployz-run-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = Watch::new(Some(&dir)).run;
        assert_eq!(Watch::new(Some(&dir)).run, first);
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        assert_ne!(Watch::new(Some(&dir)).run, first, "another boot");
        let booted = Watch::new(Some(&dir)).run;
        renew(Some(&dir));
        renew(Some(&dir));
        assert_ne!(Watch::new(Some(&dir)).run, booted, "a state that was taken over");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
