//! Workers: threads that share nothing while serving, each with its own runtime, connections and pool of backend connections.
//!
//! All accept from the same sockets; a worker that got many more connections than another hands a new one over. When
//! they are told to end they stop accepting, ask clients to go (`Connection: close`, GOAWAY), close what is idle, and wait
//! for the rest until a deadline.

use crate::access::Lane;
use crate::clients::{Clients, Ticket};
use crate::connection;
use crate::handshake::Handshake;
use crate::listen::{Kind, Socket};
use crate::metrics::Cause;
use crate::proxy::{Gateway, Shared};
use crate::upstream::{Pool, SWEEP_INTERVAL};
use pingora::apps::HttpServerApp;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use std::io;
use std::net::{SocketAddr, TcpStream as Moving};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// How connections are served.
#[derive(Clone)]
pub struct Service {
    /// What is shared.
    pub shared: Arc<Shared>,
    /// For sockets of HTTPS.
    pub handshake: Option<Handshake>,
    /// Limits.
    pub limits: Limits,
}

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// On the head of a request.
    pub head: crate::downstream::HeadLimits,
    /// Idle between two requests.
    pub idle: Duration,
    /// Connections open at once, of all workers.
    pub connections: usize,
    /// Of these, connections of one client address (of IPv6: one /64).
    pub of_client: u32,
    /// From being told to end until what is still open is cut.
    pub drain: Duration,
}

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    closing: watch::Sender<bool>,
}

/// A connection on its way to the worker that will serve it.
struct Taken {
    kind: Kind,
    stream: Moving,
    peer: SocketAddr,
    ticket: Ticket,
}

/// One worker, as its tasks see it.
pub(crate) struct Worker {
    pub(crate) service: Service,
    pub(crate) proxy: Arc<HttpProxy<Gateway>>,
    pub(crate) closing: watch::Receiver<bool>,
    /// Idle connections to backends.
    pool: Arc<Pool>,
    number: usize,
    clients: Clients,
    /// Connections of every worker.
    loads: Arc<[AtomicUsize]>,
    inboxes: Vec<mpsc::UnboundedSender<Taken>>,
    tasks: TaskTracker,
}

