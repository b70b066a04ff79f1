//! `ployz-dns`: takes over its sockets, follows the routing state, serves until it is told to stop, drains.
//!
//! It is started by a unit of its own and needs nobody: not the daemon, and NATS only to hear of changes.

use anyhow::Context;
use clap::Parser;
use ployz_core::address::OverlayPrefix;
use ployz_dns::answer::Answerer;
use ployz_dns::forward::{Forwarder, local, resolvers};
use ployz_dns::metrics;
use ployz_dns::realm::Realm;
use ployz_dns::serve::{self, Server};
use ployz_dns::settings::Settings;
use ployz_dns::sockets::Sockets;
use ployz_dns::zone::Zone;
use ployz_nats::events::Feed;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A table of thousands of names is made anew at every change, and a forwarded query is many small pieces: a fifth more of them
/// a second than with glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = Settings::parse();
    ployz_host::journal::init("info,async_nats=warn");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("cannot start the runtime").and_then(|runtime| {
        let done = runtime.block_on(run(settings));
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ployz-dns failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    // Before anything else: a stop that comes while we start must not kill.
    let mut stopped = Stopped::new()?;
    let realm = Realm::new(settings.cluster_cidr, OverlayPrefix::of(&settings.network).net());
    let sockets = Sockets::open(&settings.listen, settings.metrics)?;
    let feed = Feed::<Zone>::start(feed_settings(&settings)?);
    let (stop, loops, tasks) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let forwarder = Arc::new(Forwarder::new(Vec::new()));
    let answerer = Answerer::new(realm.clone(), &settings.machine);
    let server = Arc::new(Server::new(answerer, forwarder.clone(), feed.watch()));
    set_upstreams(&settings, &realm, &forwarder).await;
    loops.spawn(follow_resolvers(settings.clone(), realm, forwarder.clone(), stop.clone()));
    for socket in sockets.udp {
        let socket = Arc::new(socket);
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get().min(UDP_LOOPS)) {
            let (socket, server) = (socket.clone(), server.clone());
            loops.spawn(serve::udp::serve(socket, server, tasks.clone(), stop.clone()));
        }
    }
    for listener in sockets.tcp {
        loops.spawn(serve::tcp::serve(listener, server.clone(), tasks.clone(), stop.clone()));
    }
    let scrapes = sockets.metrics.map(|listener| {
        let metrics = server.metrics.clone();
        tokio::spawn(metrics::serve(listener, metrics, forwarder, feed.stats(), feed.watch(), stop.clone()))
    });
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), machine = %settings.machine, "ployz-dns serving");
    stopped.wait().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    drain(loops, tasks, settings.drain()).await;
    // Whoever keeps a connection for scrapes open must not keep the process.
    if let Some(scrapes) = scrapes {
        scrapes.abort();
        let _ = scrapes.await;
    }
    feed.stop().await;
    Ok(())
}

/// First nothing more is read, then what was read is answered.
async fn drain(loops: TaskTracker, tasks: TaskTracker, within: Duration) {
    let all = async {
        loops.close();
        loops.wait().await;
        tasks.close();
        tasks.wait().await;
    };
    match tokio::time::timeout(within, all).await {
        Ok(()) => tracing::info!("ployz-dns stopped; every query was answered"),
        Err(_) => tracing::warn!(left = tasks.len(), "ployz-dns stopped with queries unanswered"),
    }
}

fn feed_settings(settings: &Settings) -> anyhow::Result<ployz_nats::events::Settings> {
    let path = &settings.nats_seed_file;
    let seed = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the NATS user's seed from {}", path.display()))?;
    Ok(ployz_nats::events::Settings {
        server: settings.nats,
        seed: seed.trim().to_owned().into(),
        network: settings.network.clone(),
        plan: settings.plan(),
        machine: settings.machine.clone(),
        follower: "dns",
        snapshot: settings.snapshot.clone(),
    })
}

/// The host's resolvers change when it changes its network.
async fn follow_resolvers(
    settings: Settings,
    realm: Realm,
    forwarder: Arc<Forwarder>,
    stop: CancellationToken,
) {
    // Cancel-safe: a sleep.
    while stop.run_until_cancelled(tokio::time::sleep(RESOLVERS_INTERVAL)).await.is_some() {
        set_upstreams(&settings, &realm, &forwarder).await;
    }
}

/// Reads the list and takes it over. One that is empty or unreadable takes nothing away: unknown is not absent. Where none was
/// known yet, one that names none means the resolver on this machine.
async fn set_upstreams(settings: &Settings, realm: &Realm, forwarder: &Forwarder) {
    let (source, ours) = (settings.source(), realm.clone());
    let local = local(&source);
    let read = tokio::task::spawn_blocking(move || {
        resolvers(&source, |ip| match ip {
            IpAddr::V4(ip) => ours.cluster.contains(&ip),
            IpAddr::V6(ip) => ours.overlay.contains(&ip),
        })
    });
    let found = read.await.ok().flatten();
    let before = forwarder.upstreams();
    let found = match found {
        Some(found) if found.is_empty() && before.is_empty() => {
            tracing::warn!(
                "no resolver is configured: forwarding external names to this machine's own, port 53"
            );
            local.into_iter().collect()
        }
        None if before.is_empty() => {
            tracing::warn!("the list of resolvers cannot be read: external names cannot be resolved");
            return;
        }
        found => found.unwrap_or_default(),
    };
    if !found.is_empty() && !before.iter().map(|upstream| &upstream.address).eq(&found) {
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        tracing::info!(upstreams = shown.join(", "), "forwarding external names");
        forwarder.set_upstreams(found);
    }
}

struct Stopped {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stopped {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        // Cancel-safe: a signal is remembered until it is received.
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

const UDP_LOOPS: usize = 4;
const RESOLVERS_INTERVAL: Duration = Duration::from_secs(5);
