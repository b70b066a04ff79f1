//! Certificates of services: the record in the store, what a chain says of itself, and what operators ask and see.
//!
//! A record holds a private key. It is never part of an answer, a log line or an error.

use crate::id::{MachineId, hex};
use crate::text::pem;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// A private key in PEM. Has no `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct KeyText(Zeroizing<String>);

/// A certificate in the store: bucket `certificates`, key = [`store_key`] of its first name.
#[derive(Clone, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// The chain in PEM, its own certificate first.
    pub chain: String,
    /// Its private key in PEM.
    pub key: KeyText,
    /// The machine it was imported at.
    pub machine: MachineId,
    /// Unix seconds.
    pub imported_at: u64,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// Names it is for, in the order in which it says them, in lower case: exact ones, and `*.` for one label more.
    pub names: Vec<String>,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: String,
}

/// Why a chain is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    /// Not PEM, or without a certificate in it.
    #[error("it contains no PEM certificate")]
    None,
    /// Larger than any chain.
    #[error("it has {0} bytes; the limit for a certificate chain is {MOST_BYTES}")]
    Size(usize),
    /// One of its certificates cannot be read.
    #[error("certificate {number} of the chain cannot be read: {detail}")]
    Unreadable {
        /// Which one, from 1.
        number: usize,
        /// Why.
        detail: String,
    },
    /// One does not certify the one before it.
    #[error(
        "certificate {0} of the chain is not the issuer of the one before it: the leaf certificate comes first"
    )]
    Order(usize),
    /// For no DNS name.
    #[error("it names no DNS name (subject alternative name); the common name does not count")]
    NoNames,
    /// Too late.
    #[error("it expired at {not_after} (Unix seconds)")]
    Expired {
        /// Unix seconds.
        not_after: u64,
    },
    /// Too early.
    #[error("it is not valid before {not_before} (Unix seconds)")]
    NotYet {
        /// Unix seconds.
        not_before: u64,
    },
}

/// A certificate and its key to be imported. Replaces the one that has the same first name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateImport {
    /// The chain in PEM, its own certificate first.
    pub chain: String,
    /// Its private key in PEM.
    pub key: KeyText,
}

/// Names a certificate by its first name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// Its first name.
    pub name: String,
}

/// A certificate as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    /// Its first name, by which it is replaced and removed.
    pub name: String,
    /// What it says.
    #[serde(flatten)]
    pub facts: CertificateFacts,
    /// The machine it was imported at.
    pub machine: MachineId,
    /// Unix seconds.
    pub imported_at: u64,
}

impl KeyText {
    /// The PEM text; must not reach a log, an argument list or a readable file.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for KeyText {
    fn from(text: String) -> Self {
        let text = Zeroizing::new(text);
        Self(Zeroizing::new(pem(&text)))
    }
}

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

impl CertificateFacts {
    /// Of a chain in PEM: every certificate of it must be readable, and each the issuer of the one before.
    pub fn of_pem(chain: &str) -> Result<Self, BadChain> {
        if chain.len() > MOST_BYTES {
            return Err(BadChain::Size(chain.len()));
        }
        let chain = pem(chain);
        let blocks = Pem::iter_from_buffer(chain.as_bytes());
        let blocks: Vec<Pem> = blocks.collect::<Result<_, _>>().map_err(|_| BadChain::None)?;
        let blocks: Vec<Pem> = blocks.into_iter().filter(|block| block.label == "CERTIFICATE").collect();
        let mut issuer: Option<Vec<u8>> = None;
        for (number, block) in (1..).zip(&blocks) {
            let certificate = read(number, &block.contents)?;
            if issuer.is_some_and(|issuer| issuer != certificate.subject().as_raw()) {
                return Err(BadChain::Order(number));
            }
            issuer = Some(certificate.issuer().as_raw().to_vec());
        }
        let facts = Self::of_der(&blocks.first().ok_or(BadChain::None)?.contents)?;
        if facts.names.is_empty() { Err(BadChain::NoNames) } else { Ok(facts) }
    }

