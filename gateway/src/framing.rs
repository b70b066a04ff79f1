//! Requests whose framing or destination two readers could understand in two ways: refused, whatever a lenient reading
//! would make of them.
//!
//! Pingora already refuses what is malformed; this is what it tolerates. RFC 9112 sections 3.2, 6.1 and 11.2.

use crate::host::Host;
use crate::metrics::Cause;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

/// The host a request is for, when it is fit to be served.
pub fn check(session: &ServerSession) -> Result<Host, Cause> {
    let head = session.req_header();
    if head.headers.contains_key(TRANSFER_ENCODING) {
        check_transfer_encoding(session, head)?;
    }
    // Lengths may be repeated or listed; a list that agrees with itself is still not what an honest client sends.
    if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Cause::Smuggling);
    }
    if !head.raw_path_is_utf8() {
        return Err(Cause::Malformed);
    }
    let target_fits = head.raw_path().first() != Some(&b'*') || head.method == Method::OPTIONS;
    if !target_fits {
        return Err(Cause::Malformed);
    }
    host(head)
}

fn check_transfer_encoding(session: &ServerSession, head: &RequestHeader) -> Result<(), Cause> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let only = codings.next().filter(|_| codings.next().is_none());
    if !only.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Cause::Smuggling);
    }
    // Pingora drops a length beside the coding, as a proxy may; whoever sends both is not worth the doubt.
    let raw = session.as_http1().map(|session| session.get_headers_raw_bytes()).unwrap_or_default();
    let named = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    };
    if raw.split(|byte| *byte == b'\n').any(named) { Err(Cause::Smuggling) } else { Ok(()) }
}

/// From the target when it names one, as HTTP/2 always does, else from the field.
fn host(head: &RequestHeader) -> Result<Host, Cause> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Cause::BadHost);
    }
    let named = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let Some(text) = named.or(field.map(|field| field.as_bytes())) else {
        return if head.version == Version::HTTP_11 {
            Err(Cause::BadHost)
        } else {
            Host::parse(b"").map_err(|_| Cause::BadHost)
        };
    };
    Host::parse(text).map_err(|_| Cause::BadHost)
}
