//! What was read of a request's body, kept so that it can be sent to another backend.

use bytes::{Bytes, BytesMut};

/// The beginning of a body, as long as it is small.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    data: BytesMut,
    truncated: bool,
}

impl Kept {
    /// Adds a piece; a body that is too large is not kept at all.
    pub fn add(&mut self, piece: &[u8]) {
        if self.truncated || self.data.len() + piece.len() > MOST {
            self.truncated = true;
            self.data = BytesMut::new();
        } else {
            self.data.extend_from_slice(piece);
        }
    }

    /// Whether a piece of it is missing.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// All of it, if there is anything.
    pub fn whole(&self) -> Option<Bytes> {
        (!self.truncated && !self.data.is_empty()).then(|| Bytes::copy_from_slice(&self.data))
    }
}

/// As much as Pingora keeps of a body of HTTP/1.
const MOST: usize = 64 * 1024;
