//! One transfer over a connection that stands: pieces one way, a word at the end the other way.
//!
//! Both ends say that they are still there every [`HEARTBEAT_INTERVAL`], whatever their engines do, so silence for
//! [`SILENCE_TIMEOUT`] means that the other end is gone. Writes need no deadline of their own: who does not take them in
//! does not beat either.

use crate::transfer::frame::{self, Frame, MOST};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Why a transfer did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken<E: std::error::Error + 'static> {
    /// The connection.
    #[error("the connection broke")]
    Connection(#[source] io::Error),
    /// The other end closed it before it said how it went.
    #[error("the other machine closed the connection")]
    Closed,
    /// The other end does not give a sign any more.
    #[error("the other machine sent nothing for {}s", SILENCE_TIMEOUT.as_secs())]
    Silent,
    /// Whoever it is handed on to takes nothing in.
    #[error("the receiver took no data for {}s", ENGINE_TIMEOUT.as_secs())]
    Stuck,
    /// What is sent cannot be had.
    #[error("cannot read the data to send")]
    Body(#[source] E),
}

type Result<T, E> = std::result::Result<T, Broken<E>>;

/// Sends a body and waits for the word of the other end, which may come before all is sent: then the rest stays. `sent`
/// counts its bytes.
pub async fn send<E: std::error::Error + 'static>(
    mut reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    body: impl Stream<Item = std::result::Result<Bytes, E>>,
    sent: &AtomicU64,
) -> Result<Bytes, E> {
    let mut word = pin!(word::<E>(&mut reader));
    let written = {
        let mut writing = pin!(write(writer, body, sent));
        // Both stay pinned; what is not ready is polled on or given up with the connection.
        tokio::select! {
            word = &mut word => return word,
            written = &mut writing => written,
        }
    };
    match written {
        Ok(_open) => word.await,
        // Why it was closed may be on its way.
        Err(Broken::Connection(error)) => match timeout(LAST_FRAME_TIMEOUT, word).await {
            Ok(Ok(word)) => Ok(word),
            _ => Err(Broken::Connection(error)),
        },
        Err(error) => Err(error),
    }
}

/// Hands back the writer: closed, it would say that nobody waits for the word any more.
async fn write<E: std::error::Error + 'static, W: AsyncWrite + Unpin>(
    writer: W,
    body: impl Stream<Item = std::result::Result<Bytes, E>>,
    sent: &AtomicU64,
) -> Result<BufWriter<W>, E> {
    let (mut writer, mut body) = (BufWriter::with_capacity(64 * 1024, writer), pin!(body));
    let broke = Broken::Connection;
    loop {
        let Ok(piece) = timeout(HEARTBEAT_INTERVAL, body.next()).await else {
            frame::write(&mut writer, &Frame::Alive).await.map_err(broke)?;
            writer.flush().await.map_err(broke)?;
            continue;
        };
        let Some(piece) = piece else { break };
        let mut rest = piece.map_err(Broken::Body)?;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(MOST));
            let length = part.len() as u64;
            frame::write(&mut writer, &Frame::Data(part)).await.map_err(broke)?;
            sent.fetch_add(length, Ordering::Relaxed);
        }
    }
    frame::write(&mut writer, &Frame::End).await.map_err(broke)?;
    writer.flush().await.map_err(broke)?;
    Ok(writer)
}

async fn word<E: std::error::Error + 'static>(reader: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, E> {
    loop {
        match timeout(SILENCE_TIMEOUT, frame::read(reader, MOST)).await {
            Err(_) => return Err(Broken::Silent),
            Ok(Err(error)) => return Err(ended(error)),
            Ok(Ok(None)) => return Err(Broken::Closed),
            Ok(Ok(Some(Frame::Word(word)))) => return Ok(word),
            Ok(Ok(Some(_))) => {}
        }
    }
}

/// Takes in a body and hands it on. An early end is handed on as an error, so that it is never taken for the whole.
/// `Ok(false)`: whoever it was handed to wants no more of it.
pub async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    into: mpsc::Sender<io::Result<Bytes>>,
) -> std::result::Result<bool, Broken<io::Error>> {
    let broken = loop {
        match timeout(SILENCE_TIMEOUT, frame::read(reader, MOST)).await {
            Err(_) => break Broken::Silent,
            Ok(Err(error)) => break ended(error),
            Ok(Ok(None)) => break Broken::Closed,
            Ok(Ok(Some(Frame::Data(piece)))) => match timeout(ENGINE_TIMEOUT, into.send(Ok(piece))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(false),
                Err(_) => return Err(Broken::Stuck),
            },
            Ok(Ok(Some(Frame::End))) => return Ok(true),
            Ok(Ok(Some(Frame::Alive | Frame::Word(_)))) => {}
        }
    };
    let _ = into.send(Err(io::Error::other(broken.to_string()))).await;
    Err(broken)
}

