//! The body of a backend's answer, taken from the bytes as they come: by length, in chunks, or until the connection ends.
//!
//! RFC 9112 section 7.1, read strictly: lines end in CRLF, sizes are hexadecimal digits, extensions carry no control
//! characters. What cannot be read in exactly one way is [`Malformed`]. Bytes behind the end stay in the buffer: a
//! connection that has any is not used again.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// How far a body has been read.
#[derive(Debug)]
pub(crate) enum Body {
    /// So many bytes are to come.
    Length(u64),
    /// Chunks are to come.
    Chunked(Chunks),
    /// All until the connection ends.
    UntilClose,
    /// All of it has come.
    Done,
}

/// Where in a chunked body the reader stands.
#[derive(Debug)]
pub(crate) struct Chunks {
    at: At,
    /// Bytes of the line or of the trailer section under way.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a size, of which so many digits have come.
    Size { size: u64, digits: u8 },
    /// Behind a size: an extension, of which nothing is kept.
    Extension { size: u64 },
    /// The LF that ends the line of a size.
    SizeEnd { size: u64 },
    /// So many bytes of data are to come.
    Data(u64),
    /// The CR behind the data.
    DataCr,
    /// The LF behind the data.
    DataLf,
    /// In the trailer section.
    Trailers,
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Data.
    Data(Bytes),
    /// More must be read first.
    More,
    /// The end, with the trailers.
    End(HeaderMap),
}

/// The bytes are no chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Body {
    /// A chunked body of which nothing has come.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { at: START, line: 0 })
    }

    /// A body of so many bytes.
    pub fn of(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    /// Takes the next piece out of what was read.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        match self {
            Self::Done => Ok(Piece::End(HeaderMap::new())),
            _ if buffer.is_empty() => Ok(Piece::More),
            Self::UntilClose => Ok(Piece::Data(buffer.split().freeze())),
            Self::Length(left) => {
                let data = split(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Piece::Data(data))
            }
            Self::Chunked(chunks) => {
                let piece = chunks.take(buffer)?;
                if matches!(piece, Piece::End(_)) {
                    *self = Self::Done;
                }
                Ok(piece)
            }
        }
    }
}

impl Chunks {
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            if let At::Data(left) = self.at {
                if buffer.is_empty() {
                    return Ok(Piece::More);
                }
                let data = split(buffer, left);
                let left = left - data.len() as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                return Ok(Piece::Data(data));
            }
            if self.at == At::Trailers {
                return self.trailers(buffer);
            }
            let Some(byte) = buffer.first().copied() else { return Ok(Piece::More) };
            buffer.advance(1);
            self.line += 1;
            if self.line > LINE {
                return Err(Malformed("a line too long"));
            }
            self.at = self.next(byte)?;
        }
    }

    /// Where a byte outside of data and trailers leads.
    fn next(&mut self, byte: u8) -> Result<At, Malformed> {
        Ok(match (self.at, byte) {
            (At::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                At::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (At::Size { size, digits: 1.. }, b'\r') => At::SizeEnd { size },
            (At::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => At::Extension { size },
            (At::Size { .. }, _) => return Err(Malformed("an invalid chunk size")),
            (At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => At::Extension { size },
            (At::Extension { .. }, _) => return Err(Malformed("a control character in a chunk extension")),
            (At::SizeEnd { size }, b'\n') => {
                self.line = 0;
                if size == 0 { At::Trailers } else { At::Data(size) }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.line = 0;
                START
            }
            _ => return Err(Malformed("a missing line end")),
        })
    }

    /// The trailer section: taken when all of it is there.
    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        let end = if buffer.starts_with(b"\r\n") {
            2
        } else {
            // Looked at again from the beginning when more has come; the section is small.
            match buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => at + 4,
                None if buffer.len() > TRAILERS => return Err(Malformed("trailers too large")),
                None => return Ok(Piece::More),
            }
        };
        let section = buffer.split_to(end);
        if end > TRAILERS {
            return Err(Malformed("trailers too large"));
        }
        parse_trailers(&section).map(Piece::End)
    }
}

fn parse_trailers(section: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let parsed = httparse::parse_headers(section, &mut fields);
    let Ok(httparse::Status::Complete((_, fields))) = parsed else {
        return Err(Malformed("malformed trailers"));
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Malformed("malformed trailers")) };
        // RFC 9110 section 6.5.1: what frames, routes or authenticates is no trailer, and is not merged.
        if !FORBIDDEN.contains(&name.as_str()) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

fn split(buffer: &mut BytesMut, most: u64) -> Bytes {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    buffer.split_to(most.min(buffer.len())).freeze()
}

const START: At = At::Size { size: 0, digits: 0 };
/// Of a size: 2^60 bytes and more are no chunk.
const DIGITS: u8 = 15;
/// Of the line of a size, its extension included.
const LINE: usize = 4 * 1024;
/// Of a trailer section.
const TRAILERS: usize = 16 * 1024;
/// Fields in a trailer section.
const FIELDS: usize = 64;
const FORBIDDEN: [&str; 20] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a chunked body says when its bytes come in pieces of this size, and what is left over.
    fn read(wire: &[u8], step: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Malformed> {
        let mut body = Body::chunked();
        let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
        let mut pieces = wire.chunks(step.max(1));
        loop {
            match body.take(&mut buffer)? {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::End(trailers) => {
                    let rest: Vec<u8> = pieces.flatten().copied().collect();
                    return Ok((data, trailers, [&buffer[..], &rest].concat()));
                }
                Piece::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Err(Malformed("the end of the test")),
                },
            }
        }
    }

    #[test]
    fn chunks_are_read_however_they_come_in() {
        let wire = b"3\r\nabc\r\n0A;name=\"v;w\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nETag: \"a\"\r\n\r\nrest";
        for step in 1..wire.len() {
            let (data, trailers, rest) = read(wire, step).unwrap();
            assert_eq!(data, b"abc0123456789");
            assert_eq!(trailers.get("x-sum").unwrap(), "1");
            assert_eq!(trailers.len(), 2);
            assert_eq!(rest, b"rest");
        }
    }

    #[test]
    fn trailers_that_frame_or_authenticate_are_dropped() {
        let wire = b"0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nAuthorization: y\r\nX-A: 1\r\n\r\n";
        let (_, trailers, _) = read(wire, 99).unwrap();
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-a"]);
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_no_body() {
        for wire in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"3;a\nabc\r\n0\r\n\r\n",
            b"3;a\0b\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"\r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
            b"3\r\r\nabc\r\n0\r\n\r\n",
            b"0\r\nX Y: 1\r\n\r\n",
        ] {
            let text = String::from_utf8_lossy(wire).into_owned();
            assert!(read(wire, 1).is_err(), "{text:?} is read in ones");
            assert!(read(wire, 99).is_err(), "{text:?} is read at once");
        }
    }

    proptest! {
        #[test]
        fn what_was_cut_into_chunks_comes_out_whole(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            step in 1..700_usize,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (data, trailers, rest) = read(&wire, step).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(trailers.is_empty() && rest.is_empty());
        }

        #[test]
        fn nothing_makes_the_reader_panic(wire in prop::collection::vec(any::<u8>(), 0..400), step in 1..50_usize) {
            let _ = read(&wire, step);
        }
    }
}
