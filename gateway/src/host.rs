//! What a client says it wants to reach: the host of a request and the path it is routed by, in one spelling each.
//!
//! Nothing is looked up here. A host that is not one (RFC 9110 section 4.2.3 with RFC 3986 section 3.2.2) is an error, never
//! a guess, because two readers who guess differently are how requests are smuggled.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::Ipv6Addr;

/// Text that is not a host with an optional port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host")]
pub struct BadHost;

/// A host in its one spelling: lower case, without port and trailing dot; an IPv6 literal in brackets, compressed.
///
/// Lives on the stack: reading a host allocates nothing.
#[derive(Clone, Copy)]
pub struct Host {
    text: [u8; LONGEST],
    length: u8,
}

impl Host {
    /// Reads the value of a `Host` field or of `:authority`; an empty one is the empty host.
    pub fn parse(authority: &[u8]) -> Result<Self, BadHost> {
        if authority.first() == Some(&b'[') {
            return Self::literal(authority);
        }
        let end = authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len());
        let (name, port) = authority.split_at(end);
        check_port(port)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.len() > LONGEST || !name.iter().all(|byte| is_name_byte(*byte)) {
            return Err(BadHost);
        }
        // An empty label can be no host of ours, and resolvers disagree about what it is.
        if name.windows(2).any(|pair| pair == b"..")
            || name.first() == Some(&b'.')
            || name.last() == Some(&b'.')
        {
            return Err(BadHost);
        }
        let mut host = Self { text: [0; LONGEST], length: name.len() as u8 };
        for (to, from) in host.text.iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        Ok(host)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII was put in.
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }

    /// Everything after the first label, for `*.` routes; nothing for a literal or a single label.
    pub fn parent(&self) -> Option<&str> {
        let (label, parent) = self.as_str().split_once('.')?;
        (!label.starts_with('[') && !parent.is_empty()).then_some(parent)
    }

    fn literal(authority: &[u8]) -> Result<Self, BadHost> {
        let end = authority.iter().position(|byte| *byte == b']').ok_or(BadHost)?;
        check_port(&authority[end + 1..])?;
        let inner = std::str::from_utf8(&authority[1..end]).map_err(|_| BadHost)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| BadHost)?;
        let mut host = Self { text: [0; LONGEST], length: 0 };
        let mut rest = &mut host.text[..];
        write!(rest, "[{address}]").map_err(|_| BadHost)?;
        host.length = (LONGEST - rest.len()) as u8;
        Ok(host)
    }
}

/// The path that decides the route: dot segments resolved and what hides them decoded, so that `/a/%2e%2e/b` is routed as
/// the `/b` that a backend may take it for. Borrowed, as is nearly always the case, when there is nothing to resolve.
pub fn routed_path(path: &str) -> Cow<'_, str> {
    if !path.contains("/.") && !path.contains("%2") && !path.contains("%5") && !path.contains(['\\', ';']) {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<String> = Vec::new();
    let decoded = decode(path);
    for segment in decoded.split('/').skip(1) {
        // Some servers cut parameters off before they look at dots: `/..;a/`.
        match segment.split(';').next().unwrap_or_default() {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment.to_owned()),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// Undoes the encoding of dots, slashes and backslashes; a backslash is a slash to some servers.
fn decode(path: &str) -> String {
    let mut text = path.replace('\\', "/");
    for (code, plain) in [("%2e", "."), ("%2E", "."), ("%2f", "/"), ("%2F", "/"), ("%5c", "/"), ("%5C", "/")]
    {
        text = text.replace(code, plain);
    }
    text
}

fn check_port(text: &[u8]) -> Result<(), BadHost> {
    match text {
        [] | [b':'] => Ok(()),
        [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            let port = digits.iter().fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0'));
            if port <= 65_535 { Ok(()) } else { Err(BadHost) }
        }
        _ => Err(BadHost),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// RFC 1035 section 2.3.4, with room for the brackets of a literal.
const LONGEST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<String, BadHost> {
        Host::parse(text.as_bytes()).map(|host| host.as_str().to_owned())
    }

    #[test]
    fn spellings_of_one_host_are_one() {
        for text in ["Shop.Example.org", "shop.example.org.", "SHOP.example.ORG:80", "shop.example.org:"] {
            assert_eq!(read(text).unwrap(), "shop.example.org", "{text}");
        }
        for text in ["[FD00:0:0::1]", "[fd00::1]:8080"] {
            assert_eq!(read(text).unwrap(), "[fd00::1]", "{text}");
        }
        assert_eq!(read("").unwrap(), "");
        assert_eq!(read("192.0.2.7:81").unwrap(), "192.0.2.7");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "a b",
            "a/b",
            "user@host",
            "a:b",
            "a:80:80",
            "a:123456",
            "a:99999",
            "[::1",
            "[::1]x",
            "[x]",
            "a..b",
            "a..",
            "a..:80",
            ".a",
            "ä",
            "a%41",
            "a,b",
            "http://a",
            "a\0",
            "[::1%25eth0]",
            ":",
        ] {
            let got = read(text);
            assert!(got.is_err() || got.as_deref() == Ok(""), "{text}: {got:?}");
        }
        assert!(read(&"x".repeat(254)).is_err());
    }

    #[test]
    fn dot_segments_are_resolved_before_routing() {
        for (path, routed) in [
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..%2fb", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/../..", "/"),
            ("/a/..;x/b", "/b"),
            ("/a\\..\\b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a%20b", "/a%20b"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(routed_path(path), routed, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_host_in_one_spelling_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(host) = Host::parse(&bytes) {
                prop_assert_eq!(Host::parse(host.as_str().as_bytes()).map(|h| h.as_str().to_owned()), Ok(host.as_str().to_owned()));
                prop_assert!(!host.as_str().bytes().any(|b| b.is_ascii_uppercase() || b <= b' '));
            }
        }

        #[test]
        fn host_like_text_never_panics(text in "[\\[\\]a-fA-F0-9.:%@_-]{0,40}") {
            let _ = Host::parse(text.as_bytes());
        }

        #[test]
        fn no_routed_path_has_dot_segments(path in "(/(\\.|\\.\\.|%2e|%2E|a|;|\\\\|%5c|%2f){0,3}){1,6}") {
            let routed = routed_path(&path);
            prop_assert!(routed.starts_with('/'));
            prop_assert!(!routed.split('/').any(|segment| matches!(segment, "." | "..")), "{} -> {}", path, routed);
        }
    }
}
