//! Answers of the gateway's own: refusals, redirects, and what a failure on the way to a backend looks like to a client.
//!
//! They say the code and nothing else; why is in the access log, under the request id that the client got.

use crate::forward;
use crate::host::Host;
use crate::request_id::RequestId;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, LOCATION, SERVER};
use http::{HeaderValue, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

/// An answer of the gateway's own.
pub struct Answer {
    /// Its code.
    pub status: u16,
    /// A field that belongs to it.
    pub field: Option<(HeaderName, HeaderValue)>,
    /// Whether the connection ends with it.
    pub closes: bool,
}

impl Answer {
    /// The plain answer of a code.
    pub fn of(status: u16) -> Self {
        Self { status, field: None, closes: false }
    }
}

/// Sends an answer to the client.
pub async fn respond(session: &mut Session, id: &RequestId, answer: Answer, grpc: bool) -> Result<()> {
    if grpc {
        return respond_grpc(session, id, &answer).await;
    }
    let mut head = ResponseHeader::build(answer.status, Some(8))?;
    let reason = head.status.canonical_reason().unwrap_or("Error");
    let body = Bytes::from(format!("{} {reason}\n", answer.status));
    head.insert_header(SERVER, "ployz")?;
    head.insert_header(CONTENT_TYPE, "text/plain; charset=utf-8")?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    head.insert_header("X-Request-Id", forward::value(id))?;
    if let Some((name, value)) = answer.field {
        head.insert_header(name, value)?;
    }
    // A client that waits for leave to send its body is told no; it may send it all the same.
    if answer.closes || session.get_header(EXPECT).is_some() {
        session.set_keepalive(None);
    }
    let bodiless = session.req_header().method == Method::HEAD;
    if bodiless {
        return whole(session, head).await;
    }
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await
}

/// Sends a head that is the whole answer: over HTTP/2 its frame ends the stream, which Pingora's own call leaves to a body.
pub async fn whole(session: &mut Session, head: ResponseHeader) -> Result<()> {
    let only = vec![HttpTask::Header(Box::new(head), true)];
    session.as_downstream_mut().response_duplex_vec(only).await.map(|_| ())
}

/// A gRPC client knows no codes of HTTP: its answer is 200, and what went wrong a status of its own, in a head that is the whole
/// answer (gRPC over HTTP/2, "Trailers-Only").
async fn respond_grpc(session: &mut Session, id: &RequestId, answer: &Answer) -> Result<()> {
    let mut head = ResponseHeader::build(200, Some(6))?;
    let status = http::StatusCode::from_u16(answer.status).ok();
    let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("Error");
    head.insert_header(SERVER, "ployz")?;
    head.insert_header(CONTENT_TYPE, "application/grpc")?;
    head.insert_header("grpc-status", grpc_status(answer.status))?;
    head.insert_header("grpc-message", format!("gateway: {} {reason}", answer.status))?;
    head.insert_header("X-Request-Id", forward::value(id))?;
    whole(session, head).await
}

/// The mapping that gRPC clients use for an answer of a proxy (grpc/doc/http-grpc-status-mapping.md), and for a message that is too
/// large what a gRPC server itself says.
fn grpc_status(status: u16) -> u16 {
    match status {
        400 | 431 => INTERNAL,
        404 => UNIMPLEMENTED,
        413 => RESOURCE_EXHAUSTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

const UNKNOWN: u16 = 2;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

/// The same target in HTTPS, for good, with method and body kept (RFC 9110 section 15.4.9).
pub fn redirect(head: &RequestHeader, host: &Host, port: u16) -> Answer {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = HeaderValue::try_from(format!("https://{}{port}{target}", host.as_str()));
    match location {
        Ok(location) if !host.as_str().is_empty() => {
            Answer { field: Some((LOCATION, location)), ..Answer::of(308) }
        }
        _ => Answer::of(400),
    }
}

/// What a failure says to the client; 0 when there is none to say it to.
pub fn status_of(error: &Error) -> u16 {
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(status), _) => *status,
        (ErrorType::ConnectTimedout | ErrorType::ReadTimedout, ErrorSource::Upstream) => 504,
        (_, ErrorSource::Upstream) => 502,
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => 408,
        (
            ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ReadError
            | ErrorType::ConnectionClosed,
            ErrorSource::Downstream,
        ) => 0,
        (_, ErrorSource::Downstream) => 400,
        _ => 500,
    }
}

/// Errors repeat what a client sent; enough to tell them apart is kept.
pub fn shorten(error: &Error) -> String {
    let text = error.to_string();
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
