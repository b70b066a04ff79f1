//! Certificates by the name a client asks for, exchangeable while connections are made.
//!
//! Exact names win over wildcards, which stand for exactly one label; the static pair answers whatever has no certificate
//! of its own. Without any, [`crate::handshake`] ends with `unrecognized_name`: no certificate of another name is ever shown.

use arc_swap::ArcSwap;
use ployz_core::wire::v1::certificate::CertificateFacts;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// A file cannot be read or holds nothing of the kind.
    #[error("no {what} in {}", path.display())]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// Text that is not what it should be.
    #[error("no {what} in the text")]
    Text {
        /// What was looked for.
        what: &'static str,
        /// Why not.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// The key does not fit the certificate, or is of a kind that is not supported.
    #[error("certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// It can be used no more.
    #[error("the certificate has expired: it was valid until {not_after}, in Unix seconds")]
    Expired {
        /// Unix seconds.
        not_after: u64,
    },
    /// The settings of TLS contradict each other.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// A certificate chain with its key, and until when it is valid; has no `Debug`.
#[derive(Clone)]
pub struct Pair(Arc<CertifiedKey>, u64);

/// The certificates of the gateway: those of the store, and those that this machine has as files.
#[derive(Default)]
pub struct Certificates {
    stored: ArcSwap<Names>,
    files: ArcSwap<Names>,
    /// Whether those of the store are what it holds now.
    live: AtomicBool,
}

#[derive(Default)]
struct Names {
    exact: HashMap<String, Pair>,
    below: HashMap<String, Pair>,
    otherwise: Option<Pair>,
}

impl Names {
    fn of(named: impl IntoIterator<Item = (String, Pair)>, otherwise: Option<Pair>) -> Self {
        let mut names = Self { otherwise, ..Self::default() };
        for (name, pair) in named {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(parent) => names.below.insert(parent.to_owned(), pair),
                None => names.exact.insert(name, pair),
            };
        }
        names
    }
}

/// A PEM file from behind the byte order mark, where it has one.
fn opened(path: &Path) -> Result<BufReader<File>, pem::Error> {
    let mut text = BufReader::new(File::open(path).map_err(pem::Error::Io)?);
    if text.fill_buf().map_err(pem::Error::Io)?.starts_with("\u{feff}".as_bytes()) {
        text.consume("\u{feff}".len());
    }
    Ok(text)
}

impl Pair {
    /// From the text of two PEM files.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BadCertificate> {
        let text = |what| move |cause| BadCertificate::Text { what, cause };
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(text("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(text("private key"))?;
        Self::new(chain, key)
    }

    /// From two PEM files.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, BadCertificate> {
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| BadCertificate::File { what, path, cause }
        };
        let certificates: Result<Vec<_>, _> =
            opened(chain).and_then(|text| CertificateDer::pem_reader_iter(text).collect());
        let certificates = certificates.map_err(file("certificate", chain))?;
        let read = opened(key).and_then(PrivateKeyDer::from_pem_reader);
        let key = read.map_err(file("private key", key))?;
        Self::new(certificates, key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, BadCertificate> {
        let end = chain.first().and_then(|end| CertificateFacts::of_der(end).ok());
        let certified =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(BadCertificate::Pair)?;
        ParsedCertificate::try_from(certified.end_entity_cert().map_err(BadCertificate::Pair)?)
            .map_err(BadCertificate::Pair)?;
        Ok(Self(Arc::new(certified), end.map_or(u64::MAX, |facts| facts.not_after)))
    }

    /// Until when it is valid, in Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.1
    }
}

impl Certificates {
    /// Puts these in place of all others that are files: pairs by the names they are for (`*.` for one label more), and the
    /// one for every other name. Connections that exist are not touched.
    pub fn set(&self, named: impl IntoIterator<Item = (String, Pair)>, otherwise: Option<Pair>) {
        self.files.store(Arc::new(Names::of(named, otherwise)));
    }

