//! Two machines with one key, as probes tell: what is heard, what is told, and what an operator reads of it.

use crate::network::Network;
use ployz_core::id::MachineId;
use ployz_core::key::PublicKey;
use ployz_core::mesh::twin::{Pair, Run, Twins, Verdict};
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::wire::v1::doctor::Check;
use ployz_core::wire::v1::record::MachineMembership;
use ployz_netns::{namespace, wireguard};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one network knows.
pub struct Watch {
    /// This machine's own number.
    pub run: Run,
    twins: Mutex<Twins>,
    /// Where the two of a contested peer were seen.
    places: Mutex<BTreeMap<PublicKey, BTreeSet<SocketAddr>>>,
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

    fn twins(&self) -> MutexGuard<'_, Twins> {
        self.twins.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Once a second: what is known is told, and acted on where it is this machine that must stand back.
pub async fn look(mesh: &Network, peers: &[MachineMembership]) {
    let now = mesh.millis();
    let (verdict, contested) = {
        let twins = mesh.twins.twins();
        (twins.verdict(mesh.twins.run, now), twins.contested(now))
    };
    let mut checks = Vec::new();
    match verdict {
        Verdict::Alone => {}
        Verdict::Contested => checks.push(own()),
        Verdict::Later => mesh.stand_back.notify_one(),
    }
    if contested.is_empty() {
        mesh.twins.places.lock().unwrap_or_else(PoisonError::into_inner).clear();
    } else {
        note_places(mesh, &contested).await;
        checks.extend(contested.iter().filter_map(|key| {
            let peer = peers.iter().find(|peer| peer.public_key == *key)?;
            let places = mesh.twins.places.lock().unwrap_or_else(PoisonError::into_inner);
            Some(of_peer(&peer.id, places.get(key)))
        }));
    }
    tell(mesh, checks);
}

fn tell(mesh: &Network, checks: Vec<Check>) {
    mesh.shared.identities.send_if_modified(|before| {
        let names =
            |checks: &[Check]| checks.iter().map(|check| check.check.clone()).collect::<BTreeSet<_>>();
        let (was, is) = (names(before), names(&checks));
        for check in checks.iter().filter(|check| !was.contains(&check.check)) {
            let advice = check.advice.as_deref().unwrap_or_default();
            tracing::error!(check = %check.check, advice, "two machines, one key: {}", check.seen);
        }
        for check in was.difference(&is) {
            tracing::info!(%check, "one machine, one key again");
        }
        let changed = *before != checks;
        *before = checks;
        changed
    });
}

fn own() -> Check {
    Check::fail(
        "identity",
        "another machine uses the key of this one, and packets are lost to it",
        "it runs with a copy of /var/lib/ployz: find it (`ployzctl doctor` on a peer tells its address) and run \
         `ployzctl mesh destroy <network> --local` there",
    )
}

fn of_peer(id: &MachineId, places: Option<&BTreeSet<SocketAddr>>) -> Check {
    let places: Vec<String> = places.into_iter().flatten().map(ToString::to_string).collect();
    let at = if places.is_empty() { String::new() } else { format!(", seen at {}", places.join(" and ")) };
    Check::fail(
        format!("identity {id}"),
        format!("two machines use the key of {id}{at}"),
        "one runs with a copy of the other's /var/lib/ployz: on the copy `ployzctl mesh destroy <network> --local`, then join \
         it with a token of its own",
    )
}

async fn note_places(mesh: &Network, contested: &[PublicKey]) {
    let netns = namespace::path(crate::node::environment::NETNS);
    let Some(device) = wireguard::inspect(WG_DEVICE, &netns).await.present().cloned() else { return };
    let mut places = mesh.twins.places.lock().unwrap_or_else(PoisonError::into_inner);
    places.retain(|key, _| contested.contains(key));
    for key in contested {
        let endpoint = device.peers.get(key).and_then(|peer| peer.stats.endpoint);
        places.entry(*key).or_default().extend(endpoint);
    }
}

/// The peer that an overlay address belongs to.
pub fn sender(mesh: &Network, from: IpAddr) -> Option<PublicKey> {
    let peers = mesh.peers.borrow();
    peers
        .machines
        .iter()
        .find(|machine| from == IpAddr::V6(machine.overlay_ip))
        .map(|machine| machine.public_key)
}

/// The next watch draws another number: this machine is not the one any more that its peers have heard, and what they still
/// say of that one is not about it.
pub fn renew(runtime: Option<&Path>) {
    if let Some(Err(error)) = runtime.map(|dir| std::fs::remove_file(dir.join(FILE)))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("this machine's number stays as it was: {error}");
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
        tracing::debug!("this boot's number is not kept: {}", ployz_core::text::chain(&error));
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
