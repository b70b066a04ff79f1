//! `cert` as requests. The private key is read from a file or from standard input, never from an argument.

use crate::args::Cert;
use crate::failure::Failure;
use ployz_core::text::utf16;
use ployz_core::wire::v1::api::Request;
use ployz_core::wire::v1::certificate::{CertificateImport, CertificateRequest, KeyText, MOST_BYTES};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The request of a command.
pub(super) fn of(cert: Cert, stdin: &mut dyn Read) -> Result<Request, Failure> {
    Ok(match cert {
        Cert::Import { cert, key, .. } => {
            let chain = file(&cert, "certificate")?;
            let key = match key {
                Some(path) => file(&path, "private key")?,
                None => text(stdin, "private key", "standard input")?,
            };
            Request::CertificateImport(CertificateImport { chain, key: KeyText::from(key) })
        }
        Cert::Ls => Request::CertificateList,
        Cert::Rm { name } => Request::CertificateRemove(CertificateRequest { name }),
    })
}

fn file(path: &Path, what: &str) -> Result<String, Failure> {
    let name = path.display().to_string();
    let mut opened = File::open(path)
        .map_err(|error| Failure::Usage(format!("cannot read the {what} {name}: {error}")))?;
    text(&mut opened, what, &name)
}

/// What is in it is never part of a message.
fn text(from: &mut dyn Read, what: &str, name: &str) -> Result<String, Failure> {
    let refused = |why: &str| Failure::Usage(format!("cannot read the {what} from {name}: {why}"));
    let mut bytes = Vec::with_capacity(16 * 1024);
    from.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| refused(&error.to_string()))?;
    if bytes.len() > MOST_BYTES {
        return Err(refused("it is too long"));
    }
    let is = utf16(&bytes).unwrap_or("is not text in PEM");
    let text = String::from_utf8(bytes).map_err(|_| refused(&format!("it {is}")))?;
    if text.trim().is_empty() { Err(refused("it is empty")) } else { Ok(text) }
}
