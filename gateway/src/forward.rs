//! What changes in the head of a request and of an answer on their way through.
//!
//! The gateway is the edge: what a client claims about where it comes from is replaced, never added to. Hop-by-hop fields
//! are Pingora's business.

use crate::request_id::RequestId;
use http::HeaderValue;
use http::header::HOST;
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
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

/// Besides those that are replaced. With underscores, because CGI-like servers read both spellings as one.
const CLAIMS: [&str; 6] = [
    "Forwarded",
    "X-Real-IP",
    "X_Forwarded_For",
    "X_Forwarded_Proto",
    "X_Forwarded_Host",
    "X-Forwarded-Port",
];
