//! What changes in the head of a request and of an answer on their way through.
//!
//! The gateway is the edge: what a client claims about where it comes from, how, and for what is taken away, in any spelling,
//! and what the gateway knows of it is put in its place. Hop-by-hop fields are handled where the message is framed.

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
    let claims: Vec<_> = head.headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        head.remove_header(&name);
    }
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

/// Whether a field says what only a proxy can know, or would be read as one that does: CGI and what descends from it take
/// underscores and hyphens for one (nginx drops such names by default, too).
fn is_claim(name: &str) -> bool {
    name.contains('_') || name.starts_with("x-forwarded") || CLAIMS.binary_search(&name).is_ok()
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

/// Removed besides the family of `X-Forwarded`: where the client is, what scheme it used (Rack, IIS), what it asked for
/// before a rewrite (IIS, Symfony), and `Proxy`, which is the environment's `HTTP_PROXY` to CGI (httpoxy). Sorted.
const CLAIMS: [&str; 27] = [
    "ali-cdn-real-ip",
    "cdn-loop",
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "cloudfront-forwarded-proto",
    "fastly-client-ip",
    "fastly-ssl",
    "fly-client-ip",
    "forwarded",
    "front-end-https",
    "proxy",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-arr-ssl",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_list_is_sorted_and_in_lower_case() {
        assert!(CLAIMS.is_sorted());
        assert!(CLAIMS.iter().all(|name| *name == name.to_ascii_lowercase()));
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_claim_reaches_a_backend(
            name in prop::sample::select(
                CLAIMS
                    .into_iter()
                    .chain(["x-forwarded-for", "x-forwarded-proto", "x-forwarded-ssl", "x-forwarded", "x-request-id"])
                    .collect::<Vec<_>>(),
            ),
            upper in any::<[bool; 28]>(),
            underscores in any::<[bool; 28]>(),
        ) {
            let spelled: String = name
                .chars()
                .zip(upper.into_iter().zip(underscores))
                .map(|(letter, (upper, underscore))| match letter {
                    '-' if underscore => '_',
                    letter if upper => letter.to_ascii_uppercase(),
                    letter => letter,
                })
                .collect();
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.append_header(spelled.clone(), "claimed").unwrap();
            head.append_header("Host", "a.org").unwrap();
            request(&mut head, Some([192, 0, 2, 1].into()), "https", &RequestId::draw()).unwrap();
            let left = head.headers.iter().filter(|(_, value)| *value == "claimed");
            prop_assert_eq!(left.count(), 0, "{}", spelled);
            prop_assert_eq!(head.headers.get("x-forwarded-for").unwrap(), "192.0.2.1");
        }
    }
}
