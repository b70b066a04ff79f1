//! Requests whose framing or destination two readers could understand in two ways: refused, whatever a lenient reading
//! would make of them.
//!
//! Pingora already refuses what is malformed; this is what it tolerates. RFC 9112 sections 3.2, 6.1 and 11.2.

use crate::host::Host;
use crate::incoming::FIELDS;
use crate::metrics::Cause;
use crate::upstream::{Body, digits};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderValue, Method, Uri, Version};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

/// The host a request is for, when it is fit to be served.
pub fn check(session: &ServerSession) -> Result<Host, Cause> {
    let head = session.req_header();
    if head.headers.contains_key(TRANSFER_ENCODING) {
        check_transfer_encoding(session, head)?;
    }
    if head.headers.len() > FIELDS {
        return Err(Cause::HeadTooLarge);
    }
    check_length(head)?;
    // Of HTTP/2: a target with these would be another one in HTTP/1.1.
    let is_split = head.raw_path().iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f));
    if !head.raw_path_is_utf8() || is_split {
        return Err(Cause::Malformed);
    }
    let target_fits = head.raw_path().first() != Some(&b'*') || head.method == Method::OPTIONS;
    if !target_fits {
        return Err(Cause::Malformed);
    }
    host(head)
}

/// RFC 9112 section 3.2.2: the authority of a target in absolute form replaces what `Host` says, which chose a proxy at most. The
/// route is chosen by it and the backend hears it. A `Host` that is none is still refused (section 3.2).
pub(crate) fn take_authority(head: &mut RequestHeader, authority: &[u8]) -> Result<(), Cause> {
    if head.headers.get_all(HOST).iter().any(|host| Host::parse(host.as_bytes()).is_err()) {
        return Err(Cause::BadHost);
    }
    let host = HeaderValue::from_bytes(authority).map_err(|_| Cause::BadHost)?;
    head.insert_header(HOST, host).map_err(|_| Cause::BadHost)
}

/// A target in absolute form that came in while the request before it was served, so that it was not spelled as a path
/// ([`crate::target`]), becomes the path that it names; its host must be the one that the `Host` field says.
pub(crate) fn to_origin_form(head: &mut RequestHeader) -> Result<(), Cause> {
    if head.version == Version::HTTP_2 || matches!(head.raw_path().first(), None | Some(b'/' | b'*')) {
        return Ok(());
    }
    let target: Uri = head.raw_path().try_into().map_err(|_| Cause::Malformed)?;
    let is_web = target.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let authority = target.authority().filter(|_| is_web).ok_or(Cause::Malformed)?;
    let named = Host::parse(authority.as_str().as_bytes()).map_err(|_| Cause::BadHost)?;
    let said = head.headers.get(HOST).map(|host| Host::parse(host.as_bytes()));
    if said.is_some_and(|said| said.map_or(true, |said| said.as_str() != named.as_str())) {
        return Err(Cause::BadHost);
    }
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    // Host fields are judged after this: none is added, and none replaced.
    if !head.headers.contains_key(HOST) {
        head.insert_header(HOST, authority.as_str()).map_err(|_| Cause::BadHost)?;
    }
    head.set_raw_path(path.as_bytes()).map_err(|_| Cause::Malformed)
}

/// How the body of a request is framed, for one that [`check`] takes.
pub(crate) fn body(head: &RequestHeader) -> Body {
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Body::chunked();
    }
    Body::of(head.headers.get(CONTENT_LENGTH).and_then(digits).unwrap_or(0))
}

/// What asks for something of the server that takes the request, and not of what it is for: a trace would give a script the
/// cookies that it may not read, a tunnel is not ours to open.
pub(crate) fn is_for_the_gateway(method: &Method) -> bool {
    matches!(*method, Method::TRACE | Method::CONNECT) || method.as_str() == "TRACK"
}

/// RFC 9110 section 8.6 lets a recipient take a list of lengths that agree; it is still not what an honest client sends, and a
/// backend may read none.
fn check_length(head: &RequestHeader) -> Result<(), Cause> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next();
    let is_one = lengths.next().is_none() && first.is_none_or(|length| digits(length).is_some());
    if is_one { Ok(()) } else { Err(Cause::Smuggling) }
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
