//! The certificates of the store on this machine's disk, for a start while the store is away.
//!
//! First line `ployz-certificates 1 <SHA-256 of all that follows>`, then JSON. It holds private keys: mode 0600, in a directory
//! that only the gateway's user may enter. Replaced by temporary file + fsync + rename + fsync of the directory.

use crate::stored::Held;
use ployz_core::id::{NetworkId, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
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
    let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or_else(|| damaged("it has another version"))?;
    let end = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it is truncated"))?;
    let text = &rest[end + 1..];
    if hex(&Sha256::digest(text)).as_bytes() != &rest[..end] {
        return Err(damaged("its checksum does not match"));
    }
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
    let mut temporary = path.as_os_str().to_owned();
    // Of this process alone: a replacement and what it replaces may write at the same moment.
    temporary.push(format!(".{}.tmp", std::process::id()));
    let put = || {
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(format!("{MAGIC}{}\n", hex(&Sha256::digest(&body))).as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    let written = put();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
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
