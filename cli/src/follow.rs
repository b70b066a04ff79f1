//! `service logs --follow`: asks for the lines since the last answer, once a second, until Ctrl-C.
//!
//! ployzd may come and go meanwhile: only the first question must be answered.

use crate::client;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::Mode;
use crate::render::logs::{Lines, missing};
use ployz_core::id::InstanceId;
use ployz_core::wire::v1::api::{ErrorCode, Payload, Request};
use ployz_core::wire::v1::api_deploy::{ServiceLogLine, ServiceLogMissing, ServiceLogs, ServiceLogsRequest};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Prints lines as they come; ends only with a failure.
pub(crate) async fn follow(
    socket: &Path,
    mut request: ServiceLogsRequest,
    mode: Mode,
) -> Result<Infallible, Failure> {
    let mut seen = Seen::new(if request.tail == 0 { now() } else { 0 });
    let mut lines = Lines::new(mode);
    let mut missing = Vec::new();
    let first = ask(socket, &request).await?;
    warn_missing(&mut missing, first.missing);
    show(&mut lines, seen.fresh(first.lines))?;
    request.tail = u32::MAX;
    let mut silent = false;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        request.after = seen.after(now()).or(request.after);
        match ask(socket, &request).await {
            Ok(answer) => {
                silent = false;
                warn_missing(&mut missing, answer.missing);
                show(&mut lines, seen.fresh(answer.lines))?;
            }
            Err(failure) if !may_pass(&failure) => return Err(failure),
            Err(failure) => {
                if !silent {
                    failure.print();
                    let _ = writeln!(io::stderr().lock(), "... retrying until ployzd answers");
                }
                silent = true;
            }
        }
    }
}

/// Which lines were shown. Machines date lines by their own clocks, so each question goes back a little, and what
/// comes twice is known by its instance's last date.
struct Seen {
    /// Dates of the last line shown of each instance, for as long as a question can still bring it again.
    last: BTreeMap<InstanceId, u64>,
    newest: Option<u64>,
    /// Nothing up to this date is shown.
    floor: u64,
}

impl Seen {
    fn new(floor: u64) -> Self {
        Self { last: BTreeMap::new(), newest: (floor > 0).then_some(floor), floor }
    }

    /// Those of an answer that were not shown yet.
    fn fresh(&mut self, answer: Vec<ServiceLogLine>) -> Vec<ServiceLogLine> {
        let shown = |line: &ServiceLogLine| *self.last.get(&line.instance).unwrap_or(&self.floor);
        let fresh: Vec<_> = answer.into_iter().filter(|line| line.line.at > shown(line)).collect();
        for line in &fresh {
            let last = self.last.entry(line.instance.clone()).or_default();
            *last = line.line.at.max(*last);
            self.newest = self.newest.max(Some(line.line.at));
        }
        fresh
    }

    /// What the next question is for: lines after this date. A clock that is ahead must not hide the others' lines.
    fn after(&mut self, now: u64) -> Option<u64> {
        let after = self.newest?.min(now).saturating_sub(OVERLAP_NANOS);
        self.last.retain(|_, last| *last > after);
        Some(after)
    }
}

async fn ask(socket: &Path, request: &ServiceLogsRequest) -> Result<ServiceLogs, Failure> {
    let request = Request::ServiceLogs(request.clone());
    let answer = client::call(socket, &request, &mut Progress::silent()).await?;
    match answer.envelope.payload {
        _ if !answer.envelope.ok => Err(Failure::Refused(Box::new(answer.envelope))),
        Some(Payload::ServiceLogs(logs)) => Ok(logs),
        _ => Err(Failure::Unintelligible { cause: "a response without lines".into() }),
    }
}

/// Says once whose lines are missing, and again when that changes.
fn warn_missing(known: &mut Vec<ServiceLogMissing>, now: Vec<ServiceLogMissing>) {
    let of = |all: &[ServiceLogMissing]| all.iter().map(|one| one.instance.clone()).collect::<Vec<_>>();
    if of(known) != of(&now) {
        let _ = io::stderr().lock().write_all(missing(&now).as_bytes());
    }
    *known = now;
}

fn show(lines: &mut Lines, fresh: Vec<ServiceLogLine>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    lines.write(&fresh, &mut out)?;
    out.flush().map_err(Failure::Output)
}

/// Whether asking again can help: ployzd is away or starting, or a machine does not answer.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } | Failure::BrokenOff { .. } => true,
        Failure::Refused(envelope) => PASSING.iter().any(|code| code.as_str() == envelope.code),
        _ => false,
    }
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How far the machines' clocks may be apart, in nanoseconds, without a line being lost.
const OVERLAP_NANOS: u64 = 10_000_000_000;
const PASSING: [ErrorCode; 4] = [
    ErrorCode::NoRunningNetwork,
    ErrorCode::StoreUnavailable,
    ErrorCode::ParticipantUnreachable,
    ErrorCode::DockerUnavailable,
];

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::deploy::{LogLine, LogStream};

    fn line(instance: &str, at: u64) -> ServiceLogLine {
        let line = LogLine { at, stream: LogStream::Stdout, text: at.to_string() };
        ServiceLogLine {
            instance: instance.parse().expect("a good id"),
            machine: "node-1".parse().expect("a good id"),
            line,
        }
    }

    fn dates(lines: &[ServiceLogLine]) -> Vec<u64> {
        lines.iter().map(|line| line.line.at).collect()
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_line_is_shown_once_whatever_the_questions_overlap() {
        let mut seen = Seen::new(0);
        assert_eq!(seen.after(100 * S), None);
        assert_eq!(dates(&seen.fresh(vec![line("a", 90 * S), line("a", 91 * S)])), [90 * S, 91 * S]);
        assert_eq!(seen.after(100 * S), Some(81 * S));
        let answer = vec![line("a", 90 * S), line("a", 91 * S), line("b", 85 * S), line("a", 92 * S)];
        assert_eq!(dates(&seen.fresh(answer)), [85 * S, 92 * S]);
    }

    #[test]
    fn a_clock_that_is_ahead_hides_nobody() {
        let mut seen = Seen::new(0);
        seen.fresh(vec![line("ahead", 5000 * S), line("b", 99 * S)]);
        assert_eq!(seen.after(100 * S), Some(90 * S));
        let fresh = seen.fresh(vec![line("b", 99 * S), line("b", 101 * S), line("ahead", 5000 * S)]);
        assert_eq!(dates(&fresh), [101 * S]);
    }

    #[test]
    fn instances_that_fell_silent_are_forgotten_but_not_repeated() {
        let mut seen = Seen::new(0);
        seen.fresh(vec![line("old", 10 * S), line("new", 90 * S)]);
        let after = seen.after(100 * S).expect("lines were seen");
        assert_eq!(seen.last.len(), 1);
        assert!(after > 10 * S, "the forgotten line cannot come again");
    }

    #[test]
    fn no_lines_of_the_past_means_none_from_the_overlap_either() {
        let mut seen = Seen::new(50 * S);
        assert_eq!(seen.after(51 * S), Some(40 * S));
        assert_eq!(dates(&seen.fresh(vec![line("a", 45 * S), line("a", 51 * S)])), [51 * S]);
    }
}
