//! The gateway as a whole: takes sockets, settings and a watched table, serves until it is told to stop.

use crate::access::{Lane, Writer};
use crate::downstream::HeadLimits;
use crate::handshake::Handshake;
use crate::limit::Limiter;
use crate::listen::{Kind, Socket};
use crate::metrics::{self, Counters};
use crate::proxy::Shared;
use crate::served::Served;
use crate::table::Table;
use crate::tls::{BadCertificate, Certificates};
use crate::worker::{Limits, Service, Workers};
use arc_swap::ArcSwap;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use ployz_core::routing::Freshness;
use ployz_host::page;
use ployz_nats::events::{Snapshot, Stats};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a gateway needs to know.
pub struct Settings {
    /// Workers.
    pub threads: usize,
    /// Where requests are logged to; nowhere when absent.
    pub access_log: Option<Box<dyn Write + Send>>,
    /// Certificates; without, sockets for HTTPS are refused.
    pub certificates: Option<Arc<Certificates>>,
    /// Port that redirects to HTTPS lead to; that of the first socket for HTTPS when absent.
    pub https_port: Option<u16>,
    /// Limits of connections.
    pub limits: Limits,
    /// What the feed says of itself, for the metrics.
    pub feed: Stats,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// There are sockets for HTTPS but no certificates.
    #[error("a socket for HTTPS was given, but no certificate")]
    NoCertificates,
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] BadCertificate),
    /// A thread or a socket cannot be had.
    #[error("cannot start the workers")]
    Workers(#[source] io::Error),
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    workers: Workers,
    log: Option<Writer>,
    /// Follows the table.
    tasks: JoinSet<()>,
    /// Serve metrics.
    metrics: JoinSet<()>,
}

impl Gateway {
    /// Starts to serve; must be called on a tokio runtime, which follows the table and serves the metrics.
    pub fn start(
        settings: Settings,
        sockets: Vec<Socket>,
        table: watch::Receiver<Arc<Snapshot<Table>>>,
    ) -> Result<Self, CannotStart> {
        let (metrics, sockets): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| socket.kind == Kind::Metrics);
        let https = sockets.iter().find(|socket| socket.kind == Kind::Https);
        if https.is_some() && settings.certificates.is_none() {
            return Err(CannotStart::NoCertificates);
        }
        let own_port =
            https.and_then(|socket| socket.listener.local_addr().ok()).map(|address| address.port());
        let shared = Arc::new(Shared {
            served: ArcSwap::from_pointee(Served::after(None, table.borrow().clone())),
            counters: Counters::default(),
            limiter: Limiter::default(),
            https_port: settings.https_port.or(own_port).unwrap_or(443),
            access_log: settings.access_log.is_some(),
            closing: AtomicBool::new(false),
        });
        let lanes: Vec<Lane> = (0..settings.threads.max(1)).map(|_| Lane::default()).collect();
        let output = settings.access_log.map(|output| Writer::start(lanes.clone(), output));
        let log = output.transpose().map_err(CannotStart::Workers)?;
        let certificates = settings.certificates.clone();
        let service = Service {
            shared: shared.clone(),
            handshake: settings.certificates.map(Handshake::new).transpose()?,
            limits: settings.limits,
        };
        let workers = Workers::start(&service, &sockets, lanes).map_err(CannotStart::Workers)?;
        let mut tasks = JoinSet::new();
        let (changed, when) = watch::channel(SystemTime::now());
        let kinds = sockets.iter().map(|socket| socket.kind).collect();
        tasks.spawn(follow(shared.clone(), table, kinds, changed));
        let mut served = JoinSet::new();
        for socket in metrics {
            served.spawn(serve_metrics(
                shared.clone(),
                socket,
                settings.feed.clone(),
                when.clone(),
                certificates.clone(),
            ));
        }
        Ok(Self { shared, workers, log, tasks, metrics: served })
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Stops accepting, waits for what is under way until the deadline of the limits, and ends. Metrics are left to the
    /// gateway that follows at once: it has the same socket, and one that drains must not answer in its place.
    pub async fn stop(self) {
        let Self { shared, workers, log, mut tasks, mut metrics } = self;
        metrics.shutdown().await;
        shared.closing.store(true, Ordering::Relaxed);
        let stopping = tokio::task::spawn_blocking(move || {
            workers.stop();
            drop(log);
        });
        let _ = stopping.await;
        tasks.shutdown().await;
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: HeadLimits { time: Duration::from_secs(15), size: 64 * 1024 },
            idle: Duration::from_secs(75),
            connections: 20_000,
            // Many people may be behind one address; a tenth of all leaves room for everybody else.
            of_client: 2_000,
            drain: Duration::from_secs(3_600),
        }
    }
}

/// Puts every new table into service. Knows what is listened on only to say which TCP routes have no socket.
async fn follow(
    shared: Arc<Shared>,
    mut table: watch::Receiver<Arc<Snapshot<Table>>>,
    kinds: Vec<Kind>,
    changed: watch::Sender<SystemTime>,
) {
    let listening = |port| kinds.contains(&Kind::Tcp(port));
    let mut deaf: Vec<u16> = Vec::new();
    loop {
        let snapshot = table.borrow_and_update().clone();
        let before = shared.served.load_full();
        if !Arc::ptr_eq(&before.snapshot().view, &snapshot.view) {
            changed.send_replace(SystemTime::now());
        }
        log_freshness(before.snapshot().freshness, snapshot.freshness);
        let mut now: Vec<u16> = snapshot.view.tcp_ports().filter(|port| !listening(*port)).collect();
        now.sort_unstable();
        if now != deaf && !now.is_empty() {
            let ports = now.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(ports, "no socket for TCP routes");
        }
        deaf = now;
        shared.served.store(Arc::new(Served::after(Some(&before), snapshot)));
        if table.changed().await.is_err() {
            return;
        }
    }
}

fn log_freshness(before: Freshness, now: Freshness) {
    match now {
        _ if before == now => {}
        Freshness::Empty => tracing::warn!("nothing is known of the routes: every request is answered 503"),
        Freshness::Live => tracing::info!("routes are followed live"),
        Freshness::LastGood(since) => tracing::warn!(since, "routes are served as last known"),
    }
}

async fn serve_metrics(
    shared: Arc<Shared>,
    socket: Socket,
    feed: Stats,
    changed: watch::Receiver<SystemTime>,
    certificates: Option<Arc<Certificates>>,
) {
    let scrape = move || {
        let stored = certificates.as_ref().map(|certificates| certificates.stored());
        let text =
            metrics::page(&shared.counters, &shared.served.load(), &feed.read(), *changed.borrow(), stored);
        std::future::ready(([(CONTENT_TYPE, page::CONTENT_TYPE)], text))
    };
    let router = Router::new().route("/metrics", get(scrape));
    match tokio::net::TcpListener::from_std(socket.listener) {
        Ok(listener) => {
            let _ = axum::serve(listener, router).await;
        }
        Err(error) => tracing::error!(%error, "cannot serve metrics"),
    }
}
