//! Long downloads: a body of known length and content that takes its time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::clients::pause;
use super::connection::{PAUSE, Target};
use super::service::{BYTES_A_SECOND, REPLICA, pattern};
use super::tally::Score;

/// One download of so many seconds after another.
pub(super) async fn downloads(mut score: Score, target: Target, seconds: u64, stop: CancellationToken) {
    // The first is short: the run has begun when it is there.
    let mut lasts = 1;
    while pause(PAUSE, &stop).await {
        score.asked();
        let start = Instant::now();
        let mut replica = None;
        match one(&target, lasts, &mut replica, &stop).await {
            Ok(true) => score.right(start.elapsed().saturating_sub(Duration::from_secs(lasts))),
            Ok(false) => score.unfinished(),
            Err(error) => {
                let after = start.elapsed().as_secs_f32();
                score.lost(format!("{after:.1} s into {lasts} s: {error:#}"), replica.as_deref());
            }
        }
        lasts = seconds;
    }
}

/// Whether it came to its end, or the run did.
async fn one(
    target: &Target,
    seconds: u64,
    replica: &mut Option<String>,
    stop: &CancellationToken,
) -> Result<bool> {
    let mut sender = target.http1().await?;
    let request = target.request(&format!("/download/{seconds}"))?;
    let response = timeout(PATIENCE, sender.send_request(request)).await.context("timed out")??;
    ensure!(response.status() == 200, "{}", response.status());
    *replica = response.headers().get(REPLICA).and_then(|name| Some(name.to_str().ok()?.to_owned()));
    tokio::select! {
        checked = check(response, seconds * BYTES_A_SECOND) => checked.map(|()| true),
        () = stop.cancelled() => Ok(false),
    }
}

async fn check(mut response: Response<Incoming>, length: u64) -> Result<()> {
    let mut at = 0;
    loop {
        let frame = timeout(PATIENCE, response.frame()).await.context("no more of it in time")?;
        let Some(frame) = frame else { break };
        let frame = frame.with_context(|| format!("after {at} of {length} bytes"))?;
        let part = frame.into_data().unwrap_or_default();
        ensure!(is_pattern(&part, at), "other bytes than were sent after {at}");
        at += part.len() as u64;
    }
    ensure!(at == length, "{at} bytes of {length}");
    Ok(())
}

fn is_pattern(part: &Bytes, from: u64) -> bool {
    (from..).zip(part).all(|(at, byte)| *byte == pattern(at))
}