    /// Puts these in place of all others that are of the store.
    pub fn set_stored(&self, named: impl IntoIterator<Item = (String, Pair)>) {
        self.stored.store(Arc::new(Names::of(named, None)));
    }

    /// Whether those of the store are what it holds now.
    pub fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Relaxed);
    }

    /// Host names with a certificate from the store, whether these are what it holds now, and when the first of them ends.
    pub fn stored(&self) -> (usize, bool, Option<u64>) {
        let stored = self.stored.load();
        let pairs = || stored.exact.values().chain(stored.below.values());
        (pairs().count(), self.live.load(Ordering::Relaxed), pairs().map(Pair::not_after).min())
    }

    /// How a listener uses them: TLS 1.2 and 1.3, HTTP/2 preferred.
    pub fn server_config(self: Arc<Self>) -> Result<ServerConfig, BadCertificate> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(BadCertificate::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Ours are in order of strength; a client's order is not its users' choice.
        config.ignore_client_order = true;
        config.ticketer = ring::Ticketer::new().map_err(BadCertificate::Setup)?;
        config.send_tls13_tickets = 1;
        Ok(config)
    }

    /// The certificate for a client that asks for this name, as it wrote it, or for none.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match name {
            // rustls hands names out as they came; RFC 6066 compares them without case.
            Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                self.named(&name.to_ascii_lowercase())
            }
            Some(name) => self.named(name),
            None => self.files.load().otherwise.as_ref().map(|pair| pair.0.clone()),
        }
    }

    /// The exact name before any wildcard, the store before files.
    fn named(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let (stored, files) = (self.stored.load(), self.files.load());
        let exact = stored.exact.get(name).or_else(|| files.exact.get(name));
        let below = || {
            let parent = name.split_once('.')?.1;
            stored.below.get(parent).or_else(|| files.below.get(parent))
        };
        let pair = exact.or_else(below).or(files.otherwise.as_ref());
        pair.map(|pair| pair.0.clone())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

/// rustls wants one; it must not print keys.
impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |names: &Names| names.exact.len() + names.below.len();
        let (stored, files) = (count(&self.stored.load()), count(&self.files.load()));
        write!(f, "certificates: {stored} names of the store, {files} of files")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> Pair {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Pair::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap()
    }

    fn is(found: Option<Arc<CertifiedKey>>, pair: &Pair) -> bool {
        found.is_some_and(|found| Arc::ptr_eq(&found, &pair.0))
    }

    #[test]
    fn exact_name_wins_over_wildcard_and_that_over_the_rest() {
        let (exact, below, rest) = (pair("a.org"), pair("*.a.org"), pair("x"));
        let certificates = Certificates::default();
        let named = [("A.org".into(), exact.clone()), ("*.a.org".into(), below.clone())];
        certificates.set(named, Some(rest.clone()));
        assert!(is(certificates.named("a.org"), &exact));
        assert!(is(certificates.named("b.a.org"), &below));
        assert!(is(certificates.named("c.b.a.org"), &rest));
        let (stored, stored_below) = (pair("a.org"), pair("*.a.org"));
        certificates.set_stored([("*.a.org".into(), stored_below.clone())]);
        assert!(
            is(certificates.named("a.org"), &exact),
            "a file's exact name before a wildcard of the store"
        );
        assert!(is(certificates.named("b.a.org"), &stored_below));
        certificates.set_stored([("a.org".into(), stored.clone())]);
        assert!(is(certificates.named("a.org"), &stored));
        assert!(is(certificates.named("b.a.org"), &below));
        certificates.set([("a.org".into(), exact)], None);
        assert!(certificates.named("b.a.org").is_none());
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (one, other) = (made("a"), made("b"));
        let mixed = Pair::from_pem(one.cert.pem().as_bytes(), other.signing_key.serialize_pem().as_bytes());
        assert!(matches!(mixed, Err(BadCertificate::Pair(_))));
        assert!(Pair::from_pem(b"", b"").is_err());
    }
}
