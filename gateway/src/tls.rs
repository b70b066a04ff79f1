//! Certificates by the name a client asks for, exchangeable while connections are made.
//!
//! Exact names win over wildcards, which stand for exactly one label; the static pair answers whatever has no certificate
//! of its own. Without any, the handshake ends with `unrecognized_name`: no certificate of another name is ever shown.

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// The settings of TLS contradict each other.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// A certificate chain with its key; has no `Debug`.
#[derive(Clone)]
pub struct Pair(Arc<CertifiedKey>);

/// The certificates of the gateway.
#[derive(Default)]
pub struct Certificates {
    by_name: ArcSwap<Names>,
}

#[derive(Default)]
struct Names {
    exact: HashMap<String, Pair>,
    below: HashMap<String, Pair>,
    otherwise: Option<Pair>,
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
            CertificateDer::pem_file_iter(chain).and_then(|found| found.collect());
        let certificates = certificates.map_err(file("certificate", chain))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(file("private key", key))?;
        Self::new(certificates, key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, BadCertificate> {
        let certified =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(BadCertificate::Pair)?;
        ParsedCertificate::try_from(certified.end_entity_cert().map_err(BadCertificate::Pair)?)
            .map_err(BadCertificate::Pair)?;
        Ok(Self(Arc::new(certified)))
    }
}

impl Certificates {
    /// Puts these in place of all others: pairs by the names they are for (`*.` for one label more), and the one for every
    /// other name. Connections that exist are not touched.
    pub fn set(&self, named: impl IntoIterator<Item = (String, Pair)>, otherwise: Option<Pair>) {
        let mut names = Names { otherwise, ..Names::default() };
        for (name, pair) in named {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(parent) => names.below.insert(parent.to_owned(), pair),
                None => names.exact.insert(name, pair),
            };
        }
        self.by_name.store(Arc::new(names));
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

    fn named(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.by_name.load();
        let below = || names.below.get(name.split_once('.')?.1);
        let pair = names.exact.get(name).or_else(below).or(names.otherwise.as_ref());
        pair.map(|pair| pair.0.clone())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            // rustls hands names out as they came; RFC 6066 compares them without case.
            Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                self.named(&name.to_ascii_lowercase())
            }
            Some(name) => self.named(name),
            None => self.by_name.load().otherwise.as_ref().map(|pair| pair.0.clone()),
        }
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.by_name.load();
        write!(f, "Certificates({} names, {} wildcards)", names.exact.len(), names.below.len())
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
