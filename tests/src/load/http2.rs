//! HTTP/2, which is known beforehand or agreed on with TLS: one connection, several streams at once.

use std::error::Error;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::clients::pause;
use super::connection::{Ask, PAUSE, Target, echoed};
use super::tally::Score;

type Sender = http2::SendRequest<Empty<Bytes>>;

/// Asks on [`STREAMS`] streams at once for as long as the server keeps the connection.
///
/// A stream that the server says it did not begin with (REFUSED_STREAM, above a GOAWAY's last stream) is asked again.
pub(super) async fn streams(mut score: Score, target: Target, stop: CancellationToken) {
    let mut kept: Option<Sender> = None;
    for number in 0_u64.. {
        if !pause(PAUSE, &stop).await {
            return;
        }
        let mut waiting: Vec<String> = (0..STREAMS).map(|i| format!("stream-{number}-{i}")).collect();
        waiting.iter().for_each(|_| score.asked());
        let start = Instant::now();
        while !waiting.is_empty() {
            let sender = match usable(&target, &mut kept, &score).await {
                Ok(sender) => sender,
                Err(error) => {
                    waiting.drain(..).for_each(|_| score.lost(format!("{error:#}"), None));
                    break;
                }
            };
            let asked = waiting.drain(..).map(|token| ask(&target, sender.clone(), token));
            for answer in join_all(asked).await {
                match answer {
                    Ok(Answer::Right) => score.right(start.elapsed()),
                    Ok(Answer::NotBegun(token)) => {
                        score.retried();
                        waiting.push(token);
                        kept = None;
                    }
                    Err(error) => {
                        score.lost(format!("{error:#}"), None);
                        kept = None;
                    }
                }
            }
        }
    }
}

enum Answer {
    Right,
    /// The server did not begin with it.
    NotBegun(String),
}

/// The kept connection, or a new one when the server has closed that or wants no more streams on it.
async fn usable(target: &Target, kept: &mut Option<Sender>, score: &Score) -> Result<Sender> {
    if let Some(sender) = kept {
        if timeout(PATIENCE, sender.ready()).await.context("the connection is not ready in time")?.is_ok() {
            return Ok(sender.clone());
        }
        score.closed();
    }
    let stream = TokioIo::new(target.connect().await?);
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), stream).await.context("begin HTTP/2")?;
    tokio::spawn(connection);
    Ok(kept.insert(sender).clone())
}

async fn ask(target: &Target, mut sender: Sender, token: String) -> Result<Answer> {
    let request = target.request2(&format!("/echo/{token}"))?;
    let answer = timeout(PATIENCE, sender.try_send_request(request)).await.context("timed out")?;
    match answer {
        Ok(response) => echoed(response, &token).await.map(|()| Answer::Right),
        Err(error) if not_begun(&error) => Ok(Answer::NotBegun(token)),
        Err(error) => Err(anyhow!(error.into_error()).context("on its way")),
    }
}

/// RFC 9113 8.7: what may be asked again whatever it is.
fn not_begun(error: &TrySendError<Ask>) -> bool {
    if error.message().is_some() {
        return true;
    }
    let cause = error.error().source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let reason = cause.reason();
        cause.is_remote()
            && (reason == Some(h2::Reason::REFUSED_STREAM)
                || cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}

const STREAMS: usize = 4;
