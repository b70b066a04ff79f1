//! The access log: one line of JSON for every request, to standard output, where the journal takes it.
//!
//! Serving never waits for it. Every worker appends to a buffer of its own; a thread empties them several times a second.
//! When nobody reads the output, lines are lost and counted. Queries are left out: they carry tokens and names.

use crate::metrics::Counters;
use parking_lot::Mutex;
use serde::Serialize;
use std::io::Write;
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is said of a request.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When it was done, in milliseconds since 1970.
    pub time_ms: u128,
    /// Who asked.
    pub client: Option<IpAddr>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: &'static str,
    /// Method.
    pub method: &'a str,
    /// Host in its one spelling.
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Code of the answer; 0 when the client left before it.
    pub status: u16,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Until the last byte.
    pub duration_ms: f64,
    /// The route's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// Who answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddrV4>,
    /// Backends asked.
    pub tries: usize,
    /// Request id.
    pub request_id: &'a str,
    /// Why it was not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The buffer of one worker.
#[derive(Debug, Clone, Default)]
pub struct Lane(Arc<Mutex<Vec<u8>>>);

/// Empties the lanes until it is dropped.
pub struct Writer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// Appends a line.
    pub fn write(&self, line: &Line<'_>, counters: &Counters) {
        let mut buffer = self.0.lock();
        if buffer.len() > FULL {
            counters.lost_lines.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Writing into memory cannot fail, and nothing in a line fails to serialise.
        let _ = serde_json::to_writer(&mut *buffer, line);
        buffer.push(b'\n');
    }
}

impl Writer {
    /// Starts to empty the lanes into `output`.
    pub fn start(lanes: Vec<Lane>, mut output: impl Write + Send + 'static) -> std::io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let stop = ends.clone();
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let mut taken = Vec::new();
            while !stop.load(Ordering::Acquire) {
                std::thread::park_timeout(FLUSH_INTERVAL);
                empty(&lanes, &mut taken, &mut output);
            }
            empty(&lanes, &mut taken, &mut output);
        })?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// The lock is held for a swap only, never while writing.
fn empty(lanes: &[Lane], taken: &mut Vec<u8>, output: &mut impl Write) {
    for lane in lanes {
        taken.clear();
        std::mem::swap(&mut *lane.0.lock(), taken);
        let _ = output.write_all(taken);
    }
    let _ = output.flush();
}

const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// About 4,000 lines of one worker.
const FULL: usize = 1 << 20;
