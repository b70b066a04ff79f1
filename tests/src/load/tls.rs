//! TLS of clients: whom they trust, and which HTTP they ask for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What every connection to HTTPS servers begins with.
#[derive(Clone, Debug)]
pub(super) struct Tls(Arc<ClientConfig>);

/// Where HTTPS is spoken, and how.
#[derive(Clone, Debug)]
pub(super) struct Https {
    port: u16,
    http1: Tls,
    http2: Tls,
}

impl Https {
    /// On this port of every gateway, with certificates that these authorities (a file in PEM) have signed.
    pub(super) fn new(port: u16, authorities: &Path) -> Result<Self> {
        let mut trusted = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities)? {
            trusted.add(certificate?)?;
        }
        ensure!(!trusted.is_empty(), "no certificates");
        let tls = |protocol: &str| -> Result<Tls> {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config =
                ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            let mut config = config.with_root_certificates(trusted.clone()).with_no_client_auth();
            config.alpn_protocols = vec![protocol.into()];
            Ok(Tls(Arc::new(config)))
        };
        Ok(Self { port, http1: tls("http/1.1")?, http2: tls("h2")? })
    }

    /// The address of the gateway `server` for clients of this kind, and what they begin with.
    pub(super) fn of(&self, kind: &str, server: SocketAddr) -> (SocketAddr, Tls) {
        let tls = if kind == "https2" { &self.http2 } else { &self.http1 };
        (SocketAddr::new(server.ip(), self.port), tls.clone())
    }
}

impl Tls {
    /// The server must be `host`, and speak the HTTP that is asked for.
    pub(super) async fn begin(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).context("a name for TLS")?;
        let stream = TlsConnector::from(self.0.clone()).connect(name, stream).await.context("TLS")?;
        let spoken = stream.get_ref().1.alpn_protocol();
        ensure!(spoken == self.0.alpn_protocols.first().map(Vec::as_slice), "another protocol: {spoken:?}");
        Ok(stream)
    }
}
