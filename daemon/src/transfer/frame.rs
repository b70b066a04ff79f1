//! What goes over a transfer connection: frames of one byte of kind, four bytes of length (big-endian) and that many
//! bytes. A stream that just stops is thereby told from one that has ended.

use bytes::Bytes;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of what is sent.
    Data(Bytes),
    /// Still at it.
    Alive,
    /// That was all of it.
    End,
    /// One JSON value: the opening, the outcome.
    Word(Bytes),
}

/// Reads a frame of at most `most` bytes; `None` when the connection was closed between two. Not cancel-safe.
pub async fn read(from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Option<Frame>> {
    let kind = match from.read_u8().await {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    let fits = match kind {
        DATA | WORD => length <= most,
        ALIVE | END => length == 0,
        _ => false,
    };
    if !fits {
        let what = format!("a frame of kind {kind} and {length} bytes was not expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(Some(match kind {
        DATA => Frame::Data(body.into()),
        ALIVE => Frame::Alive,
        END => Frame::End,
        _ => Frame::Word(body.into()),
    }))
}

/// Writes a frame. Not cancel-safe, and not flushed.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let (kind, body): (u8, &[u8]) = match frame {
        Frame::Data(body) => (DATA, body),
        Frame::Alive => (ALIVE, &[]),
        Frame::End => (END, &[]),
        Frame::Word(body) => (WORD, body),
    };
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut head = [kind; 5];
    head[1..].copy_from_slice(&length.to_be_bytes());
    to.write_all(&head).await?;
    to.write_all(body).await
}

/// Bytes of a piece or a word at most.
pub const MOST: usize = 256 * 1024;
const DATA: u8 = 0;
const ALIVE: u8 = 1;
const END: u8 = 2;
const WORD: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_written() {
        let all = [
            Frame::Word(Bytes::from_static(b"{}")),
            Frame::Data(Bytes::from(vec![7; MOST])),
            Frame::Data(Bytes::new()),
            Frame::Alive,
            Frame::End,
        ];
        let mut text = Vec::new();
        for frame in &all {
            write(&mut text, frame).await.unwrap();
        }
        let mut from = text.as_slice();
        for frame in all {
            assert_eq!(read(&mut from, MOST).await.unwrap(), Some(frame));
        }
        assert_eq!(read(&mut from, MOST).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_before_its_bytes_are_waited_for() {
        let huge = [DATA, 0xff, 0xff, 0xff, 0xff];
        let fat = [ALIVE, 0, 0, 0, 1, 0];
        let odd = [9, 0, 0, 0, 0];
        for bad in [huge.as_slice(), &fat, &odd, b"GET / HTTP/1.1\r\n"] {
            assert_eq!(
                read(&mut &*bad, MOST).await.unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{bad:?}"
            );
        }
        // Cut off within a frame is not an end.
        assert!(read(&mut [DATA, 0, 0].as_slice(), MOST).await.is_err());
        assert!(read(&mut [DATA, 0, 0, 0, 2, 1].as_slice(), MOST).await.is_err());
    }
}
