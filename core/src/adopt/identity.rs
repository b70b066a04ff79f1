//! Fingerprints. Fields decide; the hash only labels and speeds up.
//!
//! `v1:` + SHA-256 over sorted `name=value` lines written by hand from a spec, never over a serialised struct:
//! a new struct field must not recreate the world (kubernetes#53644, docker/compose#11335).

use crate::adopt::Drift;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The identity of a component: named fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    fields: BTreeMap<String, String>,
}

impl Identity {
    /// An identity of these fields.
    pub fn new(fields: BTreeMap<String, String>) -> Self {
        Self { fields }
    }

    /// The fields.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.fields
    }

    /// [`VERSION`], a colon and 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        self.labelled(VERSION)
    }

    /// The same under a version of its own.
    pub fn labelled(&self, version: &str) -> String {
        let mut hash = Sha256::new();
        for (name, value) in &self.fields {
            // A line break inside a value must not be able to imitate another field.
            hash.update(format!("{name}={}\n", value.replace('\\', "\\\\").replace('\n', "\\n")));
        }
        format!("{version}:{}", crate::id::hex(&hash.finalize()))
    }

    /// Every field in which `live` differs, named. Fields that only `live` has count too, but for environment
    /// variables that are not ours: an operator's drop-in may add those.
    pub fn drift(&self, live: &Self) -> Vec<Drift> {
        let names: std::collections::BTreeSet<&String> =
            self.fields.keys().chain(live.fields.keys()).collect();
        let theirs = |name: &str| name.starts_with("env.") && !name.starts_with("env.PLOYZ_");
        names
            .into_iter()
            .filter(|name| self.fields.contains_key(*name) || !theirs(name))
            .filter_map(|name| {
                let (want, have) = (self.fields.get(name), live.fields.get(name));
                (want != have).then(|| Drift::new(name, have.map_or("-", |v| v), want.map_or("-", |v| v)))
            })
            .collect()
    }
}

/// Its version, where that is not the one this release makes. Such a hash says nothing about fields, and nothing is
/// recreated for it.
pub fn other_version(fingerprint: &str) -> Option<&str> {
    fingerprint.split(':').next().filter(|version| *version != VERSION)
}

/// What an operator reads of something adopted that carries a fingerprint of this version.
pub fn made_by_version(version: &str) -> String {
    format!("fingerprint is of version {version}, this ployzd makes {VERSION}")
}

/// What fingerprints of this release begin with.
pub const VERSION: &str = "v1";

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&str, &str)]) -> Identity {
        Identity::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    /// This vector stays for ever: a running unit of the first release carries it.
    #[test]
    fn golden_fingerprint_v1() {
        assert_eq!(
            identity(&[("exec", "/usr/lib/ployz/nats-server"), ("user", "ployz-nats")]).fingerprint(),
            "v1:5a667db90d553753dfeb3c0af188e8c049aa473e76aecd6215c3e378a73f8a0f"
        );
    }

    #[test]
    fn values_cannot_imitate_fields() {
        let honest = identity(&[("a", "1"), ("b", "2")]);
        assert_ne!(honest.fingerprint(), identity(&[("a", "1\nb=2")]).fingerprint());
        assert_ne!(identity(&[("a", "\n")]).fingerprint(), identity(&[("a", "\\n")]).fingerprint());
    }

    #[test]
    fn drift_names_each_field_once() {
        let want = identity(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let live = identity(&[("a", "1"), ("b", "9"), ("d", "4")]);
        let texts: Vec<String> = want.drift(&live).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["b: 9 -> 2", "c: - -> 3", "d: 4 -> -"]);
        let with_theirs = identity(&[("a", "1"), ("b", "2"), ("c", "3"), ("env.HTTP_PROXY", "x")]);
        assert_eq!(want.drift(&with_theirs), []);
    }
}
