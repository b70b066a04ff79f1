//! The certificates that this machine has as files: the static pair, and a directory of pairs by name.
//!
//! What cannot be used is said in the log and skipped. It is no reason not to start, and none to give up what was read from
//! the same file before: an operator who copies two files one after the other must not end anybody's TLS in between.

use crate::tls::{BadCertificate, Pair};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where they are, and what was last read from there.
#[derive(Default)]
pub struct Files {
    directory: Option<PathBuf>,
    pair: Option<(PathBuf, PathBuf)>,
    /// By name.
    named: BTreeMap<String, Pair>,
    /// For every other name.
    otherwise: Option<Pair>,
}

impl Files {
    /// A directory of `<name>.crt` with `<name>.key`, and the pair for names without one of their own.
    pub fn new(directory: Option<PathBuf>, pair: Option<(PathBuf, PathBuf)>) -> Self {
        Self { directory, pair, ..Self::default() }
    }

    /// Reads them: those by name, and the one for every other name.
    pub fn read(&mut self) -> (Vec<(String, Pair)>, Option<Pair>) {
        if let Some((chain, key)) = &self.pair {
            self.otherwise = usable(chain, key, self.otherwise.take());
        }
        if let Some(directory) = &self.directory {
            match directory_of(directory) {
                Ok(found) => {
                    let mut before = std::mem::take(&mut self.named);
                    let named = found.into_iter().filter_map(|(name, chain)| {
                        let pair = usable(&chain, &chain.with_extension("key"), before.remove(&name))?;
                        Some((name, pair))
                    });
                    self.named = named.collect();
                }
                Err(error) => {
                    tracing::error!(directory = %directory.display(), %error, "cannot read certificates")
                }
            }
        }
        (self.named.clone().into_iter().collect(), self.otherwise.clone())
    }
}

/// The pair of two files, or what was read from them before.
fn usable(chain: &Path, key: &Path, before: Option<Pair>) -> Option<Pair> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let read = Pair::from_files(chain, key).and_then(|pair| match pair.not_after() {
        not_after if not_after < now => Err(BadCertificate::Expired { not_after }),
        _ => Ok(pair),
    });
    match read {
        Ok(pair) => Some(pair),
        Err(error) => {
            let action = if before.is_some() { "the previous one is kept" } else { "it is skipped" };
            let error = ployz_core::text::chain(&error);
            tracing::error!(file = %chain.display(), action, error, "cannot use a certificate");
            before
        }
    }
}

/// Names of a directory's certificates; `_` stands for the `*` of a wildcard.
fn directory_of(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let chain = entry?.path();
        if chain.extension().is_none_or(|extension| extension != "crt") {
            continue;
        }
        let Some(name) = chain.file_stem().and_then(|name| name.to_str()) else { continue };
        let name = name.strip_prefix("_.").map_or_else(|| name.to_owned(), |parent| format!("*.{parent}"));
        found.push((name, chain));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, not_after: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        std::fs::write(dir.join(format!("{name}.crt")), &chain).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        chain
    }

    fn names(found: &[(String, Pair)]) -> Vec<&str> {
        found.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_a_pair() {
        let dir = std::env::temp_dir().join(format!("ployz-gateway-marks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        put(&dir, "static", 2120);
        let pair = ["crt", "key"].map(|end| dir.join(format!("static.{end}")));
        for path in &pair {
            let text = std::fs::read_to_string(path).unwrap().replace('\n', "\r\n");
            std::fs::write(path, format!("\u{feff}{text}")).unwrap();
        }
        let [chain, key] = pair;
        let (named, otherwise) = Files::new(Some(dir.clone()), Some((chain, key))).read();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((names(&named), otherwise.is_some()), (vec!["static"], true));
    }

    #[test]
    fn what_cannot_be_used_is_skipped_and_what_was_read_before_is_kept() {
        let dir = std::env::temp_dir().join(format!("ployz-gateway-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (chain, key) = (dir.join("static.crt"), dir.join("static.key"));
        let mut files = Files::new(Some(dir.clone()), Some((chain.clone(), key.clone())));
        put(&dir, "good.org", 2120);
        put(&dir, "old.org", 2001);
        put(&dir, "mixed.org", 2120);
        std::fs::copy(dir.join("good.org.key"), dir.join("mixed.org.key")).unwrap();
        std::fs::write(dir.join("junk.org.crt"), "junk").unwrap();
        let (named, otherwise) = files.read();
        assert_eq!((names(&named), otherwise.is_none()), (vec!["good.org"], true));

        put(&dir, "static", 2120);
        put(&dir, "mixed.org", 2120);
        let (named, otherwise) = files.read();
        assert_eq!((names(&named), otherwise.is_some()), (vec!["good.org", "mixed.org", "static"], true));

        // Half of it is new: neither name is without a certificate meanwhile.
        put(&dir, "mixed.org", 2001);
        std::fs::write(&key, "junk").unwrap();
        std::fs::remove_file(dir.join("good.org.crt")).unwrap();
        let (named, otherwise) = files.read();
        assert_eq!((names(&named), otherwise.is_some()), (vec!["mixed.org", "static"], true));

        std::fs::remove_dir_all(&dir).unwrap();
        let (named, otherwise) = files.read();
        assert_eq!(
            (named.len(), otherwise.is_some()),
            (2, true),
            "a directory that is away takes nothing away"
        );
    }
}
