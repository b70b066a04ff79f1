//! What changes in the head of a request and of an answer on their way through.
//!
//! The gateway is the edge: what a client claims about where it comes from is replaced, never added to. Hop-by-hop fields
//! are Pingora's business.

use crate::request_id::RequestId;
use http::HeaderValue;
use http::header::{COOKIE, HOST};
use pingora::ErrorType::InvalidHTTPHeader;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{OrErr, Result};
use std::fmt::Write as _;
use std::net::IpAddr;

/// Tells a backend who asks, how, and under which id.
pub fn request(
    head: &mut RequestHeader,
    client: Option<IpAddr>,
    scheme: &'static str,
    id: &RequestId,
) -> Result<()> {
    for claimed in CLAIMS {
        head.remove_header(claimed);
    }
    remove_lookalikes(head);
    join_cookies(head)?;
    match client {
        Some(client) => head.insert_header("X-Forwarded-For", address(client))?,
        None => {
            head.remove_header("X-Forwarded-For");
        }
    }
    head.insert_header("X-Forwarded-Proto", HeaderValue::from_static(scheme))?;
    let authority = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    match authority.or_else(|| head.headers.get(HOST).cloned()) {
        Some(host) => head.insert_header("X-Forwarded-Host", host)?,
        None => {
            head.remove_header("X-Forwarded-Host");
        }
    }
    head.insert_header("X-Request-Id", value(id))
}

/// CGI-like servers read underscores and hyphens as one: no spelling of what we say ourselves may come from outside.
fn remove_lookalikes(head: &mut RequestHeader) {
    let is_lookalike = |name: &str| {
        name.contains('_') && {
            let plain = name.replace('_', "-");
            CLAIMS.iter().chain(&SAID).any(|said| said.eq_ignore_ascii_case(&plain))
        }
    };
    let found: Vec<_> = head.headers.keys().filter(|name| is_lookalike(name.as_str())).cloned().collect();
    for name in found {
        head.remove_header(&name);
    }
}

/// Browsers send each cookie of an HTTP/2 request in a field of its own. To a backend that speaks HTTP/1.1 it is one list
/// (RFC 9113 section 8.2.3): many join two fields with a comma, and then know neither cookie.
fn join_cookies(head: &mut RequestHeader) -> Result<()> {
    let cookies: Vec<&[u8]> = head.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return Ok(());
    }
    let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).or_err(InvalidHTTPHeader, "cookies")?;
    head.insert_header(COOKIE, joined)
}

/// Gives the id back to the client.
pub fn answer(head: &mut ResponseHeader, id: &RequestId) -> Result<()> {
    head.remove_header("Keep-Alive");
    head.insert_header("X-Request-Id", value(id))
}

/// An id as a header.
pub fn value(id: &RequestId) -> HeaderValue {
    HeaderValue::from_str(id.as_str()).expect("an id is printable ASCII")
}

fn address(client: IpAddr) -> HeaderValue {
    let mut text = bytes::BytesMut::with_capacity(40);
    // Writing into a buffer that grows cannot fail.
    let _ = write!(text, "{client}");
    HeaderValue::from_maybe_shared(text.freeze()).expect("an address is printable ASCII")
}

/// Removed, besides those that are replaced.
const CLAIMS: [&str; 3] = ["Forwarded", "X-Real-IP", "X-Forwarded-Port"];
const SAID: [&str; 4] = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"];
