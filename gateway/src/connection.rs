//! One connection from its acceptance to its end: handshake, which HTTP is spoken, request after request.
//!
//! TLS is ended here and not by Pingora: with a TLS feature it reads the system's certificate authorities at start, for
//! backends that speak TLS (ours are behind WireGuard and do not), and panics on a machine that has none.

use crate::downstream::{Conn, Downstream, Stage, Transport};
use crate::http2;
use crate::listen::Kind;
use crate::metrics::Cause;
use crate::tcp;
use crate::worker::Worker;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Serves a connection to its end.
pub(crate) async fn serve(worker: &Worker, kind: Kind, stream: TcpStream, peer: SocketAddr) {
    // A socket that was closed in the meantime says so when it is read.
    let _ = stream.set_nodelay(true);
    match kind {
        Kind::Http => plain(worker, stream, peer).await,
        Kind::Https => tls(worker, stream, peer).await,
        Kind::Tcp(listen) => tcp::serve(&worker.service.shared, listen, stream).await,
        Kind::Metrics => {}
    }
}

async fn plain(worker: &Worker, stream: TcpStream, peer: SocketAddr) {
    // Clients that know beforehand (gRPC without TLS) begin in HTTP/2; no method of HTTP/1.1 begins alike.
    let mut first = [0; 3];
    let Ok(Ok(_)) = timeout(worker.service.limits.head.time, stream.peek(&mut first)).await else { return };
    http(worker, stream, peer, first == *b"PRI").await;
}

async fn tls(worker: &Worker, stream: TcpStream, peer: SocketAddr) {
    let Some(handshake) = &worker.service.handshake else { return };
    match timeout(worker.service.limits.head.time, handshake.accept(stream)).await {
        Ok(Ok(stream)) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            http(worker, stream, peer, http2).await;
        }
        _ => worker.service.shared.counters.refuse(Cause::Tls),
    }
}

async fn http<S: Transport>(worker: &Worker, io: S, peer: SocketAddr, http2: bool) {
    let conn = Arc::new(Conn::default());
    let stream = Box::new(Downstream::new(io, peer, conn.clone(), worker.service.limits.head));
    if http2 {
        conn.speaks_http2();
        http2::serve(worker, stream).await;
        return;
    }
    let mut session = ServerSession::new_http1(stream);
    let idle = worker.service.limits.idle.as_secs();
    session.set_keepalive((!*worker.closing.borrow()).then_some(idle));
    session.set_pipelining_enabled(true);
    loop {
        if !conn.await_head() {
            break;
        }
        let Some(reused) = worker.proxy.process_new_http(session, &worker.closing).await else { break };
        let (stream, settings) = reused.consume();
        session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        // The last head has taken its place: a client of HTTP/1.1 says nothing of a time, which means for ever.
        session.set_keepalive(Some(idle));
    }
    count(worker, &conn);
}

/// What Pingora refused before it asked us anything.
fn count(worker: &Worker, conn: &Conn) {
    let counters = &worker.service.shared.counters;
    match conn.stage() {
        Stage::TooLarge => counters.refuse(Cause::HeadTooLarge),
        Stage::TooSlow => counters.refuse(Cause::HeadTooSlow),
        Stage::Malformed => counters.refuse(Cause::Malformed),
        Stage::Head if conn.head_begun() => counters.refuse(Cause::Malformed),
        Stage::Head | Stage::Serving | Stage::Closed => {}
    }
}
