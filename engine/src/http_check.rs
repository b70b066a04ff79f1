//! The HTTP question to a container: one request, in the clear or in TLS, and the status of its answer.
//!
//! The certificate is not verified: what is asked is a container of this machine by its address, nothing secret is learnt
//! from the answer, and certificates inside are self-signed as a rule. Kubernetes' probes do the same.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use ployz_core::wire::v1::manifest::{HttpCheck, Scheme};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Asks over a connection to the container's port.
pub(super) async fn ask(stream: TcpStream, address: IpAddr, check: &HttpCheck) -> Result<(), String> {
    let status = match check.scheme {
        Scheme::Http => status(stream, address, check).await?,
        Scheme::Https => {
            let name = name(address, check);
            let tls = TlsConnector::from(tls()).connect(name, stream).await;
            let tls = tls.map_err(|error| format!("port {}: TLS: {error}", check.port))?;
            status(tls, address, check).await?
        }
    };
    if check.statuses.contain(status.as_u16()) { Ok(()) } else { Err(refusal(check, status)) }
}

async fn status(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: IpAddr,
    check: &HttpCheck,
) -> Result<StatusCode, String> {
    let words = |error: hyper::Error| format!("port {}: {}", check.port, ployz_core::text::chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let request = request(address, check).map_err(|error| format!("{}: {error}", check.path))?;
    // Driven here and not by a task: when the question is given up, so is the connection. The body is not read.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The end of the connection and the answer may come in one poll.
        end = connection => match end {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    Ok(answer.map_err(words)?.status())
}

fn request(address: IpAddr, check: &HttpCheck) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let own = std::net::SocketAddr::new(address, check.port).to_string();
    let host = check.host.as_ref().map_or(own.as_str(), |host| host.as_str());
    let mut request = Request::builder().method(check.method.as_str()).uri(check.path.as_str());
    request = request.header("host", host).header("connection", "close");
    if !check.headers.keys().any(|name| name.as_str() == "user-agent") {
        request = request.header("user-agent", "ployz-readiness");
    }
    for (name, value) in &check.headers {
        request = request.header(name.as_str(), value);
    }
    request.body(Empty::new())
}

/// The name of the Host header where TLS can say it, else the address, which is not sent.
fn name(address: IpAddr, check: &HttpCheck) -> ServerName<'static> {
    let host = check.host.as_ref().map(|host| host.as_str()).unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => host,
    };
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::IpAddress(address.into()))
}

fn refusal(check: &HttpCheck, status: StatusCode) -> String {
    let wanted = match check.statuses.are_usual() {
        true => String::new(),
        false => format!(", not {}", check.statuses),
    };
    format!("{} {}: {status}{wanted}", check.method, check.path)
}

fn tls() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| Arc::new(configured())).clone()
}

fn configured() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = versions.expect("ring serves TLS 1.2 and 1.3");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Takes every certificate; that the server holds its key is still proved.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
