//! What is to be sent to a backend: the head of a request, its body in the framing that the head says, and its end, once.

use super::head::{self, Length};
use bytes::{Buf, BytesMut};
use pingora::ErrorType::InvalidHTTPHeader;
use pingora::http::RequestHeader;
use pingora::{Error, Result};
use std::fmt::Write as _;

/// The outgoing side of an exchange.
#[derive(Debug)]
pub(crate) struct Sending {
    out: BytesMut,
    framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes of the body are missing.
    Left(u64),
    Chunked,
    /// Bytes as they are, until either side ends.
    Tunnel,
    /// The request has ended.
    Ended,
}

impl Sending {
    /// A request whose head is to be sent, with `target` in place of its own where there is one.
    pub fn new(request: &RequestHeader, target: Option<&[u8]>, length: Length) -> Self {
        let mut out = BytesMut::with_capacity(1_024);
        head::write(request, target, &mut out);
        let framing = match length {
            Length::Known(length) => Framing::Left(length),
            Length::Chunked => Framing::Chunked,
        };
        Self { out, framing }
    }

    /// Adds a piece of the body.
    pub fn body(&mut self, data: &[u8]) -> Result<()> {
        match &mut self.framing {
            // An empty chunk is the end of a body.
            _ if data.is_empty() => {}
            Framing::Tunnel => self.out.extend_from_slice(data),
            Framing::Chunked => {
                // Writing into a buffer that grows cannot fail.
                let _ = write!(self.out, "{:x}\r\n", data.len());
                self.out.extend_from_slice(data);
                self.out.extend_from_slice(b"\r\n");
            }
            Framing::Left(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    self.out.extend_from_slice(data);
                }
                None => return wrong("the body is longer than its length"),
            },
            Framing::Ended => return wrong("data after the end of the body"),
        }
        Ok(())
    }

    /// The body has ended.
    pub fn end(&mut self) -> Result<()> {
        match self.framing {
            Framing::Left(1..) => return wrong("the body is shorter than its length"),
            Framing::Chunked => self.out.extend_from_slice(b"0\r\n\r\n"),
            Framing::Left(0) | Framing::Tunnel | Framing::Ended => {}
        }
        self.framing = Framing::Ended;
        Ok(())
    }

    /// From here on bytes go through as they are.
    pub fn tunnel(&mut self) {
        self.framing = Framing::Tunnel;
    }

    /// What is to be written now.
    pub fn pending(&self) -> &[u8] {
        &self.out
    }

    /// So much of it was written.
    pub fn wrote(&mut self, bytes: usize) {
        self.out.advance(bytes);
    }

    /// The backend takes no more.
    pub fn give_up(&mut self) {
        self.out.clear();
    }

    /// Whether all of the request has been written, its end included. One whose length is known has ended with its last byte,
    /// also while its client has not said so: an answer may come before that, and leaves the connection free.
    pub fn is_complete(&self) -> bool {
        self.out.is_empty() && matches!(self.framing, Framing::Ended | Framing::Left(0))
    }
}

fn wrong<T>(what: &'static str) -> Result<T> {
    Err(Error::explain(InvalidHTTPHeader, what).into_down())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> RequestHeader {
        RequestHeader::build("POST", b"/", None).unwrap()
    }

    fn sent(length: Length, pieces: &[&[u8]]) -> Result<String> {
        let mut sending = Sending::new(&request(), None, length);
        for piece in pieces {
            sending.body(piece)?;
        }
        sending.end()?;
        let text = String::from_utf8_lossy(sending.pending()).into_owned();
        Ok(text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[test]
    fn a_body_ends_once_however_many_of_its_pieces_are_empty() {
        assert_eq!(sent(Length::Chunked, &[b"", b"ab", b"", b""]).unwrap(), "2\r\nab\r\n0\r\n\r\n");
        assert_eq!(sent(Length::Chunked, &[]).unwrap(), "0\r\n\r\n");
        assert_eq!(sent(Length::Known(2), &[b"", b"ab", b""]).unwrap(), "ab");
    }

    #[test]
    fn a_request_of_known_length_is_over_with_its_last_byte() {
        let mut sending = Sending::new(&request(), None, Length::Known(2));
        sending.body(b"a").unwrap();
        sending.wrote(sending.pending().len());
        assert!(!sending.is_complete());
        sending.body(b"b").unwrap();
        assert!(!sending.is_complete(), "not written yet");
        sending.wrote(sending.pending().len());
        assert!(sending.is_complete());
        sending.body(b"").unwrap();
        assert!(sending.is_complete() && sending.body(b"c").is_err());
    }

    #[test]
    fn a_body_that_is_not_as_long_as_its_length_is_never_completed() {
        assert!(sent(Length::Known(3), &[b"ab"]).is_err());
        assert!(sent(Length::Known(1), &[b"ab"]).is_err());
        let mut sending = Sending::new(&request(), None, Length::Known(0));
        sending.end().unwrap();
        assert!(sending.body(b"a").is_err());
        assert!(!sending.is_complete());
        sending.wrote(sending.pending().len());
        assert!(sending.is_complete());
    }

    proptest! {
        #[test]
        fn chunks_are_what_a_strict_reader_takes(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..9)) {
            let mut sending = Sending::new(&request(), None, Length::Chunked);
            let head = sending.pending().len();
            for piece in &pieces {
                sending.body(piece).unwrap();
            }
            sending.end().unwrap();
            sending.wrote(head);
            let mut wire = BytesMut::from(sending.pending());
            let (mut body, mut data) = (crate::upstream::body::Body::chunked(), Vec::new());
            loop {
                match body.take(&mut wire).unwrap() {
                    crate::upstream::body::Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    crate::upstream::body::Piece::End(_) => break,
                    crate::upstream::body::Piece::More => panic!("no end"),
                }
            }
            prop_assert_eq!(data, pieces.concat());
            prop_assert!(wire.is_empty());
        }
    }
}
