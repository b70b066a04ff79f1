//! A network between a client and a server: it can be cut, held up, and can lose, repeat and reorder single messages of
//! the stream (not bytes: those TCP would put right).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub at: SocketAddr,
    faults: Arc<Faults>,
    generation: watch::Sender<u64>,
    task: tokio::task::JoinHandle<()>,
}

struct Faults {
    noisy: AtomicBool,
    refuse: AtomicBool,
    seed: AtomicU64,
    done: AtomicU64,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (generation, current) = watch::channel(0);
        let faults = Arc::new(Faults {
            noisy: false.into(),
            refuse: false.into(),
            seed: 0x9e37_79b9_7f4a_7c15.into(),
            done: 0.into(),
        });
        let task = tokio::spawn(accept(listener, to, faults.clone(), current));
        Self { at, faults, generation, task }
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Whether new connections are refused.
    pub fn refuse(&self, refuse: bool) {
        self.faults.refuse.store(refuse, Ordering::Relaxed);
    }

    /// Whether messages are lost, repeated and reordered: one in fifty, so that some rebuilds get through.
    pub fn noise(&self, noisy: bool) {
        self.faults.noisy.store(noisy, Ordering::Relaxed);
    }

    /// How many messages were.
    pub fn done(&self) -> u64 {
        self.faults.done.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, faults: Arc<Faults>, current: watch::Receiver<u64>) {
    while let Ok((near, _)) = listener.accept().await {
        if faults.refuse.load(Ordering::Relaxed) {
            continue;
        }
        let (faults, mut current) = (faults.clone(), current.clone());
        current.mark_unchanged();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((mut near_in, near_out), (far_in, mut far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                _ = copy(&mut near_in, &mut far_out) => {}
                _ = frames(far_in, near_out, &faults) => {}
                _ = current.changed() => {}
            }
        });
    }
}

/// Passes on what the server says, line by line, messages with their payload.
async fn frames(from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    let mut held: Option<Vec<u8>> = None;
    loop {
        let mut frame = Vec::new();
        if from.read_until(b'\n', &mut frame).await? == 0 {
            return Ok(());
        }
        let head = String::from_utf8_lossy(&frame).into_owned();
        let words: Vec<&str> = head.split_ascii_whitespace().collect();
        if matches!(words.first(), Some(&("MSG" | "HMSG"))) {
            let start = frame.len();
            frame.resize(start + words[words.len() - 1].parse::<usize>().unwrap() + 2, 0);
            from.read_exact(&mut frame[start..]).await?;
        }
        let delivered = words.get(3).is_some_and(|reply| reply.starts_with("$JS.ACK."));
        let of_the_stream =
            delivered || words.get(1).is_some_and(|subject| subject.starts_with("ployz.live."));
        match if of_the_stream { faults.draw() } else { HARMLESS } {
            0 => continue,
            1 => to.write_all(&[frame.clone(), frame].concat()).await?,
            2 if held.is_none() => {
                held = Some(frame);
                continue;
            }
            _ => to.write_all(&frame).await?,
        }
        if let Some(late) = held.take() {
            to.write_all(&late).await?;
        }
    }
}

impl Faults {
    /// A number below 150; those that do harm only when there is noise.
    fn draw(&self) -> u64 {
        if !self.noisy.load(Ordering::Relaxed) {
            return HARMLESS;
        }
        let next = self.seed.load(Ordering::Relaxed).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.seed.store(next, Ordering::Relaxed);
        let drawn = (next >> 33) % 150;
        self.done.fetch_add(u64::from(drawn < 3), Ordering::Relaxed);
        drawn
    }
}

const HARMLESS: u64 = 3;
