//! Whether a container does its work: one question after another, asked from the host to the container's address.

use crate::docker::Docker;
use crate::error::DockerError;
use crate::http_check;
use parking_lot::Mutex;
use ployz_core::wire::v1::manifest::{Check, Readiness};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It does its work.
    Yes,
    /// It does not.
    No(String),
    /// It could not be asked: unknown is neither.
    Unknown(String),
}

/// The command in a container that was begun last and may still run.
pub type UnderWay = Arc<Mutex<Option<String>>>;

/// What the answers so far mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    threshold: u32,
    good: u32,
    bad: u32,
    ready: bool,
    /// The last no, for whoever asks why.
    pub why_not: Option<String>,
}

impl Tally {
    /// Not ready until `threshold` answers in a row are yes. One that was ready by other questions stays it until these
    /// say no.
    pub fn new(threshold: u32, ready: bool) -> Self {
        Self { threshold: threshold.max(1), good: 0, bad: 0, ready, why_not: None }
    }

    /// Whether the container is ready.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes in an answer; whether the container is ready now. One that was is so until [`FAILURES`] in a row are no:
    /// a lost packet takes nobody out of service.
    pub fn count(&mut self, answer: Answer) -> bool {
        match answer {
            Answer::Yes => (self.good, self.bad) = (self.good.saturating_add(1), 0),
            Answer::No(why) => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                self.why_not = Some(why);
            }
            Answer::Unknown(why) => self.why_not = Some(why),
        }
        if self.good >= self.threshold {
            (self.ready, self.why_not) = (true, None);
        } else if self.bad >= FAILURES {
            self.ready = false;
        }
        self.ready
    }
}

/// Asks at the check's interval for ever and tells whether the container is ready. Dropped, it stops.
pub async fn watch(
    docker: Docker,
    id: String,
    address: Ipv4Addr,
    wanted: Readiness,
    out: watch::Sender<Tally>,
    under_way: UnderWay,
) {
    let mut tally = out.borrow().clone();
    let mut pace = tokio::time::interval(wanted.interval.duration());
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let limit = wanted.timeout.duration();
        tally.count(ask(&docker, &id, address.into(), &wanted.check, limit, &under_way).await);
        out.send_if_modified(|known| {
            let differs = known.ready != tally.ready || known.why_not != tally.why_not;
            known.clone_from(&tally);
            differs
        });
    }
}

/// Asks once.
pub async fn ask(
    docker: &Docker,
    id: &str,
    address: IpAddr,
    check: &Check,
    limit: Duration,
    under_way: &UnderWay,
) -> Answer {
    match check {
        Check::Tcp { port } => within(limit, async { connect(address, *port).await.map(drop) }).await,
        Check::Http(check) => {
            let asked = async { http_check::ask(connect(address, check.port).await?, address, check).await };
            within(limit, asked).await
        }
        Check::Exec { command } => run(docker, id, command, limit, under_way).await,
    }
}

/// Runs a command in a container. While one that was begun before runs on, no other is begun: the engine cannot end it.
async fn run(docker: &Docker, id: &str, command: &[String], limit: Duration, under_way: &UnderWay) -> Answer {
    let last = under_way.lock().clone();
    if let Some(last) = last {
        match docker.goes_on(&last).await {
            Ok(true) => return Answer::No("the previous command has not ended".into()),
            Ok(false) => {}
            Err(error) => return Answer::Unknown(ployz_core::text::chain(&error)),
        }
    }
    let begun = match docker.command(id, command).await {
        Ok(begun) => begun,
        Err(error @ (DockerError::Missing { .. } | DockerError::Foreign { .. })) => {
            return Answer::No(ployz_core::text::chain(&error));
        }
        Err(error) => return Answer::Unknown(ployz_core::text::chain(&error)),
    };
    *under_way.lock() = Some(begun.clone());
    match docker.run(&begun, limit).await {
        Ok(0) => Answer::Yes,
        Ok(code) => Answer::No(format!("exit code {code}")),
        Err(DockerError::Late { .. }) => late(limit),
        Err(error) => Answer::Unknown(ployz_core::text::chain(&error)),
    }
}

async fn within(limit: Duration, question: impl Future<Output = Result<(), String>>) -> Answer {
    match tokio::time::timeout(limit, question).await {
        Ok(Ok(())) => Answer::Yes,
        Ok(Err(why)) => Answer::No(why),
        Err(_) => late(limit),
    }
}

fn late(limit: Duration) -> Answer {
    Answer::No(format!("no answer within {}ms", limit.as_millis()))
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((address, port)).await.map_err(|error| format!("port {port}: {error}"))
}

const FAILURES: u32 = 3;
