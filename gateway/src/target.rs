//! The target of a request in HTTP/1, spelled so that Pingora takes it, beside the one that the client sent.
//!
//! Two targets are re-spelled before Pingora sees them. One with characters that its parser of URIs refuses and other servers
//! take is escaped (RFC 3986 section 2.1); a backend gets the client's own bytes. One in absolute form becomes its path: Pingora
//! refuses it unless `Host` says the same, byte by byte, where RFC 9112 section 3.2.2 has the target's authority replace `Host`.

use crate::host::Host;
use bytes::Bytes;

/// What a re-spelled request line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The target in origin form, without a fragment, in the client's bytes.
    pub raw: Bytes,
    /// The authority of a target in absolute form: host and port, well-formed.
    pub authority: Option<Bytes>,
}

/// The target that backends are sent in place of `spelled`: the client's bytes, if `spelled` is their escaped form.
pub(crate) fn verbatim(named: Option<Named>, spelled: &[u8]) -> Option<Bytes> {
    named.map(|named| named.raw).filter(|raw| escape(raw) == spelled)
}

/// A request line, with its end, that has to be spelled otherwise; nothing when Pingora may read it as it is.
pub(crate) fn respell(line: &[u8]) -> Option<(Vec<u8>, Named)> {
    let (begin, end) = target(line)?;
    let given = &line[begin..end];
    let (authority, mut raw) = match given.first()? {
        b'/' | b'*' => (None, given.to_vec()),
        _ => absolute(given).map(|(authority, path)| (Some(Bytes::copy_from_slice(authority)), path))?,
    };
    if authority.is_none() && !given.iter().any(|byte| ODD.contains(byte)) {
        return None;
    }
    let whole = raw.iter().position(|byte| *byte == b'#').unwrap_or(raw.len());
    raw.truncate(whole);
    let spelled = [&line[..begin], &escape(&raw), &line[end..]].concat();
    Some((spelled, Named { raw: raw.into(), authority }))
}

/// Where the target stands in a line with two spaces.
fn target(line: &[u8]) -> Option<(usize, usize)> {
    let mut spaces = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let (begin, end) = (spaces.next()? + 1, spaces.next()?);
    // A tunnel is not ours to open; its target is an authority.
    (spaces.next().is_none() && &line[..begin] != b"CONNECT ").then_some((begin, end))
}

/// Authority and path of a target in absolute form; what is none, or names no host, is Pingora's to refuse.
fn absolute(target: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let colon = target.iter().position(|byte| *byte == b':')?;
    let is_web = [&b"http"[..], b"https"].iter().any(|scheme| target[..colon].eq_ignore_ascii_case(scheme));
    let rest = target[colon..].strip_prefix(b"://").filter(|_| is_web)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Host::parse(authority).ok().filter(|host| !host.as_str().is_empty())?;
    let slash: &[u8] = if path.first() == Some(&b'/') { b"" } else { b"/" };
    Some((authority, [slash, path].concat()))
}

fn escape(target: &[u8]) -> Vec<u8> {
    let mut spelled = Vec::with_capacity(target.len() + 16);
    for byte in target {
        if ODD.contains(byte) {
            spelled.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            spelled.push(*byte);
        }
    }
    spelled
}

/// What the `http` crate takes for no part of a target, or not in every part of it.
const ODD: &[u8] = b"\"<>`";

#[cfg(test)]
mod tests {
    use super::*;

    fn respelled(line: &str) -> Option<(String, String, Option<String>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (spelled, named) = respell(line.as_bytes())?;
        Some((text(&spelled), text(&named.raw), named.authority.map(|authority| text(&authority))))
    }

    #[test]
    fn a_line_that_pingora_takes_is_left_alone_and_so_is_one_that_is_refused() {
        for line in [
            "GET /x?q={a}|^\\ HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "CONNECT a.org:443 HTTP/1.1\r\n",
            "GET a.org/x HTTP/1.1\r\n",
            "GET ftp://a.org/x HTTP/1.1\r\n",
            "GET http:///x HTTP/1.1\r\n",
            "GET http://me@a.org/x HTTP/1.1\r\n",
            "GET http://a.org\\@b.org/x HTTP/1.1\r\n",
            "GET http://a\"b/x HTTP/1.1\r\n",
            "GET /a \"b HTTP/1.1\r\n",
            "GET /\"\r\n",
            "\r\n",
        ] {
            assert_eq!(respelled(line), None, "{line}");
        }
    }

    #[test]
    fn a_target_is_told_apart_from_its_spelling() {
        let some = |line: &str, raw: &str, authority: Option<&str>| {
            Some((line.to_owned(), raw.to_owned(), authority.map(str::to_owned)))
        };
        for (line, wanted) in [
            ("GET /\"?<#`> HTTP/1.1\r\n", some("GET /%22?%3C HTTP/1.1\r\n", "/\"?<", None)),
            ("GET HTTP://A.org:80/`x HTTP/1.1\r\n", some("GET /%60x HTTP/1.1\r\n", "/`x", Some("A.org:80"))),
            ("GET http://a.org?q HTTP/1.1\r\n", some("GET /?q HTTP/1.1\r\n", "/?q", Some("a.org"))),
            ("GET http://a.org. HTTP/1.1\r\n", some("GET / HTTP/1.1\r\n", "/", Some("a.org."))),
            ("GET https://[::1]:8/x HTTP/1.1\r\n", some("GET /x HTTP/1.1\r\n", "/x", Some("[::1]:8"))),
        ] {
            assert_eq!(respelled(line), wanted, "{line}");
        }
    }

    #[test]
    fn only_the_spelling_of_a_target_is_replaced_by_it() {
        let named = |raw: &'static str| Some(Named { raw: raw.into(), authority: None });
        assert_eq!(verbatim(named("/\"%22"), b"/%22%22"), Some("/\"%22".into()));
        assert_eq!(verbatim(named("/\""), b"/other"), None);
        assert_eq!(verbatim(None, b"/"), None);
    }
}
