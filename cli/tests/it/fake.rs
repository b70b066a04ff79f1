//! A daemon that records what it is asked and answers from a script, over the same HTTP stack as the real one.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Event, Payload};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixListener;

/// A running fake daemon; its directory goes with it.
pub(crate) struct Fake {
    pub(crate) socket: PathBuf,
    asked: Arc<Mutex<Vec<serde_json::Value>>>,
}

/// What it answers to every call.
#[derive(Clone)]
pub(crate) struct Script {
    status: u16,
    delay: Duration,
    pieces: Vec<Option<String>>,
    pace: Pace,
}

/// How a stream goes on.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    AtOnce,
    /// The first piece at once, the others two seconds later.
    Slow,
    /// Not at all, after its pieces: it does not end either.
    Stays,
}

impl Script {
    /// These pieces of a stream, split wherever the test likes.
    pub(crate) fn pieces(pieces: &[&str]) -> Self {
        let pieces = pieces.iter().map(|piece| Some((*piece).to_owned())).collect();
        Self { status: 200, delay: Duration::ZERO, pieces, pace: Pace::AtOnce }
    }

    /// One result.
    pub(crate) fn envelope(envelope: Envelope) -> Self {
        let line = serde_json::to_string(&Event::Result { envelope: Box::new(envelope) }).unwrap();
        Self::pieces(&[&format!("{line}\n")])
    }

    /// A success.
    pub(crate) fn payload(payload: Payload) -> Self {
        Self::envelope(Envelope::ok("done", Some(payload)))
    }

    /// A success without a payload.
    pub(crate) fn ok(message: &str) -> Self {
        Self::envelope(Envelope::ok(message, None))
    }

    /// A failure.
    pub(crate) fn error(code: ErrorCode, message: &str, causes: &[&str]) -> Self {
        Self::envelope(Envelope::error(
            code,
            message,
            causes.iter().map(|cause| (*cause).to_owned()).collect(),
        ))
    }

    /// With this HTTP status.
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Answering only after a while.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Without an end.
    pub(crate) fn stays(mut self) -> Self {
        self.pace = Pace::Stays;
        self
    }

    /// With two seconds after the first piece.
    pub(crate) fn slowly(mut self) -> Self {
        self.pace = Pace::Slow;
        self
    }

    /// Hanging up after the pieces, in the middle of the stream.
    pub(crate) fn hang_up(mut self) -> Self {
        self.pieces.push(None);
        self
    }
}

impl Fake {
    /// Listens on a socket in `directory`.
    pub(crate) fn start(directory: &Path, script: Script) -> Self {
        Self::play(directory, vec![script])
    }

    /// Listens; each call gets the next script, and those after the last one the last.
    pub(crate) fn play(directory: &Path, scripts: Vec<Script>) -> Self {
        let socket = directory.join("ployzd.sock");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = asked.clone();
        // The thread ends with the test process: it holds nothing but its socket.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, scripts, seen));
        });
        Self { socket, asked }
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<serde_json::Value> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    listener: std::os::unix::net::UnixListener,
    scripts: Vec<Script>,
    asked: Arc<Mutex<Vec<serde_json::Value>>>,
) {
    let listener = UnixListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (scripts, asked) = (scripts.clone(), asked.clone());
        let service = service_fn(move |request| answer(request, scripts.clone(), asked.clone()));
        // A client that goes away early is part of some tests.
        tokio::spawn(
            async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await },
        );
    }
}

async fn answer(
    request: Request<Incoming>,
    scripts: Vec<Script>,
    asked: Arc<Mutex<Vec<serde_json::Value>>>,
) -> Result<Response<Pieces>, hyper::Error> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/call"));
    assert_eq!(request.headers()["content-type"], "application/json");
    let body = request.into_body().collect().await?.to_bytes();
    let script = {
        let mut asked = asked.lock().unwrap();
        asked.push(serde_json::from_slice(&body).unwrap());
        scripts[asked.len().min(scripts.len()) - 1].clone()
    };
    tokio::time::sleep(script.delay).await;
    let response = Response::builder().status(script.status).header("content-type", "application/x-ndjson");
    let pause = Box::pin(tokio::time::sleep(Duration::from_secs(2)));
    Ok(response.body(Pieces { left: script.pieces.into(), pace: script.pace, begun: false, pause }).unwrap())
}

/// `None` is the daemon dying.
struct Pieces {
    left: VecDeque<Option<String>>,
    pace: Pace,
    begun: bool,
    pause: Pin<Box<tokio::time::Sleep>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.begun && self.pace == Pace::Slow && self.pause.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        if self.left.is_empty() && self.pace == Pace::Stays {
            return Poll::Pending;
        }
        if self.begun && self.pace == Pace::Slow {
            self.pace = Pace::AtOnce;
        }
        self.begun = true;
        Poll::Ready(self.left.pop_front().map(|piece| match piece {
            Some(text) => Ok(Frame::data(text.into())),
            None => Err(io::Error::other("killed")),
        }))
    }
}
