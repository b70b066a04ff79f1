//! A second, strict reading of what a client sends in HTTP/1, beside Pingora's tolerant one: where two readers could see the
//! end of a line, of a request or of a chunk in two places, there is no request.
//!
//! Pingora takes a lone LF for the end of a line, an LF within a chunk extension for a part of it, and a target with spaces for
//! one to be escaped. RFC 9112 sections 2.2, 3 and 7.1.1; an unlike reading of chunk extensions is how requests are smuggled past
//! a proxy in front.

use crate::upstream::{Body, Malformed, Piece};
use bytes::{Buf, BytesMut};

/// What is wrong with the bytes of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// A line of a head that does not end in CRLF, or a request line that is none.
    #[error("a malformed line")]
    Line,
    /// More fields than are taken.
    #[error("too many fields")]
    Fields,
    /// A body that is not framed as it says.
    #[error(transparent)]
    Body(#[from] Malformed),
}

/// Follows the bytes of one connection, request after request.
#[derive(Debug)]
pub(crate) struct Watch {
    at: At,
    line: Line,
    fields: usize,
    /// Read and not yet looked at: a body whose framing is not known yet, or the next request.
    ahead: BytesMut,
}

#[derive(Debug)]
enum At {
    Head,
    /// Behind a head, until it is said how its body is framed.
    Headed,
    Body(Body),
    /// Behind a request.
    Ended,
    /// Not to be looked at: a tunnel, or what was refused.
    Through,
}

/// The line of a head that is under way.
#[derive(Debug, Default)]
struct Line {
    length: usize,
    spaces: usize,
    last: u8,
}

impl Default for Watch {
    fn default() -> Self {
        Self { at: At::Head, line: Line::default(), fields: 0, ahead: BytesMut::new() }
    }
}

impl Watch {
    /// Looks at bytes that were read.
    pub fn came(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        match &mut self.at {
            At::Through => Ok(()),
            At::Head => match self.head(bytes)? {
                Some(end) => {
                    self.at = At::Headed;
                    self.ahead.extend_from_slice(&bytes[end..]);
                    Ok(())
                }
                None => Ok(()),
            },
            At::Headed | At::Ended => {
                self.ahead.extend_from_slice(bytes);
                Ok(())
            }
            At::Body(Body::Length(left)) => {
                let own = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= own as u64;
                if *left == 0 {
                    self.at = At::Ended;
                }
                self.ahead.extend_from_slice(&bytes[own..]);
                Ok(())
            }
            At::Body(_) => {
                self.ahead.extend_from_slice(bytes);
                self.body()
            }
        }
    }

    /// The head has been parsed; its body is framed like this.
    pub fn frame(&mut self, body: Body) -> Result<(), Wrong> {
        if !matches!(self.at, At::Headed) {
            return Err(Wrong::Line);
        }
        self.at = if matches!(body, Body::Done) { At::Ended } else { At::Body(body) };
        let ahead = self.ahead.split();
        self.came(&ahead)
    }

    /// What comes from here on is none of HTTP/1's.
    pub fn let_through(&mut self) {
        self.at = At::Through;
        self.ahead = BytesMut::new();
    }

    /// The next request begins.
    pub fn next(&mut self) -> Result<(), Wrong> {
        match self.at {
            At::Ended => {}
            At::Head if self.ahead.is_empty() => {}
            // A body that is not over, though the next request is to begin behind it.
            _ => return Err(Wrong::Line),
        }
        self.at = At::Head;
        self.line = Line::default();
        self.fields = 0;
        let ahead = self.ahead.split();
        self.came(&ahead)
    }

    /// Whether the line that names the target has not begun yet.
    pub fn awaits_target(&self) -> bool {
        matches!(self.at, At::Head) && self.fields == 0 && self.line.length == 0
    }

    /// Where a head ends in these bytes, if it does.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Wrong> {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' => {
                    if self.line.last != b'\r' {
                        return Err(Wrong::Line);
                    }
                    if self.end_of_line()? {
                        return Ok(Some(at + 1));
                    }
                }
                b' ' => {
                    self.line.spaces += 1;
                    self.line.length += 1;
                }
                _ => self.line.length += 1,
            }
            self.line.last = *byte;
        }
        Ok(None)
    }

    /// Takes note of a line; whether it is the one that ends the head.
    fn end_of_line(&mut self) -> Result<bool, Wrong> {
        let Line { length, spaces, .. } = std::mem::take(&mut self.line);
        let is_empty = length == 1;
        match (self.fields, is_empty) {
            // RFC 9112 section 2.2: an empty line before a request is passed over.
            (0, true) => return Ok(false),
            (0, false) if spaces != 2 => return Err(Wrong::Line),
            (_, true) => return Ok(true),
            _ => {}
        }
        self.fields += 1;
        if self.fields > FIELDS + 1 { Err(Wrong::Fields) } else { Ok(false) }
    }

    fn body(&mut self) -> Result<(), Wrong> {
        let At::Body(body) = &mut self.at else { return Ok(()) };
        loop {
            match body.take(&mut self.ahead)? {
                Piece::Data(mut data) => data.advance(data.len()),
                Piece::More => return Ok(()),
                Piece::End(_) => {
                    self.at = At::Ended;
                    return Ok(());
                }
            }
        }
    }
}

/// Of one request.
pub(crate) const FIELDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads whole requests in pieces, with the framing that each is said to have.
    fn read(wire: &[u8], step: usize, bodies: impl Fn() -> Body) -> Result<bool, Wrong> {
        let mut watch = Watch::default();
        for piece in wire.chunks(step) {
            watch.came(piece)?;
            loop {
                match watch.at {
                    At::Headed => watch.frame(bodies())?,
                    At::Ended => watch.next()?,
                    _ => break,
                }
            }
        }
        Ok(matches!(watch.at, At::Head) && watch.fields == 0 && watch.line.length == 0)
    }

    #[test]
    fn requests_are_followed_one_after_the_other_however_they_come_in() {
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: 1\r\n\r\n";
        let known = b"PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\n";
        let none = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for step in 1..70 {
            assert_eq!(read(&chunked.repeat(3), step, Body::chunked), Ok(true), "in {step}");
            assert_eq!(read(&known.repeat(3), step, || Body::of(3)), Ok(true), "in {step}");
            assert_eq!(read(&none.repeat(3), step, || Body::of(0)), Ok(true), "in {step}");
        }
    }

    #[test]
    fn what_two_readers_could_end_in_two_places_is_wrong() {
        for wire in [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\r\nHost: a\r\n\r\n",
        ] {
            for step in [1, 5, 99] {
                let text = String::from_utf8_lossy(wire);
                assert_eq!(read(wire, step, || Body::of(0)), Err(Wrong::Line), "{text:?} in {step}");
            }
        }
        let smuggled = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n3;a\nabc\r\n0\r\n\r\n";
        assert!(matches!(read(smuggled, 99, Body::chunked), Err(Wrong::Body(_))));
    }

    #[test]
    fn fields_are_counted() {
        let head = |fields: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: 1\r\n".repeat(fields));
        assert_eq!(read(head(FIELDS).as_bytes(), 99, || Body::of(0)), Ok(true));
        assert_eq!(read(head(FIELDS + 1).as_bytes(), 99, || Body::of(0)), Err(Wrong::Fields));
    }

    #[test]
    fn a_request_cannot_begin_within_a_body() {
        let mut watch = Watch::default();
        watch.came(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\nab").unwrap();
        watch.frame(Body::of(3)).unwrap();
        assert_eq!(watch.next(), Err(Wrong::Line));
    }
}
