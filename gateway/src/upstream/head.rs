//! Heads on the wire between gateway and backend, in HTTP/1.1: how a request is written, how an answer is read, and how
//! long the body of each is.
//!
//! An answer that two readers could frame in two ways (length and chunks, two lengths, a coding that is not `chunked`)
//! is none: RFC 9112 section 6.3.

use super::body::Body;
use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Version};
use pingora::ErrorType::InvalidHTTPHeader;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, OkOrErr, OrErr, Result};

/// How the body of a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many bytes.
    Known(u64),
    /// Chunks.
    Chunked,
}

/// What an answer's head says.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The head, without what is between backend and gateway only.
    pub head: ResponseHeader,
    /// Its body.
    pub body: Body,
    /// Whether another request may follow on the connection.
    pub keeps: bool,
}

/// Changes a request's head from what the client sent into what a backend is sent, but for what [`crate::forward`] says.
pub(crate) fn outgoing(head: &mut RequestHeader, upgrades: bool, has_body: bool) -> Result<Length> {
    let trailers = wants_trailers(&head.headers);
    for name in hop_by_hop(&head.headers)? {
        head.remove_header(&name);
    }
    head.set_version(Version::HTTP_11);
    name_host(head)?;
    if upgrades {
        head.insert_header(CONNECTION, "Upgrade")?;
        head.insert_header(UPGRADE, "websocket")?;
    } else if trailers {
        head.insert_header(TE, "trailers")?;
        head.insert_header(CONNECTION, "TE")?;
    }
    if let Some(length) = head.headers.get(CONTENT_LENGTH) {
        return Ok(Length::Known(digits(length).or_err(InvalidHTTPHeader, "an invalid length")?));
    }
    if has_body {
        head.insert_header(TRANSFER_ENCODING, "chunked")?;
        return Ok(Length::Chunked);
    }
    // RFC 9110 section 8.6: a server may wait for the body of such a method.
    if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        head.insert_header(CONTENT_LENGTH, "0")?;
    }
    Ok(Length::Known(0))
}

/// RFC 9112 section 3.2: a target that names the host, as one of HTTP/2 and one in absolute form do, becomes a path and a
/// `Host` field.
fn name_host(head: &mut RequestHeader) -> Result<()> {
    let Some(authority) = head.uri.authority() else { return Ok(()) };
    let host =
        HeaderValue::from_str(authority.as_str()).or_err(InvalidHTTPHeader, "the host of a request")?;
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    head.set_raw_path(target.as_bytes())?;
    head.insert_header(HOST, host)
}

/// The bytes of a request's head, with `target` in place of its own where there is one.
pub(crate) fn write(head: &RequestHeader, target: Option<&[u8]>, to: &mut BytesMut) {
    to.extend_from_slice(head.method.as_str().as_bytes());
    to.extend_from_slice(b" ");
    to.extend_from_slice(target.unwrap_or(head.raw_path()));
    to.extend_from_slice(b" HTTP/1.1\r\n");
    head.header_to_h1_wire(to);
    to.extend_from_slice(b"\r\n");
}

/// Takes a head out of what was read, if all of it is there.
pub(crate) fn read(buffer: &mut BytesMut, method: &Method) -> Result<Option<Answer>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let length = match parser.parse_response(&mut response, buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() < SIZE => return Ok(None),
        Ok(httparse::Status::Partial) => return refuse("the head of the answer is too large"),
        Err(httparse::Error::TooManyHeaders) => return refuse("the answer has too many fields"),
        Err(_) => return refuse("the head of the answer is malformed"),
    };
    if length > SIZE {
        return refuse("the head of the answer is too large");
    }
    let answer = answer(&response, method)?;
    buffer.advance(length);
    Ok(Some(answer))
}

fn answer(response: &httparse::Response<'_, '_>, method: &Method) -> Result<Answer> {
    let status = response.code.unwrap_or(0);
    let mut head = ResponseHeader::build(status, Some(response.headers.len() + 4))?;
    if !(100..600).contains(&status) {
        return refuse("the answer's status is invalid");
    }
    // Only one of the backend's own: Pingora writes the usual one by itself.
    if response.reason.is_some_and(|reason| head.status.canonical_reason() != Some(reason)) {
        head.set_reason_phrase(response.reason)?;
    }
    for field in response.headers.iter() {
        head.append_header(field.name.to_owned(), value(field.value)?)?;
    }
    let old = response.version == Some(0);
    let keeps = keeps(&head.headers, old);
    let body = framing(&head, method, old)?;
    for name in hop_by_hop(&head.headers)? {
        head.remove_header(&name);
    }
    // RFC 9110 section 8.6 forbids the length at 204; at 304, where it is that of another answer, clients of HTTP/2 take it
    // for this one's, and reset the stream.
    if matches!(body, Body::Chunked(_)) || matches!(status, 204 | 304) {
        head.remove_header(&CONTENT_LENGTH);
    }
    let keeps = keeps && !matches!(body, Body::UntilClose);
    Ok(Answer { head, body, keeps })
}

/// RFC 9112 section 5.2: a folded line is one with spaces.
fn value(raw: &[u8]) -> Result<HeaderValue> {
    let folded = raw.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    let value = if folded {
        let line: Vec<u8> =
            raw.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
        HeaderValue::from_bytes(&line)
    } else {
        HeaderValue::from_bytes(raw)
    };
    value.or_err(InvalidHTTPHeader, "a field of the answer")
}

