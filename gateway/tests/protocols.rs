//! TLS by name, HTTP/2, gRPC, TCP routes.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ployz_core::routing::{HttpRoute, State, TcpRoute};
use ployz_gateway::Cause;
use ployz_gateway::tls::{Certificates, Pair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Certificates of `a.org` and `*.a.org`, and who trusts them.
fn certified() -> (Arc<Certificates>, RootCertStore) {
    let certificates = Arc::new(Certificates::default());
    let mut roots = RootCertStore::empty();
    let named = ["a.org", "*.a.org"].map(|name| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
        let pair =
            Pair::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
        (name.to_owned(), pair)
    });
    certificates.set(named, None);
    (certificates, roots)
}

async fn tls(
    running: &Running,
    roots: &RootCertStore,
    name: &str,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(running.https).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn http2<S>(stream: S) -> SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(uri: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder().method("POST").uri(uri).body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

#[tokio::test]
async fn certificate_is_that_of_the_name_and_none_is_shown_for_another() {
    let backend = echo_backend().await;
    let (certificates, roots) = certified();
    let mut state = one(&[HERE], backend.port);
    put(&mut state, "sub", vec![route("*.a.org", "/", backend.port)], vec![], &[HERE]);
    let running = start_with(snapshot(&state), Some(certificates), limits());
    for name in ["a.org", "x.a.org"] {
        let stream = tls(&running, &roots, name, b"http/1.1").await.unwrap();
        let mut client = Client { stream, buffer: Vec::new() };
        let answer = client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("x-forwarded-proto: https\n"), "{}", answer.body);
    }
    let refused = tls(&running, &roots, "b.org", b"http/1.1").await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    let counters = running.gateway.counters();
    until("the refused handshake is counted", || counters.refused(Cause::Tls) == 1).await;
    running.gateway.stop().await;
}

#[tokio::test]
async fn http2_streams_are_served_side_by_side() {
    let backend = echo_backend().await;
    let (certificates, roots) = certified();
    let running = start_with(snapshot(&one(&[HERE], backend.port)), Some(certificates), limits());
    let stream = tls(&running, &roots, "a.org", b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let sender = http2(stream).await;
    let asked = (0..20).map(|number| {
        let mut sender = sender.clone();
        async move {
            let body = format!("body {number}");
            let answer =
                sender.send_request(request(&format!("https://a.org/{number}"), &body)).await.unwrap();
            assert_eq!(answer.status(), 200);
            let text =
                String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
            assert!(text.ends_with(&body) && text.contains("host: a.org\n"), "{text}");
        }
    });
    futures_util::future::join_all(asked).await;
    let mut sender = sender;
    let nobody = sender.send_request(request("https://nobody.org/", "")).await.unwrap();
    assert_eq!(nobody.status(), 404);
    running.gateway.stop().await;
}

#[tokio::test]
async fn cookies_that_http2_sends_one_by_one_are_one_list_for_a_backend() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let mut sender = http2(TcpStream::connect(running.http).await.unwrap()).await;
    let mut asked = request("http://a.org/", "");
    for cookie in ["a=1", "b=2; c=3", "d=4"] {
        asked.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    let answer = sender.send_request(asked).await.unwrap();
    let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(text.contains("cookie: a=1; b=2; c=3; d=4\n"), "{text}");
    assert!(text.starts_with("POST /\n") && text.contains("host: a.org\n"), "{text}");
    assert!(text.contains("x-forwarded-host: a.org\n"), "{text}");
    running.gateway.stop().await;
}

#[tokio::test]
async fn grpc_web_is_for_backends_of_http1() {
    let backend = echo_backend().await;
    let running = start(&one(&[HERE], backend.port));
    let mut sender = http2(TcpStream::connect(running.http).await.unwrap()).await;
    for kind in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"] {
        let mut asked = request("http://a.org/", "");
        asked.headers_mut().insert("content-type", kind.parse().unwrap());
        assert_eq!(sender.send_request(asked).await.unwrap().status(), 200, "{kind}");
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn http2_stream_under_way_is_finished_when_the_gateway_ends() {
    let backend = raw_backend(|mut stream, _| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
    })
    .await;
    let running = start(&one(&[HERE], backend.port));
    let mut sender = http2(TcpStream::connect(running.http).await.unwrap()).await;
    let asked = tokio::spawn(sender.send_request(request("http://a.org/", "")));
    until("it is under way", || backend.connections.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    let started = std::time::Instant::now();
    running.gateway.stop().await;
    assert!(started.elapsed() < limits().drain, "ends with the last stream, not with the deadline");
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
}

#[tokio::test]
async fn grpc_is_spoken_in_http2_to_the_backend_and_its_trailers_arrive() {
    let backend = grpc_backend().await;
    let (certificates, roots) = certified();
    let running = start_with(snapshot(&one(&[HERE], backend.port)), Some(certificates), limits());
    let over_tls = http2(tls(&running, &roots, "a.org", b"h2").await.unwrap()).await;
    let plain = http2(TcpStream::connect(running.http).await.unwrap()).await;
    for (mut sender, scheme) in [(over_tls, "https"), (plain, "http")] {
        let mut call = request(&format!("{scheme}://a.org/shop.Cart/Add"), "\0\0\0\0\0");
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        call.headers_mut().insert("te", "trailers".parse().unwrap());
        let answer = sender.send_request(call).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["seen-te"], "trailers");
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn tcp_route_copies_both_ways_and_ends_each_by_itself() {
    // Answers only when the client has ended its direction.
    let backend = raw_backend(|mut stream, _| async move {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let _ = stream.write_all(&all).await;
    })
    .await;
    let mut state = State::default();
    let tcp = vec![TcpRoute { listen: 5432, port: backend.port }];
    put(&mut state, "db", vec![], tcp, &[THERE, HERE]);
    let running = start(&state);
    let sent = vec![7u8; 300_000];
    for _ in 0..4 {
        let mut client = TcpStream::connect(running.tcp).await.unwrap();
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
    }
    running.table.send_replace(snapshot(&State::default()));
    let counters = running.gateway.counters();
    until("a connection without a route is closed", || {
        drop(std::net::TcpStream::connect(running.tcp));
        counters.refused(Cause::NoRoute) > 0
    })
    .await;
    running.gateway.stop().await;
}

#[tokio::test]
async fn errors_of_the_gateway_s_own_are_grpc_statuses_to_grpc_clients() {
    use common::asking::{Ask, Speaks, ask};
    let mut state = State::default();
    put(&mut state, "web", vec![route("a.org", "/gone", 1)], vec![], &[HERE]);
    put(&mut state, "none", vec![route("a.org", "/none", 1)], vec![], &[]);
    let small = HttpRoute { max_body: Some(1), ..route("a.org", "/small", 1) };
    put(&mut state, "small", vec![small], vec![], &[HERE]);
    let running = start(&state);
    for (path, wanted) in [("/unknown", "12"), ("/gone", "14"), ("/none", "14"), ("/small", "8")] {
        let call = Ask {
            length: true,
            fields: vec![("content-type", "application/grpc"), ("te", "trailers")],
            ..Ask::upload(path, &["abc"])
        };
        let got = ask(running.http, Speaks::Http2, &call).await;
        assert_eq!((got.status, got.field("grpc-status")), (200, Some(wanted)), "{path}: {got:?}");
        assert_eq!(got.field("content-type"), Some("application/grpc"));
    }
    // Who reads the log reads the codes of HTTP.
    until("the log says so", || running.log.text().contains("\"status\":404")).await;
    running.gateway.stop().await;
}
