//! One call of the daemon: HTTP/1.1 over its Unix socket, newline-delimited events back.
//!
//! There is no time limit here: an operation lasts as long as it lasts, and the operator has Ctrl-C.

use crate::failure::Failure;
use crate::progress::Progress;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ployz_core::text::chain;
use ployz_core::wire::v1::api::{Envelope, Event, Request};
use serde_json::Value;
use std::error::Error;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

/// The daemon's answer.
pub(crate) struct Answer {
    /// As this version understands it; a payload of an unknown kind is left out.
    pub(crate) envelope: Envelope,
    /// As it came, when this version does not understand all of it.
    pub(crate) foreign: Option<Value>,
}

/// Calls the daemon and waits for the result.
pub(crate) async fn call(
    socket: &Path,
    request: &Request,
    progress: &mut Progress,
) -> Result<Answer, Failure> {
    let unreachable = |cause| Failure::Unreachable { socket: socket.to_owned(), cause };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let broken = |error: hyper::Error| broken_off(socket, &error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let answer = converse(&mut sender, request, progress, socket).await;
    drop(sender);
    driver.abort();
    let _ = driver.await;
    answer
}

async fn converse(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: &Request,
    progress: &mut Progress,
    socket: &Path,
) -> Result<Answer, Failure> {
    let body = serde_json::to_vec(request).expect("a request is plain data");
    let call = hyper::Request::post("/v1/call")
        .header("host", "ployzd")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("the parts of this request are fixed");
    let sending = sender.send_request(call);
    tokio::pin!(sending);
    let response = loop {
        // Cancel-safe: `sending` is pinned outside and polled again; the patience is a mere timer.
        tokio::select! {
            response = &mut sending => break response.map_err(|error| broken_off(socket, &error))?,
            () = progress.patience() => progress.open(),
        }
    };
    let status = response.status();
    let body = response.into_body().into_data_stream().map_err(io::Error::other);
    let mut lines = FramedRead::new(StreamReader::new(body), LinesCodec::new_with_max_length(MAX_LINE));
    loop {
        // Cancel-safe: what came of a line stays in the reader.
        let line = tokio::select! {
            line = lines.try_next() => line,
            () = progress.patience() => {
                progress.open();
                continue;
            }
        };
        let line = line.map_err(|error| match error {
            LinesCodecError::Io(error) => broken_off(socket, &error),
            error => broken_off(socket, &error),
        })?;
        let Some(line) = line else {
            let cause = "the stream ended without a result".into();
            return Err(Failure::BrokenOff { socket: socket.to_owned(), cause });
        };
        if !line.trim_ascii().is_empty()
            && let Some(answer) = judge(line.as_bytes(), status, progress)?
        {
            return Ok(answer);
        }
    }
}

/// The answer when this line is the last, `None` when more will come.
fn judge(line: &[u8], status: hyper::StatusCode, progress: &mut Progress) -> Result<Option<Answer>, Failure> {
    match serde_json::from_slice(line) {
        Ok(Event::Progress { message, deploy }) => {
            deploy.into_iter().for_each(|deploy| progress.note(deploy));
            progress.say(&message);
            Ok(None)
        }
        Ok(Event::Result { envelope }) => Ok(Some(Answer { envelope: *envelope, foreign: None })),
        Err(error) => match foreign(line) {
            Some(answer) => Ok(Some(answer)),
            None => {
                let start: String = String::from_utf8_lossy(line).chars().take(200).collect();
                Err(Failure::Unintelligible { cause: format!("HTTP status {status}: {start} ({error})") })
            }
        },
    }
}

/// An answer of another version: the envelope without a payload we cannot read.
fn foreign(line: &[u8]) -> Option<Answer> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    value.as_object_mut()?.remove("event");
    let whole = value.clone();
    value.as_object_mut()?.remove("payload");
    let envelope = serde_json::from_value(value).ok()?;
    Some(Answer { envelope, foreign: Some(whole) })
}

fn broken_off(socket: &Path, error: &dyn Error) -> Failure {
    Failure::BrokenOff { socket: socket.to_owned(), cause: chain(error) }
}

/// Far more than the logs of a service that can be asked for at once; what is longer is no answer of a daemon.
const MAX_LINE: usize = 256 * 1024 * 1024;
