//! One HTTP/1.1 exchange with JSON bodies over a stream that is already connected.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

/// A failed exchange.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection broke or was not HTTP.
    #[error("the exchange broke off")]
    Broken(#[source] hyper::Error),
    /// The answer was larger than it may be, or broke off.
    #[error("the answer could not be read: {0}")]
    Body(String),
    /// The request could not be written as JSON.
    #[error("the request could not be encoded")]
    Encode(#[source] serde_json::Error),
}

/// Sends one request and reads the whole answer.
pub async fn exchange<S>(
    stream: S,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<(StatusCode, Bytes), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Broken)?;
    let driver = tokio::spawn(connection);
    let text = match body {
        Some(value) => serde_json::to_vec(value).map_err(HttpError::Encode)?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "ployz")
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(text)))
        .expect("constant headers are valid");
    let answer = sender.send_request(request).await.map_err(HttpError::Broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    Ok((status, body.map_err(|error| HttpError::Body(error.to_string()))?.to_bytes()))
}

/// A thousand members are about half a megabyte.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
