//! `ployz-gateway`: reads its settings, takes its sockets, follows the routes, serves until SIGTERM.
//!
//! A unit of its own, so that no end of ployzd ends it. It says it is ready once it listens and knows its routes, or when it
//! has waited long enough for them; then it answers 503 until it does.

use anyhow::Context;
use ployz_core::routing::Freshness;
use ployz_gateway::config::{BadConfig, Given, needed};
use ployz_gateway::files::Files;
use ployz_gateway::listen::{self, Kind, Socket};
use ployz_gateway::stored::{self, Following, Stored};
use ployz_gateway::tls::Certificates;
use ployz_gateway::{Gateway, Limits, Settings, Table, status};
use ployz_nats::events::{Feed, Seed, Snapshot, Stats};
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// Pingora allocates much for a request, 64 KiB for a body among it; glibc's allocator took a sixth of all CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Pingora writes a line for every client that leaves early or sends nonsense; that is counted instead.
    ployz_host::journal::init("info,async_nats=warn,pingora_core=off,pingora_proxy=off,pingora=off");
    let given = match Given::read() {
        Ok(given) => given,
        Err(error) => return fail(&error.into(), 2),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("cannot start the runtime").and_then(|runtime| runtime.block_on(run(given)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<BadConfig>() => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

async fn run(given: Given) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sockets = sockets(&given)?;
    let https = sockets.iter().any(|socket| socket.kind == Kind::Https);
    let tls = certificates(&given, https)?;
    let certificates = tls.as_ref().map(|(certificates, _)| certificates.clone());
    let feed = Feed::<Table>::start(feed_settings(&given)?);
    let mut tasks = JoinSet::new();
    match tls {
        Some((certificates, files)) => {
            tasks.spawn(Stored::from_disk(following(&given, certificates.clone())?).follow());
            tasks.spawn(reload(certificates, files));
        }
        None => kept_at(&given).iter().for_each(|path| stored::forget(path)),
    }
    // Last: whoever is accepted is served from what is known by then.
    let gateway = Gateway::start(settings(&given, certificates, feed.stats()), sockets, feed.watch())?;
    tasks.spawn(notify_status(feed.watch()));
    // Cancel-safe: a signal that is not received here ends the process anyway.
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("shutting down: accepts no more, drains open connections");
    tasks.shutdown().await;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let mut stopping = pin!(gateway.stop());
    // What lasts longer is on connections that need no route any more, and may last for an hour.
    let soon = tokio::time::timeout(FEED_DRAIN_TIMEOUT, &mut stopping).await;
    let _ = tokio::time::timeout(FEED_STOP_TIMEOUT, feed.stop()).await;
    if soon.is_err() {
        // Cancel-safe: the process ends. Told twice (a machine that is shut down), it waits no longer.
        tokio::select! { () = stopping => {}, _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    }
    Ok(())
}

fn sockets(given: &Given) -> anyhow::Result<Vec<Socket>> {
    let mut sockets = listen::inherited()?;
    if sockets.is_empty() {
        for (kind, address) in given.addresses() {
            match listen::open(kind, address, false) {
                Ok(socket) => sockets.push(socket),
                // The port of one route is no reason to serve none.
                Err(error) if matches!(kind, Kind::Tcp(_)) => skip(&error, "its TCP route is not served"),
                Err(error) => return Err(error.into()),
            }
        }
        for (kind, address) in given.addresses6() {
            match listen::open(kind, address, true) {
                Ok(socket) => sockets.push(socket),
                Err(error) => skip(&error, "it is not served over IPv6"),
            }
        }
    }
    if sockets.iter().all(|socket| socket.kind == Kind::Metrics) {
        return Err(BadConfig::NoSocket.into());
    }
    Ok(sockets)
}

fn skip(error: &listen::CannotListen, what: &str) {
    let error = ployz_core::text::chain(error);
    tracing::error!(action = what, error, "cannot use a socket");
}

fn settings(given: &Given, certificates: Option<Arc<Certificates>>, feed: Stats) -> Settings {
    let mut limits = Limits::default();
    if let Some(secs) = given.drain_secs {
        limits.drain = Duration::from_secs(u64::from(secs));
    }
    Settings {
        threads: usize::from(given.threads.unwrap_or(THREADS)),
        access_log: given.access_log.unwrap_or(true).then(|| Box::new(std::io::stdout()) as Box<_>),
        certificates,
        https_port: given.https_port,
        limits,
        feed,
    }
}

fn feed_settings(given: &Given) -> anyhow::Result<ployz_nats::events::Settings> {
    Ok(ployz_nats::events::Settings {
        server: needed(given.nats, "PLOYZ_GATEWAY_NATS")?,
        seed: Seed::from(seed(given)?.to_string()),
        network: needed(given.network.clone(), "PLOYZ_GATEWAY_NETWORK")?,
        plan: given.plan(),
        machine: needed(given.machine.clone(), "PLOYZ_GATEWAY_MACHINE")?,
        follower: "gateway",
        snapshot: given.snapshot.clone(),
    })
}

/// Where the certificates of the store are kept: beside the routes.
fn kept_at(given: &Given) -> Option<PathBuf> {
    given.snapshot.as_ref().map(|routes| routes.with_file_name("certificates.json"))
}

fn following(given: &Given, certificates: Arc<Certificates>) -> anyhow::Result<Following> {
    Ok(Following {
        server: needed(given.nats, "PLOYZ_GATEWAY_NATS")?,
        seed: seed(given)?,
        network: needed(given.network.clone(), "PLOYZ_GATEWAY_NETWORK")?,
        machine: needed(given.machine.clone(), "PLOYZ_GATEWAY_MACHINE")?,
        path: kept_at(given),
        certificates,
    })
}

fn seed(given: &Given) -> anyhow::Result<Zeroizing<String>> {
    let path = needed(given.seed.clone(), "PLOYZ_GATEWAY_SEED")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The certificates of this machine's files, if anybody can ask for one.
fn certificates(given: &Given, https: bool) -> anyhow::Result<Option<(Arc<Certificates>, Files)>> {
    let pair = given.pair(https)?;
    if !https {
        return Ok(None);
    }
    let mut files = Files::new(given.tls_dir.clone(), pair);
    let certificates = Arc::new(Certificates::default());
    let (named, otherwise) = files.read();
    certificates.set(named, otherwise);
    Ok(Some((certificates, files)))
}

/// Reads the files again at SIGHUP.
async fn reload(certificates: Arc<Certificates>, mut files: Files) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        let (named, otherwise) = files.read();
        certificates.set(named, otherwise);
        tracing::info!(%certificates, "certificates read again");
    }
}

/// Says that the gateway is ready, and from then on how far its routes can be trusted.
async fn notify_status(mut table: watch::Receiver<Arc<Snapshot<Table>>>) {
    let known = table.wait_for(|snapshot| snapshot.freshness != Freshness::Empty);
    let _ = tokio::time::timeout(ROUTES_TIMEOUT, known).await;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    loop {
        let status = status(&table.borrow_and_update()).to_string();
        let _ = sd_notify::notify(&[NotifyState::Status(&status)]);
        if table.changed().await.is_err() {
            return;
        }
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}

const THREADS: u16 = 2;
/// systemd waits for readiness; clients of a machine that starts without NATS should get their 503.
const ROUTES_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests that are under way when the gateway is told to end may still be led to another backend.
const FEED_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const FEED_STOP_TIMEOUT: Duration = Duration::from_secs(2);