    /// Of one certificate, which may be for no name at all.
    pub fn of_der(der: &[u8]) -> Result<Self, BadChain> {
        let certificate = read(1, der)?;
        let validity = certificate.validity();
        let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let said = alternative.iter().flat_map(|found| &found.value.general_names);
        let names = said.filter_map(|name| match name {
            GeneralName::DNSName(name) if is_name(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let mut seen = BTreeSet::new();
        let names: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
        Ok(Self {
            names,
            not_before: seconds(validity.not_before.timestamp()),
            not_after: seconds(validity.not_after.timestamp()),
            fingerprint: hex(&Sha256::digest(der)),
        })
    }

    /// The name it is stored and listed by.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether it can be used at this time, in Unix seconds.
    pub fn check(&self, now: u64) -> Result<(), BadChain> {
        if now > self.not_after {
            return Err(BadChain::Expired { not_after: self.not_after });
        }
        if now < self.not_before {
            return Err(BadChain::NotYet { not_before: self.not_before });
        }
        Ok(())
    }
}

/// The certificates of a PEM text without whatever else is in the file, a private key for example.
pub fn only_certificates(text: &str) -> String {
    let mut inside = false;
    let text = pem(text);
    let lines = text.lines().map(str::trim).filter(|line| {
        let begins = *line == "-----BEGIN CERTIFICATE-----";
        let kept = inside || begins;
        inside = kept && *line != "-----END CERTIFICATE-----";
        kept
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Key in the bucket: a `*` is a wildcard there.
pub fn store_key(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_prefix("*.").map_or_else(|| name.clone(), |parent| format!("_.{parent}"))
}

/// Whether a text is a name that a certificate may be for: a DNS name in ASCII, with `*` as its first label at most.
pub fn is_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        let edges = !label.starts_with('-') && !label.ends_with('-');
        (1..=63).contains(&label.len())
            && edges
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn read(number: usize, der: &[u8]) -> Result<X509Certificate<'_>, BadChain> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(BadChain::Unreadable { number, detail: "something follows it".into() }),
        Err(error) => Err(BadChain::Unreadable { number, detail: error.to_string() }),
    }
}

/// Bytes of a chain or a key at most; a chain of four with RSA keys has about 8 KiB.
pub const MOST_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(names: &[&str]) -> rcgen::CertificateParams {
        rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .unwrap()
    }

    fn made_pem(params: rcgen::CertificateParams) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn facts_are_those_of_the_first_certificate() {
        let mut params = made(&["B.org", "*.b.org", "192.0.2.1", "b.org"]);
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        let facts = CertificateFacts::of_pem(&made_pem(params)).unwrap();
        assert_eq!(facts.names, ["b.org", "*.b.org"]);
        assert_eq!((facts.not_before, facts.not_after), (1_704_067_200, 1_735_689_600));
        assert_eq!(facts.fingerprint.len(), 64);
        assert_eq!(facts.check(1_720_000_000), Ok(()));
        assert_eq!(facts.check(1_735_689_601), Err(BadChain::Expired { not_after: 1_735_689_600 }));
        assert_eq!(facts.check(1), Err(BadChain::NotYet { not_before: 1_704_067_200 }));
    }

    #[test]
    fn a_chain_is_in_order_and_whole() {
        let mut root = made(&[]);
        root.distinguished_name.push(rcgen::DnType::CommonName, "root");
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root_text = root.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(root, key);
        let leaf = made(&["a.org"]).signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap().pem();
        assert_eq!(CertificateFacts::of_pem(&format!("{leaf}{root_text}")).unwrap().name(), "a.org");
        let swapped = CertificateFacts::of_pem(&format!("{leaf}{}", made_pem(made(&["x.org"]))));
        assert_eq!(swapped, Err(BadChain::Order(2)));
        assert_eq!(CertificateFacts::of_pem(&root_text), Err(BadChain::NoNames));
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        assert_eq!(CertificateFacts::of_pem(""), Err(BadChain::None));
        assert_eq!(CertificateFacts::of_pem("-----BEGIN CERTIFICATE-----\n"), Err(BadChain::None));
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(CertificateFacts::of_pem(junk), Err(BadChain::Unreadable { number: 1, .. })));
        let large = "x".repeat(MOST_BYTES + 1);
        assert_eq!(CertificateFacts::of_pem(&large), Err(BadChain::Size(large.len())));
    }

    #[test]
    fn byte_order_marks_and_line_ends_of_windows_are_no_part_of_a_chain() {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = made(&["a.org"]).self_signed(&key).unwrap().pem();
        let windows = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
        // Two files, each with its mark, joined by `cat`: the certificate is the second block.
        let joined = format!("{}{}", windows(&key.serialize_pem()), windows(&chain));
        assert_eq!(CertificateFacts::of_pem(&joined), CertificateFacts::of_pem(&chain));
        assert_eq!(only_certificates(&joined), only_certificates(&chain));
        assert!(KeyText::from(joined).expose().starts_with("-----BEGIN"));
    }

    #[test]
    fn a_key_beside_the_chain_does_not_stay_there() {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = made(&["a.org"]).self_signed(&key).unwrap().pem();
        let kept =
            only_certificates(&format!("{}subject=a\n{chain}{}", key.serialize_pem(), key.serialize_pem()));
        assert!(!kept.contains("KEY") && !kept.contains("subject"), "{kept}");
        assert_eq!(CertificateFacts::of_pem(&kept), CertificateFacts::of_pem(&chain));
    }

    #[test]
    fn names_and_their_keys() {
        assert_eq!((store_key("A.org").as_str(), store_key("*.a.org").as_str()), ("a.org", "_.a.org"));
        for good in ["a", "a.org", "*.a.org", "xn--bcher-kva.example"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.",
            "a..b",
            "a.*.b",
            "*.*.a",
            "-a.org",
            "a_b.org",
            "a b",
            "b\u{fc}cher.example",
            "a.org.",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(-----BEGIN CERTIFICATE-----\n)?[A-Za-z0-9+/=\n]{0,200}(-----END CERTIFICATE-----\n)?") {
            let _ = CertificateFacts::of_pem(&text);
        }

        #[test]
        fn keys_are_told_apart_and_fit_the_bucket(one in "(\\*\\.)?[a-z0-9.-]{1,20}", other in "(\\*\\.)?[a-z0-9.-]{1,20}") {
            if is_name(&one) && is_name(&other) {
                prop_assert_eq!(one == other, store_key(&one) == store_key(&other));
                prop_assert!(store_key(&one).bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            }
        }
    }
}
