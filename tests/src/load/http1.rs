//! HTTP/1.1: connections that are kept, and new ones for every request.

use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::SendRequest;
use hyper::header::CONNECTION;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::clients::pause;
use super::connection::{PAUSE, Target, echoed};
use super::tally::Score;

/// What became of one attempt on a connection.
enum Attempt {
    Answered,
    /// The server had closed the connection before the request was on its way.
    Unsent,
}

/// One connection for as long as the server keeps it.
///
/// A server may announce the end of a connection with an answer, or close it while nothing is asked; a request that is on its
/// way when the connection ends is lost.
pub(super) async fn keep_alive(mut score: Score, target: Target, stop: CancellationToken) {
    let mut kept = None;
    for number in 0_u64.. {
        if !pause(PAUSE, &stop).await {
            return;
        }
        score.asked();
        let start = Instant::now();
        match ask(&target, &mut kept, &score, number).await {
            Ok(()) => score.right(start.elapsed()),
            Err(error) => {
                kept = None;
                score.lost(format!("{error:#}"), None);
            }
        }
    }
}

async fn ask(
    target: &Target,
    kept: &mut Option<SendRequest<Empty<Bytes>>>,
    score: &Score,
    number: u64,
) -> Result<()> {
    loop {
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => target.http1().await?,
        };
        let usable =
            timeout(PATIENCE, sender.ready()).await.context("the connection is not ready in time")?;
        if usable.is_err() {
            score.closed();
            continue;
        }
        match attempt(target, &mut sender, number).await? {
            Attempt::Unsent => score.closed(),
            Attempt::Answered => {
                *kept = Some(sender);
                return Ok(());
            }
        }
    }
}

async fn attempt(target: &Target, sender: &mut SendRequest<Empty<Bytes>>, number: u64) -> Result<Attempt> {
    let token = format!("kept-{number}");
    let request = target.request(&format!("/echo/{token}"))?;
    let answer = timeout(PATIENCE, sender.try_send_request(request)).await.context("timed out")?;
    match answer {
        Ok(response) => echoed(response, &token).await.map(|()| Attempt::Answered),
        Err(mut error) => match error.take_message() {
            Some(_) => Ok(Attempt::Unsent),
            None => Err(anyhow!(error.into_error()).context("on its way")),
        },
    }
}

/// A new TCP connection for every request.
pub(super) async fn connects(mut score: Score, target: Target, stop: CancellationToken) {
    for number in 0_u64.. {
        if !pause(PAUSE, &stop).await {
            return;
        }
        score.asked();
        let start = Instant::now();
        match once(&target, number).await {
            Ok(()) => score.right(start.elapsed()),
            Err(error) => score.lost(format!("{error:#}"), None),
        }
    }
}

async fn once(target: &Target, number: u64) -> Result<()> {
    let token = format!("new-{number}");
    let mut request = target.request(&format!("/echo/{token}"))?;
    request.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    let mut sender = target.http1().await?;
    let answer = timeout(PATIENCE, sender.send_request(request)).await.context("timed out")?;
    echoed(answer?, &token).await
}
