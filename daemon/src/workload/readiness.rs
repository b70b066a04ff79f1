//! Whether a container does its work: one question after another, asked from the host to the container's address.

use crate::workload::docker::Docker;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use ployz_core::wire::v1::manifest::{Check, Readiness};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

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
    /// Not ready until `threshold` answers in a row are yes.
    pub fn new(threshold: u32) -> Self {
        Self { threshold: threshold.max(1), good: 0, bad: 0, ready: false, why_not: None }
    }

    /// Whether the container is ready.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes in an answer; whether the container is ready now. One that was is so until [`FAILURES`] in a row are no:
    /// a lost packet takes nobody out of service.
    pub fn count(&mut self, answer: Result<(), String>) -> bool {
        match answer {
            Ok(()) => (self.good, self.bad) = (self.good.saturating_add(1), 0),
            Err(why) => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                self.why_not = Some(why);
            }
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
) {
    let mut tally = Tally::new(wanted.threshold);
    let mut pace = tokio::time::interval(wanted.interval.duration());
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let answer = ask(&docker, &id, address.into(), &wanted.check, wanted.timeout.duration()).await;
        tally.count(answer);
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
) -> Result<(), String> {
    let question = async {
        match check {
            Check::Tcp { port } => connect(address, *port).await.map(drop),
            Check::Http { port, path } => http(address, *port, path.as_str()).await,
            Check::Exec { command } => match docker.exec(id, command, limit).await {
                Ok(0) => Ok(()),
                Ok(code) => Err(format!("exit code {code}")),
                Err(error) => Err(ployz_netns::chain(&error)),
            },
        }
    };
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {}ms", limit.as_millis())),
    }
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((address, port)).await.map_err(|error| format!("port {port}: {error}"))
}

async fn http(address: IpAddr, port: u16, path: &str) -> Result<(), String> {
    let stream = connect(address, port).await?;
    let words = |error: hyper::Error| format!("port {port}: {}", ployz_netns::chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let request = Request::get(path)
        .header("host", format!("{address}:{port}"))
        .header("user-agent", "ployz-readiness")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("{path}: {error}"))?;
    // Driven here and not by a task: when the question is given up, so is the connection. The body is not read.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The end of the connection and the answer may come in one poll.
        end = connection => match end {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = answer.map_err(words)?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(refusal(path, status)) }
}

fn refusal(path: &str, status: StatusCode) -> String {
    format!("GET {path}: {status}")
}

const FAILURES: u32 = 3;
