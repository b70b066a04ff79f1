//! What containers printed, as lines with their times.

use crate::deploy::agent::container::failed;
use futures_util::StreamExt;
use ployz_core::spec::container::container_name;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployAnswer, DeployFailure, LogLine, LogStream, Logs};
use ployz_engine::docker::{Docker, LogPiece, LogRange};
use ployz_host::clock::{NANOS, nanos};
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

/// The newest lines of one instance.
pub(super) async fn read(docker: &Docker, asked: &Logs) -> Result<DeployAnswer, DeployFailure> {
    let name = container_name(&asked.namespace, &asked.instance);
    let since = asked.after.and_then(|nanos| i32::try_from(nanos / NANOS).ok());
    let tail = Some(asked.tail.clamp(1, MOST_LINES));
    let range = LogRange { follow: false, tail, since, timestamps: true };
    let pieces = docker.logs(&name, range).await.map_err(failed)?;
    let (mut pieces, mut newest) = (pin!(pieces), Newest::default());
    let collect = async {
        while let Some(piece) = pieces.next().await {
            let Some(line) = line(&piece.map_err(failed)?) else { continue };
            if asked.after.is_some_and(|after| line.at <= after) {
                continue;
            }
            newest.push(line);
        }
        Ok::<_, DeployFailure>(())
    };
    match tokio::time::timeout(COLLECT_TIMEOUT, collect).await {
        Ok(done) => done?,
        Err(_) => {
            return Err(DeployFailure::new(ErrorCode::DockerUnavailable, "Docker does not return its log"));
        }
    }
    Ok(DeployAnswer::Logs { lines: newest.lines.into() })
}

/// As many of the last lines as an answer holds: who asks wants to know what is now.
#[derive(Default)]
struct Newest {
    lines: VecDeque<LogLine>,
    size: usize,
}

impl Newest {
    fn push(&mut self, line: LogLine) {
        self.size += line.text.len();
        self.lines.push_back(line);
        while self.size > MOST_BYTES {
            self.size -= self.lines.pop_front().map_or(self.size, |oldest| oldest.text.len());
        }
    }
}

/// The last lines of a container, to say why it failed.
pub(super) async fn last(docker: &Docker, name: &str) -> Vec<String> {
    let range = LogRange { tail: Some(5), ..Default::default() };
    let Ok(pieces) = docker.logs(name, range).await else { return Vec::new() };
    let texts = pieces.filter_map(|piece| async { piece.ok() }).take(5).map(|piece| text(&piece.text));
    let all = tokio::time::timeout(Duration::from_secs(3), texts.collect::<Vec<_>>()).await;
    all.unwrap_or_default().into_iter().filter(|line| !line.is_empty()).collect()
}

/// Docker puts the time in front: `2026-01-02T03:04:05.123456789Z text`.
fn line(piece: &LogPiece) -> Option<LogLine> {
    let whole = text(&piece.text);
    let (at, said) = whole.split_once(' ').unwrap_or((&whole, ""));
    let stream = if piece.error { LogStream::Stderr } else { LogStream::Stdout };
    Some(LogLine { at: nanos(at)?, stream, text: said.to_owned() })
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\n', '\r']).chars().take(LONGEST_LINE).collect()
}

const MOST_LINES: u32 = 5_000;
const MOST_BYTES: usize = 2 << 20;
const LONGEST_LINE: usize = 16 << 10;
const COLLECT_TIMEOUT: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_than_an_answer_holds_the_last_lines_stay() {
        let mut newest = Newest::default();
        for at in 0..1_000 {
            newest.push(LogLine { at, stream: LogStream::Stdout, text: "x".repeat(LONGEST_LINE) });
        }
        let kept = MOST_BYTES / LONGEST_LINE;
        assert_eq!((newest.lines.len(), newest.size), (kept, MOST_BYTES));
        assert_eq!(newest.lines.back().map(|line| line.at), Some(999));
    }
}
