//! Where a manifest comes from: the file named, standard input, or the usual name in the current directory. It is judged
//! here, before the daemon is asked, so that a refusal can name file, line and key.

use crate::failure::Failure;
use ployz_core::text;
use ployz_core::wire::v1::manifest::{BadManifest, MAX_BYTES, Manifest, Problem};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The manifest of `-f`, or of the current directory without it.
pub(super) fn read(named: Option<&Path>, stdin: &mut dyn Read) -> Result<Manifest, Failure> {
    let path = match named {
        Some(path) => path,
        None => usual(Path::new(""))?,
    };
    let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    let bytes = bytes(path, stdin)
        .map_err(|error| Failure::Usage(format!("cannot read the manifest {name}: {error}")))?;
    let refused = |bad| Failure::Manifest(Box::new(bad));
    let text = String::from_utf8(bytes).map_err(|error| refused(not_text(&name, &error)))?;
    Manifest::from_document(&name, &text).map_err(refused)
}

/// The usual name that is there. Two of them could say two things, so neither is taken.
fn usual(directory: &Path) -> Result<&'static Path, Failure> {
    let mut there = USUAL.into_iter().filter(|name| directory.join(name).exists());
    match (there.next(), there.next()) {
        (Some(only), None) => Ok(Path::new(only)),
        (Some(one), Some(other)) => {
            Err(Failure::Usage(format!("both {one} and {other} are here: name one with -f")))
        }
        (None, _) => Err(Failure::Usage(format!(
            "no manifest: there is no {} here; name one with -f FILE, or -f - for standard input",
            USUAL.join(" and no ")
        ))),
    }
}

fn bytes(path: &Path, stdin: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than is taken, so that what is too long is refused as such.
    let most = MAX_BYTES as u64 + 1;
    if path == Path::new("-") {
        stdin.take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn not_text(file: &str, error: &std::string::FromUtf8Error) -> BadManifest {
    let good = error.utf8_error().valid_up_to();
    let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
    let what = text::utf16(error.as_bytes()).unwrap_or("is not UTF-8 text");
    let problem = Problem::Syntax(what.into());
    BadManifest { file: file.to_owned(), line: Some(line), path: String::new(), problem }
}

const USUAL: [&str; 2] = ["ployz.toml", "ployz.json"];
