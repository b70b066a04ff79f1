//! The certificates of the store on this machine's disk, for a start while the store is away.
//!
//! First line `ployz-certificates 1 <SHA-256 of all that follows>`, then JSON. It holds private keys: mode 0600, in a directory
//! that only the gateway's user may enter.

use crate::stored::Held;
use ployz_core::id::NetworkId;
use ployz_host::{checksummed, file};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use zeroize::Zeroizing;

#[derive(Serialize, Deserialize)]
struct Body {
    network: NetworkId,
    held: Held,
}

/// Reads them; `None` when there are none. An error says why what is there is not used.
pub(crate) fn load(path: &Path, network: &NetworkId) -> io::Result<Option<Held>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    let text = checksummed::body(MAGIC, &bytes).map_err(|refused| damaged(&refused.to_string()))?;
    // The error of a parser may hold what it stumbled over.
    let body: Body =
        serde_json::from_slice(text).map_err(|_| damaged("it was not written by this release"))?;
    if body.network != *network {
        return Err(damaged("it belongs to another network"));
    }
    Ok(Some(body.held))
}

/// Writes them in the place of those that are there.
pub(crate) fn save(path: &Path, network: &NetworkId, held: &Held) -> io::Result<()> {
    let body = Body { network: network.clone(), held: held.clone() };
    let body = Zeroizing::new(serde_json::to_vec(&body)?);
    file::replace(path, 0o600, |file| {
        file.write_all(checksummed::header(MAGIC, &body).as_bytes())?;
        file.write_all(&body)
    })
}

/// Takes them away, with what a crash in the middle of a write has left: where nobody asks for HTTPS no key is kept.
pub(crate) fn remove(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let ours = found.to_str().and_then(|found| found.strip_prefix(name));
        if ours.is_some_and(|rest| rest.is_empty() || (rest.starts_with('.') && rest.ends_with(".tmp"))) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

const MAGIC: &str = "ployz-certificates 1 ";