impl Workers {
    /// Starts one worker for each lane of the access log; they accept from all sockets at once.
    pub fn start(service: &Service, sockets: &[Socket], lanes: Vec<Lane>) -> io::Result<Self> {
        let (closing, ending) = watch::channel(false);
        let loads: Arc<[AtomicUsize]> = lanes.iter().map(|_| AtomicUsize::new(0)).collect();
        let (inboxes, outlets): (Vec<_>, Vec<_>) = lanes.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let clients = Clients::default();
        let mut threads = Vec::new();
        for (number, (lane, inbox)) in lanes.into_iter().zip(outlets).enumerate() {
            let listeners: Vec<_> =
                sockets.iter().map(|s| Ok((s.kind, s.listener.try_clone()?))).collect::<io::Result<_>>()?;
            let gateway = Gateway::new(service.shared.clone(), lane);
            let worker = Worker {
                service: service.clone(),
                pool: gateway.pool().clone(),
                proxy: Arc::new(proxy(gateway)),
                closing: ending.clone(),
                number,
                clients: clients.clone(),
                loads: loads.clone(),
                inboxes: inboxes.clone(),
                tasks: TaskTracker::new(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || runtime.block_on(Arc::new(worker).run(listeners, inbox));
            threads.push(std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
        }
        Ok(Self { threads, closing })
    }

    /// Stops accepting at once, and waits until everything under way is done or the deadline has passed.
    pub fn stop(self) {
        let _ = self.closing.send(true);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl Worker {
    async fn run(
        self: Arc<Self>,
        listeners: Vec<(Kind, std::net::TcpListener)>,
        mut inbox: mpsc::UnboundedReceiver<Taken>,
    ) {
        let mut accepting = Vec::new();
        for (kind, listener) in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => accepting.push(tokio::spawn(self.clone().accept(kind, listener))),
                Err(error) => tracing::error!(%kind, %error, "cannot accept from a socket"),
            }
        }
        let pool = self.pool.clone();
        let sweeping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                pool.sweep();
            }
        });
        let mut closing = self.closing.clone();
        let worker = self.clone();
        let taking = tokio::spawn(async move {
            while let Some(Taken { kind, stream, peer, ticket }) = inbox.recv().await {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    worker.begin(kind, stream, peer, ticket);
                }
            }
        });
        let _ = closing.wait_for(|closing| *closing).await;
        for task in accepting {
            let _ = task.await;
        }
        let _ = tokio::time::timeout(self.service.limits.drain, self.drain()).await;
        taking.abort();
        sweeping.abort();
    }

    async fn drain(&self) {
        // Whatever another worker was handing over has arrived by then.
        tokio::time::sleep(HAND_OVER_DELAY).await;
        self.tasks.close();
        // Connections in use end with their next answer. Those idle for longer than this are the ones least likely to be
        // written to in the moment they are closed.
        let grace = IDLE_GRACE.min(self.service.limits.drain / 2);
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return;
        }
        self.proxy.http_cleanup().await;
        self.tasks.wait().await;
    }

    async fn accept(self: Arc<Self>, kind: Kind, listener: TcpListener) {
        let mut closing = self.closing.clone();
        loop {
            // Cancel-safe: a connection that is not accepted stays in the queue, for whoever shares the socket.
            let accepted = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.place(kind, stream, peer),
                // Out of descriptors, mostly: those that are open must end first.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Serves a new connection here, or has the least loaded worker do it.
    fn place(self: &Arc<Self>, kind: Kind, stream: TcpStream, peer: SocketAddr) {
        let open = self.loads.iter().map(|load| load.load(Ordering::Relaxed));
        if open.clone().sum::<usize>() >= self.service.limits.connections {
            return self.service.shared.counters.refuse(Cause::TooManyConnections);
        }
        let Some(ticket) = self.clients.enter(peer.ip(), self.service.limits.of_client) else {
            return self.service.shared.counters.refuse(Cause::TooManyOfClient);
        };
        let own = self.loads[self.number].load(Ordering::Relaxed);
        let least = open.enumerate().min_by_key(|(_, load)| *load);
        match least.filter(|(_, load)| own > load + UNEVEN && !*self.closing.borrow()) {
            Some((other, _)) => {
                let Ok(stream) = stream.into_std() else { return };
                let _ = self.inboxes[other].send(Taken { kind, stream, peer, ticket });
            }
            None => self.begin(kind, stream, peer, ticket),
        }
    }

    fn begin(self: &Arc<Self>, kind: Kind, stream: TcpStream, peer: SocketAddr, ticket: Ticket) {
        let worker = self.clone();
        let open = Open::new(self.clone());
        self.tasks.spawn(async move {
            let _counted = (open, ticket);
            connection::serve(&worker, kind, stream, peer).await;
        });
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Worker>);

impl Open {
    fn new(worker: Arc<Worker>) -> Self {
        worker.loads[worker.number].fetch_add(1, Ordering::Relaxed);
        let counters = &worker.service.shared.counters;
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.loads[self.0.number].fetch_sub(1, Ordering::Relaxed);
        self.0.service.shared.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn proxy(gateway: Gateway) -> HttpProxy<Gateway> {
    let conf = ServerConf {
        threads: 1,
        max_retries: crate::served::MOST_TRIES,
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    http_proxy(&Arc::new(conf), gateway)
}

const IDLE_GRACE: Duration = Duration::from_millis(1_500);
const HAND_OVER_DELAY: Duration = Duration::from_millis(50);
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Connections more than the least loaded worker has before a new one is handed over.
const UNEVEN: usize = 4;
/// Idle connections to backends of gRPC, for each worker.
const POOL: usize = 128;
