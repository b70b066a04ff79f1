//! One HTTP connection to a gateway: how it is made, and what an answer must be.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;
use super::tls::Tls;

/// A request of ours.
pub(crate) type Ask = Request<Empty<Bytes>>;

/// Where a service is asked for, and under which name.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) server: SocketAddr,
    pub(crate) host: String,
    pub(super) tls: Option<Tls>,
}

/// A connection, with TLS or without.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

impl Target {
    /// Without TLS.
    pub(crate) fn new(server: SocketAddr, host: String) -> Self {
        Self { server, host, tls: None }
    }

    pub(super) fn with_tls(self, (server, tls): (SocketAddr, Tls)) -> Self {
        Self { server, tls: Some(tls), ..self }
    }

    pub(crate) fn request(&self, path: &str) -> Result<Ask> {
        let request = Request::get(path).header("host", &self.host);
        request.body(Empty::new()).context("a request")
    }

    /// The same for HTTP/2, where the name is part of the address.
    pub(super) fn request2(&self, path: &str) -> Result<Ask> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Request::get(format!("{scheme}://{}{path}", self.host)).body(Empty::new()).context("a request")
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Wire>> {
        let stream = timeout(PATIENCE, TcpStream::connect(self.server)).await;
        let stream = stream.context("no connection in time")?.context("connect")?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let stream = timeout(PATIENCE, tls.begin(&self.host, stream)).await;
        Ok(Box::new(stream.context("no TLS in time")??))
    }

    pub(crate) async fn http1(&self) -> Result<http1::SendRequest<Empty<Bytes>>> {
        let stream = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::handshake(stream).await.context("begin HTTP")?;
        tokio::spawn(connection); // ends with the sender; its errors are the requests' errors
        Ok(sender)
    }
}

/// Reads an answer to the end; it must be the echo of `token`.
pub(super) async fn echoed(response: Response<Incoming>, token: &str) -> Result<()> {
    let status = response.status();
    let body = timeout(PATIENCE, response.into_body().collect()).await.context("no whole answer in time")?;
    let body = body.with_context(|| format!("{status}, then the body"))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    ensure!(status == 200 && text.starts_with(&format!("{token} from ")), "{status}: {text:.80}");
    Ok(())
}

/// Between two questions of one client.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