fn framing(head: &ResponseHeader, method: &Method, old: bool) -> Result<Body> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if codings.next().is_some() || lengths.next().is_some() || (coding.is_some() && (length.is_some() || old))
    {
        return refuse("the answer has conflicting lengths");
    }
    let length = match length.map(digits) {
        Some(None) => return refuse("the answer's length is invalid"),
        Some(length) => length,
        None => None,
    };
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return refuse("the answer's transfer coding is unknown");
    }
    let bodiless = *method == Method::HEAD
        || head.status.is_informational()
        || matches!(head.status.as_u16(), 204 | 304);
    Ok(match (bodiless, coding, length) {
        (true, ..) => Body::Done,
        (false, Some(_), _) => Body::chunked(),
        (false, None, Some(length)) => Body::of(length),
        (false, None, None) => Body::UntilClose,
    })
}

/// Whether the connection stays after an answer (RFC 9112 section 9.3).
fn keeps(headers: &HeaderMap, old: bool) -> bool {
    let named = |wanted: &str| tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(wanted));
    !named("close") && (!old || named("keep-alive"))
}

/// Whether a client takes trailers.
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// RFC 9110 section 7.6.1: the fields there that are for the next hop only, and those that a `Connection` field names; but
/// for those by which a message is framed and led, which it cannot take away.
fn hop_by_hop(headers: &HeaderMap) -> Result<Vec<HeaderName>> {
    let mut names: Vec<HeaderName> =
        HOP_BY_HOP.into_iter().filter(|name| headers.contains_key(name)).collect();
    if headers.contains_key(CONNECTION) {
        let named = tokens(headers, &CONNECTION).filter_map(|token| token.parse::<HeaderName>().ok());
        names.extend(named.filter(|name| headers.contains_key(name) && !KEPT.contains(name)));
        if names.len() > NOMINATIONS {
            return refuse("a Connection field names too many fields");
        }
    }
    Ok(names)
}

/// The elements of a list field.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).map(str::trim)
}

/// A length as it must be written: digits and nothing else.
pub(crate) fn digits(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    // The standard library takes a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn refuse<T>(why: &'static str) -> Result<T> {
    Error::e_explain(InvalidHTTPHeader, why)
}

/// Of an answer's head. nginx takes 4 to 8 KiB, HAProxy 16.
const SIZE: usize = 128 * 1024;
/// Of an answer.
const FIELDS: usize = 256;
/// Of one head.
const NOMINATIONS: usize = 64;
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];
const KEPT: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Option<Answer>> {
        read(&mut BytesMut::from(head.as_bytes()), &Method::GET)
    }

    fn body(head: &str) -> String {
        match parse(head) {
            Ok(Some(answer)) => format!("{:?} {}", answer.body, answer.keeps),
            Ok(None) => "more".to_owned(),
            Err(_) => "refused".to_owned(),
        }
    }

    #[test]
    fn the_length_of_an_answer_is_said_in_one_way_or_refused() {
        let chunked = format!("{:?} true", Body::chunked());
        for (fields, wanted) in [
            ("Content-Length: 5\r\n", "Length(5) true"),
            ("Content-Length: 0\r\n", "Done true"),
            ("Content-Length: 5\r\nConnection: Close\r\n", "Length(5) false"),
            ("Transfer-Encoding: Chunked\r\n", chunked.as_str()),
            ("", "UntilClose false"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "refused"),
            ("Content-Length: 5, 5\r\n", "refused"),
            ("Content-Length: +5\r\n", "refused"),
            ("Content-Length: 99999999999999999999\r\n", "refused"),
            ("Content-Length:\r\n", "refused"),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "refused"),
            ("Transfer-Encoding: gzip, chunked\r\n", "refused"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "refused"),
            ("Content Length: 5\r\n", "refused"),
        ] {
            assert_eq!(body(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")), wanted, "{fields:?}");
        }
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), "Length(5) false");
        assert_eq!(
            body("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"),
            "Length(5) true"
        );
        assert_eq!(body("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "refused");
        assert_eq!(body("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), "Done true");
        assert_eq!(body("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), "Done true");
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-"), "more");
        assert_eq!(body("HTTP/1.1 999 No\r\n\r\n"), "refused");
    }

    #[test]
    fn what_is_for_the_next_hop_goes_no_further() {
        let head = "HTTP/1.1 200 OK\r\nConnection: X-Hop, content-length\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                    Content-Length: 3\r\nX-Stays: 1\r\n\r\n";
        let answer = parse(head).unwrap().unwrap();
        let mut names: Vec<_> = answer.head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "x-stays"]);
    }

    #[test]
    fn too_many_fields_and_a_folded_one() {
        let many = "A: 1\r\n".repeat(FIELDS + 1);
        let error = parse(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).unwrap_err();
        assert!(error.to_string().contains("too many fields"), "{error}");
        let folded = parse("HTTP/1.1 200 OK\r\nA: one\r\n two\r\n\r\n").unwrap().unwrap();
        assert_eq!(folded.head.headers.get("a").unwrap(), "one   two");
    }
}
