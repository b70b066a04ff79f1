//! One HTTP/1.1 exchange with JSON bodies over a stream that is already connected.

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::time::SystemTime;
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

/// The time that the server of a membership listener has, from its answer's `Date` (RFC 9110 section 6.6.1): every answer has one,
/// also that to a path it does not know.
pub async fn date<S>(stream: S) -> Option<SystemTime>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(connection);
    let request = Request::head("/v1/observed").header("host", "ployz").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.expect("constant headers are valid")).await;
    driver.abort();
    httpdate::parse_http_date(answer.ok()?.headers().get("date")?.to_str().ok()?).ok()
}

/// A thousand members are about half a megabyte.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn answered(answer: &'static str) -> Option<SystemTime> {
        let (near, mut far) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut request = [0; 1024];
            assert!(far.read(&mut request).await.unwrap() > 0, "a request came");
            far.write_all(answer.as_bytes()).await.unwrap();
            far
        });
        let date = date(near).await;
        server.await.unwrap();
        date
    }

    #[tokio::test]
    async fn the_date_of_any_answer_is_read() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let found = answered("HTTP/1.1 404 Not Found\r\nDATE: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n").await;
        assert_eq!(found, at(784_111_777));
        for odd in ["Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 06 Nov 1994 18446744073709551615:49:37 GMT", ""] {
            let answer = format!("HTTP/1.1 200 OK\r\ndate: {odd}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(answered(answer.leak()).await, None, "{odd}");
        }
        assert_eq!(answered("SSH-2.0-x\r\n").await, None);
    }
}
