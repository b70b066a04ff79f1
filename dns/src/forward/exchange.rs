//! One exchange on one socket: what counts as the answer to a query, over datagrams and in a connection.
//!
//! A datagram that is no answer to the query is a stranger's and passed over; where it has the query's id, the answer is waited for
//! only a moment more. One that is the answer and breaks the format is what the resolver has to say.

use crate::wire::{self, Malformed, Response};
use rustix::net::{RecvFlags, recv};
use std::cell::RefCell;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Sends one datagram and waits for its answer.
pub async fn udp(
    socket: &UdpSocket,
    message: &[u8],
    id: u16,
    question: &[u8],
) -> io::Result<Result<Response, Malformed>> {
    socket.send(message).await?;
    // That the port is closed is an error and nothing to read: waiting to read alone would not hear of it.
    let mut until = None;
    loop {
        let readable = socket.ready(Interest::READABLE | Interest::ERROR);
        let ready = match until {
            None => readable.await?,
            Some(until) => match tokio::time::timeout_at(until, readable).await {
                Ok(ready) => ready?,
                Err(_) => return Ok(Err(Malformed::Stranger)),
            },
        };
        // tokio tries for one of them at a time.
        let interest = if ready.is_readable() { Interest::READABLE } else { Interest::ERROR };
        // One buffer a thread and not one a try: an answer may be as long as a datagram, whatever was asked for.
        let taken = DATAGRAM.with_borrow_mut(|buffer| {
            let read = || Ok(recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?.0);
            let length = socket.try_io(interest, read)?;
            let datagram = &buffer[..length];
            Ok::<_, io::Error>((answer(datagram, id, question), wire::word(datagram, 0) == Ok(id)))
        });
        match taken {
            Ok((Some(answer), _)) => return Ok(answer),
            Ok((None, has_id)) => {
                tracing::debug!(has_id, "ignoring a datagram");
                until = until.or_else(|| has_id.then(|| Instant::now() + GARBLED_TIMEOUT));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// An answer that came in a connection: there is nothing larger to fall back to.
pub fn whole(message: &[u8], id: u16, question: &[u8]) -> Result<Response, Malformed> {
    let response = answer(message, id, question).unwrap_or(Err(Malformed::Stranger))?;
    if response.truncated { Err(Malformed::Short) } else { Ok(response) }
}

/// Sends one message and waits for the first that has its id.
pub async fn framed<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    message: &[u8],
    id: u16,
) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(message);
    stream.write_all(&out).await?;
    for _ in 0..MESSAGES {
        let length = stream.read_u16().await?;
        let mut read = vec![0; usize::from(length)];
        stream.read_exact(&mut read).await?;
        // Only what belongs to another query is passed over.
        let anothers = read.len() >= wire::HEADER && wire::word(&read, 0) != Ok(id);
        if !anothers {
            return Ok(read);
        }
    }
    Err(io::Error::other("received only answers to other queries"))
}

/// `None`: it is not the answer.
fn answer(message: &[u8], id: u16, question: &[u8]) -> Option<Result<Response, Malformed>> {
    match wire::response(message, id, question) {
        Ok(response) => Some(Ok(response)),
        Err(_) if !wire::answers(message, id, question) => wire::bare_error(message, id, question).map(Ok),
        Err(why) => Some(Err(why)),
    }
}

thread_local! {
    static DATAGRAM: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST]);
}

/// Octets of a datagram, at most.
const LARGEST: usize = 65_535;
/// In one connection.
const MESSAGES: usize = 4;
/// For the answer, after a datagram that had its id and was none: who did not make it up has answered already.
const GARBLED_TIMEOUT: Duration = Duration::from_millis(300);
