//! Every client gets its own answer: a connection to a backend is used again only at the end of a message in both
//! directions, and bytes that no request asked for are no answer.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::asking::{ALL, Ask, Speaks, ask};
use common::scripted::{Do, scripted, scripted_with};
use common::{HERE, Running, THERE, metric, one, start_single, until};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SIMPLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Twenty clients, each of which must get the answer to what it asked.
async fn each_gets_its_own(running: &Running) {
    for number in 0..20 {
        let path = format!("/own-{number}");
        let speaks = ALL[number % ALL.len()];
        let got = ask(running.http, speaks, &Ask::get(&path)).await;
        assert_eq!((got.status, got.body.as_str()), (200, path.as_str()), "{speaks:?}: {got:?}");
    }
}

#[tokio::test]
async fn an_upload_without_a_length_whose_last_frame_is_empty_ends_once_to_the_backend() {
    let (backend, heard) = scripted(&[]).await;
    let running = start_single(&one(&[HERE], backend.port));
    for _ in 0..50 {
        let upload = Ask { empty_end: true, ..Ask::upload("/up", &["a\n", "b\n"]) };
        let got = ask(running.http, Speaks::Http2, &upload).await;
        assert_eq!((got.status, got.body.as_str()), (200, "/up"));
        each_gets_its_own(&running).await;
    }
    let wire = String::from_utf8(heard.lock().concat()).unwrap();
    assert_eq!(wire.matches("\r\n0\r\n\r\n").count(), 50, "one end for each upload");
    assert_eq!(heard.lock().len(), 1, "one connection for all");
    running.gateway.stop().await;
}

#[tokio::test]
async fn a_second_answer_that_comes_late_ends_its_connection_and_is_counted() {
    let (backend, _) = scripted(&[Do::Say(SIMPLE), Do::Pause(20), Do::Say(SIMPLE)]).await;
    let running = start_single(&one(&[HERE], backend.port));
    for (round, speaks) in ALL.into_iter().enumerate() {
        assert_eq!(ask(running.http, speaks, &Ask::get("/row")).await.body, "hello");
        // The second one is on its way; when it has come, the connection is not fit for a request any more.
        tokio::time::sleep(Duration::from_millis(100)).await;
        each_gets_its_own(&running).await;
        // Once caught, the backend has a connection for each request, and there is nothing more to catch.
        assert_eq!(metric(&running, "ployz_gateway_backend_out_of_turn_total").await, 1, "round {round}");
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn a_backend_that_speaks_before_it_is_asked_is_passed_over() {
    let hasty: &[Do] = &[Do::Say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")];
    let (hasty, _) = scripted_with(&[], hasty).await;
    let running = start_single(&one(&[HERE], hasty.port));
    let mut wrong = 0;
    for _ in 0..20 {
        let got = ask(running.http, Speaks::Http11, &Ask::get("/x")).await;
        wrong += usize::from(got.body == "mine");
    }
    // A backend is as fast as the gateway: its early answer may come when the request is already on its way. It is then
    // that request's; what may never happen is that a connection is used again after it.
    assert!(metric(&running, "ployz_gateway_backend_out_of_turn_total").await > 0, "{wrong} of 20 too early");
    running.gateway.stop().await;
}

#[tokio::test]
async fn an_idle_connection_on_which_a_backend_speaks_is_not_used() {
    let (backend, heard) = scripted(&[
        Do::Say(SIMPLE),
        Do::Pause(50),
        Do::Say("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        Do::Pause(10_000),
    ])
    .await;
    let running = start_single(&one(&[HERE], backend.port));
    assert_eq!(ask(running.http, Speaks::Http11, &Ask::get("/row")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(150)).await;
    each_gets_its_own(&running).await;
    assert!(heard.lock().len() > 1);
    assert_eq!(metric(&running, "ployz_gateway_backend_out_of_turn_total").await, 1);
    running.gateway.stop().await;
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_sent_whole_and_its_answer_is_its_own() {
    // The one dies with the request half read, the other answers; on both, clients before and after.
    let dying = TcpListener::bind((THERE, 0)).await.unwrap();
    let port = dying.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = dying.accept().await {
            let mut some = [0; 16];
            let _ = stream.read(&mut some).await;
        }
    });
    let living = TcpListener::bind((HERE, port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = living.accept().await {
            let service =
                hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    use http_body_util::BodyExt;
                    let path = request.uri().path().to_owned();
                    let body =
                        request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    let text = format!("{path}:{}", String::from_utf8_lossy(&body));
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(http_body_util::Full::new(
                        bytes::Bytes::from(text),
                    )))
                });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    let running = start_single(&one(&[HERE, THERE], port));
    for number in 0..12 {
        for speaks in ALL {
            let put =
                Ask { method: "PUT", empty_end: true, ..Ask::upload(&format!("/{number}"), &["ab", "cd"]) };
            let got = ask(running.http, speaks, &put).await;
            assert_eq!((got.status, got.body), (200, format!("/{number}:abcd")), "{speaks:?}");
        }
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_after_the_request_gets_its_answer() {
    let (backend, _) = scripted(&[Do::Pause(100), Do::Say(SIMPLE)]).await;
    let running = start_single(&one(&[HERE], backend.port));
    for request in [
        "GET /row HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "GET /row HTTP/1.0\r\nHost: a.org\r\n\r\n",
        "POST /row HTTP/1.1\r\nHost: a.org\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut client = TcpStream::connect(running.http).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"),
            "{request}: {answer}"
        );
    }
    running.gateway.stop().await;
}

#[tokio::test]
async fn an_upload_that_is_given_up_is_never_completed_to_the_backend() {
    let (backend, heard) = scripted(&[Do::Take, Do::Say(SIMPLE)]).await;
    let running = start_single(&one(&[HERE], backend.port));
    for request in [
        "POST /row HTTP/1.1\r\nHost: a.org\r\nContent-Length: 10\r\n\r\nhalf",
        "POST /row HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = TcpStream::connect(running.http).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let reached = heard.clone();
        let before = heard.lock().len();
        until("the half upload at the backend", || {
            let heard = reached.lock();
            heard.len() >= before
                && heard.last().is_some_and(|wire| wire.windows(4).any(|four| four == b"half"))
        })
        .await;
        drop(client);
        each_gets_its_own(&running).await;
    }
    let ended = heard.lock().iter().any(|wire| String::from_utf8_lossy(wire).contains("half\r\n0\r\n"));
    assert!(!ended, "a body that its client never ended has an end");
    running.gateway.stop().await;
}
