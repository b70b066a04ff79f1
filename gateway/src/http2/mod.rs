//! A client's connection that speaks HTTP/2: accepts its streams, has each served, and ends when it is idle or told to.
//!
//! The streams are ours and not Pingora's because the library drops every interim answer (103 Early Hints, 100 Continue)
//! on HTTP/2; the protocol itself is the `h2` crate's, as it is for Pingora.

mod retry;
mod stream;

use crate::worker::Worker;
use bytes::Bytes;
use h2::server::Connection;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Digest, Stream as Io};
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Serves a connection to its end.
pub(crate) async fn serve(worker: &Worker, io: Io) {
    let digest = Arc::new(Digest {
        ssl_digest: io.get_ssl_digest(),
        timing_digest: io.get_timing_digest(),
        proxy_digest: io.get_proxy_digest(),
        socket_digest: io.get_socket_digest(),
    });
    let mut options = h2::server::Builder::new();
    options.max_header_list_size(HEADER_LIST).max_concurrent_streams(STREAMS);
    let handshake = timeout(worker.service.limits.head.time, options.handshake::<_, Bytes>(io));
    let Ok(Ok(connection)) = handshake.await else { return };
    accept(worker, connection, &digest).await;
}

async fn accept(worker: &Worker, mut connection: Connection<Io, Bytes>, digest: &Arc<Digest>) {
    let mut closing = worker.closing.clone();
    let mut is_closing = false;
    let streams = TaskTracker::new();
    streams.close();
    loop {
        // Cancel-safe: what a connection has read stays with it, and the other two only look.
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing), if !is_closing => {
                // Streams that are under way, and those that cross this on the wire, are still served.
                connection.graceful_shutdown();
                is_closing = true;
                continue;
            }
            accepted = connection.accept() => accepted,
            () = idle(&streams) => return,
        };
        // The client has gone, or broke the protocol: h2 has said so to it.
        let Some(Ok((request, respond))) = accepted else { return };
        let session = ServerSession::new_custom(Box::new(Stream::new(request, respond, digest.clone())));
        let (proxy, closing) = (worker.proxy.clone(), worker.closing.clone());
        streams.spawn(async move { proxy.process_new_http(session, &closing).await.map(drop) });
    }
}

/// Ready when no stream has been open for the whole time.
async fn idle(streams: &TaskTracker) {
    streams.wait().await;
    tokio::time::sleep(IDLE_TIMEOUT).await;
}

/// Of a connection without a stream.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Streams of one connection at once.
const STREAMS: u32 = 100;
/// Decoded, of one request.
const HEADER_LIST: u32 = 64 * 1024;
