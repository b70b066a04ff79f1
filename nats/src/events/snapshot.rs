//! The snapshot on disk: the last good state, for a start while NATS is away.
//!
//! First line `ployz-routing 1 <SHA-256 of all that follows>`, then JSON. Replaced by temporary file + fsync + rename +
//! fsync of the directory. When the file was last known to be what the stream says is its time of modification: that
//! is moved on without writing anything while nothing changes.

use ployz_core::id::NetworkId;
use ployz_core::routing::{Event, Key, State, Value};
use ployz_host::{checksummed, file};
use serde::{Deserialize, Serialize, Serializer};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    /// The state.
    pub state: State,
    /// Where in the stream it was.
    pub sequence: u64,
    /// When it was last known to be what the stream says; to the second.
    pub live: SystemTime,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error("it has {0} bytes, too many for a snapshot")]
    Size(u64),
    #[error(transparent)]
    Damaged(#[from] checksummed::Refused),
    #[error("it belongs to network {0}")]
    Network(NetworkId),
    #[error("its content was not written by this release")]
    Content(#[source] serde_json::Error),
    #[error("it contains {0:?}, which is not an event")]
    Event(String),
}

#[derive(Serialize, Deserialize)]
struct Body<Events> {
    network: NetworkId,
    sequence: u64,
    /// Unix seconds.
    live: u64,
    events: Events,
}

/// What was read.
type Found = Vec<(String, Value)>;

/// What is written: one event after another, so that they are never there a second time, all at once.
struct Written<'a>(&'a State);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.events().map(|event| (event.key.to_string(), event.value)))
    }
}

/// Reads a snapshot; `None` when there is none.
pub(crate) fn load(path: &Path, network: &NetworkId) -> Result<Option<Kept>, Refused> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    if meta.len() > LARGEST {
        return Err(Refused::Size(meta.len()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    let body: Body<Found> =
        serde_json::from_slice(checksummed::body(MAGIC, &bytes)?).map_err(Refused::Content)?;
    if body.network != *network {
        return Err(Refused::Network(body.network));
    }
    let mut state = State::default();
    for (text, value) in body.events {
        let key: Key = text.parse().map_err(|_| Refused::Event(text.clone()))?;
        if !value.fits(&key) {
            return Err(Refused::Event(text));
        }
        state.apply(Event { key, value: Some(value) });
    }
    let written = UNIX_EPOCH.checked_add(Duration::from_secs(body.live)).unwrap_or(UNIX_EPOCH);
    let live = meta.modified().map_or(written, |touched| touched.max(written)).min(SystemTime::now());
    Ok(Some(Kept { state, sequence: body.sequence, live }))
}

/// The state of a snapshot, for who only looks at it; `None` when there is none or it cannot be used.
pub fn last_good(path: &Path, network: &NetworkId) -> Option<State> {
    load(path, network).ok().flatten().map(|kept| kept.state)
}

/// Writes a snapshot in the place of the one that is there.
pub(crate) fn save(path: &Path, network: &NetworkId, kept: &Kept) -> io::Result<()> {
    let text = encode(network, kept)?;
    file::replace(path, 0o600, |file| {
        text.iter().try_for_each(|part| file.write_all(part))?;
        file.set_modified(kept.live)
    })
}

/// Says that the snapshot still was what the stream says at a later time.
pub(crate) fn touch(path: &Path, live: SystemTime) -> io::Result<()> {
    File::open(path)?.set_modified(live)
}

/// The first line, and the rest.
fn encode(network: &NetworkId, kept: &Kept) -> io::Result<[Vec<u8>; 2]> {
    let body = Body {
        network: network.clone(),
        sequence: kept.sequence,
        live: kept.live.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        events: Written(&kept.state),
    };
    let body = serde_json::to_vec(&body)?;
    Ok([checksummed::header(MAGIC, &body).into_bytes(), body])
}

const MAGIC: &str = "ployz-routing 1 ";
/// Twice what the stream may hold.
const LARGEST: u64 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn network(n: u8) -> NetworkId {
        NetworkId::from_bytes([n; 16])
    }

    fn kept() -> Kept {
        let text = br#"{"kind":"machine","overlay_ip":"fd00::1","subnet":"10.101.1.0/24"}"#;
        let mut state = State::default();
        state.apply(Event::parse("machine.n1", text).unwrap());
        Kept { state, sequence: 7, live: UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
    }

    /// A snapshot's path in a directory of its own, which goes with it.
    struct Scratch(PathBuf);

    impl std::ops::Deref for Scratch {
        type Target = Path;
        fn deref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    fn dir(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("ployz-routing-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir.join("routing.snapshot"))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let path = dir("read");
        assert!(load(&path, &network(1)).unwrap().is_none());
        save(&path, &network(1), &kept()).unwrap();
        assert_eq!(load(&path, &network(1)).unwrap().unwrap(), kept());
        let later = kept().live + Duration::from_secs(90);
        touch(&path, later).unwrap();
        assert_eq!(load(&path, &network(1)).unwrap().unwrap().live, later);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_foreign_one_is_refused() {
        let path = dir("foreign");
        save(&path, &network(1), &kept()).unwrap();
        let refused = load(&path, &network(2)).unwrap_err();
        assert!(refused.to_string().contains(network(1).as_str()), "{refused}");
    }

    #[test]
    fn damage_at_any_byte_is_refused() {
        let path = dir("damage");
        let good = encode(&network(1), &kept()).unwrap().concat();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&*path, &bad).unwrap();
            assert!(load(&path, &network(1)).is_err(), "byte {at} changed");
            std::fs::write(&*path, &good[..at]).unwrap();
            assert!(load(&path, &network(1)).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_time_in_the_future_is_now_at_most() {
        let path = dir("future");
        let far = Kept { live: SystemTime::now() + Duration::from_secs(86_400), ..kept() };
        save(&path, &network(1), &far).unwrap();
        assert!(load(&path, &network(1)).unwrap().unwrap().live <= SystemTime::now());
    }

    #[test]
    fn the_format_stays() {
        let text = String::from_utf8(encode(&network(1), &kept()).unwrap().concat()).unwrap();
        let golden = concat!(
            "ployz-routing 1 @\n",
            r#"{"network":"01010101010101010101010101010101","sequence":7,"live":1700000000,"#,
            r#""events":[["machine.n1",{"kind":"machine","overlay_ip":"fd00::1","subnet":"10.101.1.0/24"}]]}"#
        );
        let (head, body) = golden.split_once('@').unwrap();
        assert!(text.starts_with(head) && text.ends_with(body), "{text}");
    }
}
