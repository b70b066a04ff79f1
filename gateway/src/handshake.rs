//! The TLS handshake of a connection. What the client asks for is read first: a name for which there is no certificate is
//! told so, where rustls would call it "access denied".

use crate::tls::{BadCertificate, Certificates};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use std::io;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// How connections of a listener are made TLS.
#[derive(Clone)]
pub struct Handshake {
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
}

impl Handshake {
    /// With these certificates, and those that take their place.
    pub fn new(certificates: Arc<Certificates>) -> Result<Self, BadCertificate> {
        let config = Arc::new(certificates.clone().server_config()?);
        Ok(Self { certificates, config })
    }

    /// Makes this connection TLS. An error has been told to the client, where there is one to tell.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let refusal = match begun.client_hello().server_name() {
            name if self.certificates.find(name).is_some() => None,
            Some(_) => Some(UNRECOGNIZED_NAME),
            None => Some(MISSING_EXTENSION),
        };
        if let Some(description) = refusal {
            let mut stream = begun.io;
            stream.write_all(&fatal_alert(description)).await?;
            stream.shutdown().await?;
            return Err(io::Error::new(io::ErrorKind::NotFound, "no certificate of that name"));
        }
        begun.into_stream(self.config.clone()).await
    }
}

/// A record of its own, before any key is agreed on (RFC 8446, sections 5.1 and 6).
fn fatal_alert(description: u8) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, description]
}

/// RFC 6066, section 3.
const UNRECOGNIZED_NAME: u8 = 112;
/// RFC 8446, section 9.2: a server that needs a name says this where there is none.
const MISSING_EXTENSION: u8 = 109;