fn ended<E: std::error::Error>(error: io::Error) -> Broken<E> {
    match error.kind() {
        // Within a frame.
        io::ErrorKind::UnexpectedEof => Broken::Closed,
        _ => Broken::Connection(error),
    }
}

/// Says that this end is still there until it has a word to say, says it and closes.
pub async fn beat(mut writer: impl AsyncWrite + Unpin, mut last: oneshot::Receiver<Bytes>) -> io::Result<()> {
    let mut beats = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        // Cancel-safe: both only tell that it is time; what is written is written outside.
        let word = tokio::select! {
            word = &mut last => Some(word),
            _ = beats.tick() => None,
        };
        match word {
            None => frame::write(&mut writer, &Frame::Alive).await?,
            Some(word) => {
                if let Ok(word) = word {
                    frame::write(&mut writer, &Frame::Word(word)).await?;
                }
                return writer.shutdown().await;
            }
        }
        writer.flush().await?;
    }
}

/// How often each end says that it is there.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Silence after which the other end is gone: WireGuard leaves a dead path within ten seconds.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// An engine that took in nothing for so long hangs.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(600);
/// For the word of an end that has closed already.
const LAST_FRAME_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::io::{DuplexStream, duplex, split};

    type Piece = io::Result<Bytes>;

    fn body(pieces: usize) -> impl Stream<Item = Piece> {
        stream::iter((0..pieces).map(|n| Ok(Bytes::from(vec![n as u8; MOST + 7]))))
    }

    /// The other end: takes all in, then says what it got.
    async fn other(end: DuplexStream) -> (std::result::Result<bool, Broken<io::Error>>, Vec<Piece>) {
        let (mut reader, writer) = split(end);
        let (into, mut from) = mpsc::channel(4);
        let (say, last) = oneshot::channel();
        let take = async {
            let mut all = Vec::new();
            while let Some(piece) = from.recv().await {
                all.push(piece);
            }
            let bytes: usize = all.iter().flatten().map(Bytes::len).sum();
            let _ = say.send(Bytes::from(bytes.to_string()));
            all
        };
        let (received, all, _) = tokio::join!(receive(&mut reader, into), take, beat(writer, last));
        (received, all)
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_it_arrives_and_the_word_comes_back() {
        let (here, there) = duplex(1000);
        let far = tokio::spawn(other(there));
        let (reader, writer) = split(here);
        let sent = AtomicU64::new(0);
        // An engine that takes its time is not gone.
        let slow = body(3).then(|piece| async {
            tokio::time::sleep(SILENCE_TIMEOUT * 3).await;
            piece
        });
        let word = send(reader, writer, slow, &sent).await.unwrap();
        let want = 3 * (MOST + 7);
        assert_eq!((word, sent.into_inner()), (Bytes::from(want.to_string()), want as u64));
        let (received, all) = far.await.unwrap();
        assert!(received.unwrap() && all.iter().all(|piece| piece.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_breaks_off_is_never_taken_for_the_whole() {
        let (here, there) = duplex(1000);
        let far = tokio::spawn(other(there));
        let (reader, writer) = split(here);
        let broken = body(2).chain(stream::iter([Err(io::Error::other("the engine is gone"))]));
        let error = send(reader, writer, broken, &AtomicU64::new(0)).await.unwrap_err();
        assert!(matches!(error, Broken::Body(_)), "{error}");
        let (received, all) = far.await.unwrap();
        assert!(matches!(received, Err(Broken::Closed)), "{received:?}");
        assert!(all.last().unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_both_ends() {
        let (here, there) = duplex(1000);
        let (reader, writer) = split(here);
        let error = send(reader, writer, stream::pending::<Piece>(), &AtomicU64::new(0)).await.unwrap_err();
        assert!(matches!(error, Broken::Silent), "{error}");
        drop(there);
        let (_held, there) = duplex(1000);
        let (received, all) = other(there).await;
        assert!(matches!(received, Err(Broken::Silent)) && all.len() == 1 && all[0].is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_before_the_end_is_the_outcome() {
        let (here, there) = duplex(1000);
        let (mut far_reader, far_writer) = split(there);
        let (say, last) = oneshot::channel();
        let (into, taken) = mpsc::channel(1);
        let far = tokio::spawn(async move {
            drop(taken);
            assert!(!receive(&mut far_reader, into).await.unwrap());
            say.send(Bytes::from_static(b"no room")).unwrap();
            beat(far_writer, last).await.unwrap();
            far_reader
        });
        let (reader, writer) = split(here);
        let word = send(reader, writer, body(100), &AtomicU64::new(0)).await.unwrap();
        assert_eq!(word, "no room");
        far.await.unwrap();
    }
}
