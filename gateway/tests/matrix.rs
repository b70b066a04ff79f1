//! Does the gateway say and do the same over HTTP/1.0, 1.1 and 2, whatever a backend does? One row for each thing a backend
//! may do, each asked in all three versions; after each, the next clients get their own answers and no other's.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::asking::{ALL, Ask, Got, Speaks, ask};
use common::scripted::{Do, scripted};
use common::{HERE, Running, metric, put, route, start_single};
use futures_util::StreamExt;
use ployz_core::routing::State;
use std::fmt::Write as _;

/// What a client must get.
struct Wanted {
    status: u16,
    body: &'static str,
    /// In each version: the end of an answer without a length is the end of the connection to HTTP/1.0.
    whole: [bool; 3],
    /// In HTTP/1.1 and HTTP/2; HTTP/1.0 gets none (RFC 9110 section 15.2).
    interim: &'static [u16],
    /// In HTTP/1.1 and HTTP/2.
    trailers: [&'static [(&'static str, &'static str)]; 2],
    fields: &'static [(&'static str, &'static str)],
    absent: &'static [&'static str],
    /// Whether the next request goes over the same connection; either when absent.
    reused: Option<bool>,
    /// Whether bytes that no request asked for are counted.
    out_of_turn: bool,
}

const FINE: Wanted = Wanted {
    status: 200,
    body: "hello",
    whole: [true; 3],
    interim: &[],
    trailers: [&[], &[]],
    fields: &[],
    absent: &[],
    reused: Some(true),
    out_of_turn: false,
};
const CLOSED: Wanted = Wanted { reused: Some(false), ..FINE };
const CUT: Wanted = Wanted { whole: [false; 3], ..CLOSED };
const BAD: Wanted = Wanted { status: 502, body: "502 Bad Gateway\n", ..CLOSED };
const LATE: Wanted = Wanted { status: 504, body: "504 Gateway Timeout\n", ..CLOSED };

struct Row {
    name: &'static str,
    ask: Ask,
    script: &'static [Do],
    wanted: Wanted,
}

fn get(name: &'static str, script: &'static [Do], wanted: Wanted) -> Row {
    Row { name, ask: Ask::get("/row"), script, wanted }
}

fn with(name: &'static str, ask: Ask, script: &'static [Do], wanted: Wanted) -> Row {
    Row { name, ask, script, wanted }
}

fn head() -> Ask {
    Ask { method: "HEAD", ..Ask::get("/row") }
}

fn taking_trailers() -> Ask {
    Ask { fields: vec![("te", "trailers")], ..Ask::get("/row") }
}

const SIMPLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const TRAILED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";

fn ends_of_answers() -> Vec<Row> {
    use Do::{Close, Pause, Reset, Say};
    vec![
        get("a length", &[Say(SIMPLE)], FINE),
        get("no body", &[Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")], Wanted { body: "", ..FINE }),
        get(
            "chunks",
            &[
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n"),
                Pause(20),
                Say("3\r\nllo\r\n0\r\n\r\n"),
            ],
            FINE,
        ),
        get("until it closes", &[Say("HTTP/1.1 200 OK\r\n\r\nhel"), Pause(20), Say("lo"), Close], CLOSED),
        get(
            "the backend speaks HTTP/1.0",
            &[Say("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"), Close],
            CLOSED,
        ),
        get(
            "it closes after the answer",
            &[Say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"), Close],
            CLOSED,
        ),
        get("it closes and does not say so", &[Say(SIMPLE), Close], CLOSED),
        with(
            "HEAD with a length",
            head(),
            &[Say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")],
            Wanted { body: "", fields: &[("content-length", "5")], ..FINE },
        ),
        with(
            "HEAD with chunks announced",
            head(),
            &[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")],
            Wanted { body: "", absent: &["transfer-encoding"], ..FINE },
        ),
        with(
            "HEAD that is sent a body all the same",
            head(),
            &[Say(SIMPLE)],
            Wanted { body: "", out_of_turn: true, ..CLOSED },
        ),
        get("204", &[Say("HTTP/1.1 204 No Content\r\n\r\n")], Wanted { status: 204, body: "", ..FINE }),
        get(
            "204 with a length",
            &[Say("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")],
            Wanted { status: 204, body: "", absent: &["content-length"], ..FINE },
        ),
        get(
            "204 with a body",
            &[Say("HTTP/1.1 204 No Content\r\n\r\nhello")],
            Wanted { status: 204, body: "", out_of_turn: true, ..CLOSED },
        ),
        get(
            "304 with the length of what it stands for",
            &[Say("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")],
            Wanted { status: 304, body: "", ..FINE },
        ),
        get(
            "two answers to one request",
            &[Say(SIMPLE), Say(SIMPLE)],
            Wanted { reused: Some(false), ..FINE },
        ),
        get("a length cut short", &[Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), Close], CUT),
        get(
            "a length cut short by a reset",
            &[Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), Pause(50), Reset],
            CUT,
        ),
        get(
            "chunks cut short",
            &[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Close],
            Wanted { whole: [true, false, false], ..CUT },
        ),
        get(
            "a chunk that is none",
            &[
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                Pause(50),
                Say("zz\r\n"),
            ],
            Wanted { whole: [true, false, false], ..CUT },
        ),
    ]
}

fn heads() -> Vec<Row> {
    use Do::{Close, Say};
    vec![
        get(
            "103, then the answer",
            &[Say("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"), Say(SIMPLE)],
            Wanted { interim: &[103], ..FINE },
        ),
        get(
            "102 and 103 in one piece with the answer",
            &[Say(
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            )],
            Wanted { interim: &[102, 103], ..FINE },
        ),
        get(
            "103, then nothing",
            &[Say("HTTP/1.1 103 Early Hints\r\n\r\n"), Close],
            Wanted { interim: &[103, 103, 103], ..BAD },
        ),
        get(
            "an unrequested protocol switch",
            &[Say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")],
            BAD,
        ),
        get(
            "length and chunks",
            &[Say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello")],
            BAD,
        ),
        get(
            "two lengths",
            &[Say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")],
            BAD,
        ),
        get("a list of lengths", &[Say("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello")], BAD),
        get(
            "a coding that is unknown",
            &[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello")],
            BAD,
        ),
        get(
            "chunks in HTTP/1.0",
            &[Say("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")],
            BAD,
        ),
        get("no HTTP", &[Say("SSH-2.0-OpenSSH_9.2\r\n\r\n")], BAD),
        get("a status that is none", &[Say("HTTP/1.1 99 Low\r\n\r\n")], BAD),
        get("it closes before it answers", &[Close], BAD),
        get("it closes within the head", &[Say("HTTP/1.1 200 OK\r\nContent-Le"), Close], BAD),
        get(
            "a reason of its own",
            &[Say("HTTP/1.1 299 Fine By Me\r\nContent-Length: 5\r\n\r\nhello")],
            Wanted { status: 299, ..FINE },
        ),
        get(
            "fields for the next hop",
            &[Say(
                "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nX-Kept: 1\r\nContent-Length: 5\r\n\r\nhello",
            )],
            Wanted { fields: &[("x-kept", "1")], absent: &["x-hop", "keep-alive"], ..FINE },
        ),
    ]
}

fn trailers() -> Vec<Row> {
    use Do::Say;
    const SUM: &[(&str, &str)] = &[("x-sum", "7")];
    vec![
        with(
            "trailers to a client that takes them",
            taking_trailers(),
            &[Say(TRAILED)],
            Wanted { trailers: [SUM, SUM], ..FINE },
        ),
        // HTTP/2 has a place for them whether they are asked for or not.
        get("trailers to one that did not say so", &[Say(TRAILED)], Wanted { trailers: [&[], SUM], ..FINE }),
        with(
            "trailers without a body",
            taking_trailers(),
            &[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 7\r\n\r\n")],
            Wanted { body: "", trailers: [SUM, SUM], ..FINE },
        ),
        with(
            "trailers that frame or authenticate",
            taking_trailers(),
            &[Say(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 1\r\nSet-Cookie: a=b\r\n\r\n",
            )],
            FINE,
        ),
    ]
}

fn silences() -> Vec<Row> {
    use Do::{Close, Pause, Say};
    const QUIET: u64 = 1_500;
    vec![
        get("timed out", &[Pause(2 * QUIET), Close], LATE),
        get(
            "silence within a length",
            &[Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), Pause(QUIET)],
            CUT,
        ),
        get(
            "a quiet stream of events, spelled in capitals",
            &[
                Say("HTTP/1.1 200 OK\r\nCONTENT-TYPE: TEXT/EVENT-STREAM; charset=utf-8\r\n\r\nhel"),
                Pause(QUIET),
                Say("lo"),
                Close,
            ],
            CLOSED,
        ),
        get(
            "an answer without a length that takes its time",
            &[
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"),
                Pause(QUIET),
                Say("2\r\nlo\r\n0\r\n\r\n"),
            ],
            FINE,
        ),
    ]
}

fn uploads() -> Vec<Row> {
    use Do::{Close, Pause, Say, Take};
    const FULL: &str = "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull";
    let upload = |length, empty_end| Ask { length, empty_end, ..Ask::upload("/row", &["he", "", "llo"]) };
    vec![
        with("a body with a length", upload(true, false), &[Take, Say(SIMPLE)], FINE),
        with("a body without one", upload(false, false), &[Take, Say(SIMPLE)], FINE),
        with("a body whose last piece is empty", upload(false, true), &[Take, Say(SIMPLE)], FINE),
        with(
            "a body with a length whose last piece is empty",
            upload(true, true),
            &[Take, Say(SIMPLE)],
            FINE,
        ),
        with(
            "an answer to half a body",
            Ask { length: true, ..Ask::upload("/row", &["he", "llo"]) },
            &[Say(SIMPLE), Take],
            Wanted { reused: None, ..FINE },
        ),
        with(
            "no to a body, and it closes",
            upload(false, false),
            &[Say(FULL), Pause(50), Close],
            Wanted { status: 413, body: "full", ..CLOSED },
        ),
        with("a POST whose backend dies is not sent twice", upload(true, false), &[Take, Close], BAD),
    ]
}

/// Asks in one version and then as three other clients; what is not as it must be.
async fn walk(row: &Row, speaks: Speaks) -> String {
    let (backend, heard) = scripted(row.script).await;
    let mut state = State::default();
    let mut only = route("a.org", "/", backend.port);
    only.timeout_secs = Some(1);
    put(&mut state, "web", vec![only], vec![], &[HERE]);
    let running: Running = start_single(&state);
    let got = ask(running.http, speaks, &row.ask).await;
    let mut wrong = judge(&row.wanted, speaks, &got);
    let before = heard.lock().len();
    for number in 0..3 {
        let path = format!("/next-{number}");
        let next = ask(running.http, Speaks::Http11, &Ask::get(&path)).await;
        if (next.status, next.body.as_str()) != (200, path.as_str()) {
            let _ = writeln!(wrong, "the next client got {next:?}");
        }
    }
    let same = heard.lock().len() == before;
    if row.wanted.reused.is_some_and(|wanted| wanted != same) {
        let _ = writeln!(wrong, "reused: {same}");
    }
    let counted = metric(&running, "ployz_gateway_backend_out_of_turn_total").await > 0;
    if row.wanted.out_of_turn && !counted {
        wrong += "not counted as out of turn\n";
    }
    running.gateway.stop().await;
    wrong
}

fn judge(wanted: &Wanted, speaks: Speaks, got: &Got) -> String {
    let version = ALL.iter().position(|version| *version == speaks).unwrap();
    let interim = if speaks == Speaks::Http10 { &[][..] } else { wanted.interim };
    let trailers = version.checked_sub(1).map_or(&[][..], |at| wanted.trailers[at]);
    let trailers: Vec<_> =
        trailers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut wrong = String::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            let _ = writeln!(wrong, "{what}: {got:?}");
        }
    };
    must(got.status == wanted.status, "status");
    // A reset of HTTP/2 may overtake what was sent before it.
    let overtaken = speaks == Speaks::Http2 && !got.whole && wanted.body.starts_with(&got.body);
    must(got.body == wanted.body || overtaken, "body");
    must(got.whole == wanted.whole[version], "whole");
    must(got.interim == interim, "interim");
    must(got.trailers == trailers, "trailers");
    // Announced is what comes.
    must(got.field("trailer").is_none() || !trailers.is_empty(), "announced trailers");
    for (name, value) in wanted.fields {
        must(got.field(name) == Some(*value), name);
    }
    for name in wanted.absent {
        must(got.field(name).is_none(), name);
    }
    wrong
}

async fn walk_all(rows: Vec<Row>) {
    let each = rows.iter().flat_map(|row| ALL.map(|speaks| (row, speaks)));
    let walks = each.map(|(row, speaks)| async move {
        let found = walk(row, speaks).await;
        if found.is_empty() { found } else { format!("{} over {speaks:?}:\n{found}", row.name) }
    });
    let wrong: Vec<String> = futures_util::stream::iter(walks).buffered(AT_ONCE).collect().await;
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "{wrong}");
}

/// Rows that are walked at once.
const AT_ONCE: usize = 6;

#[tokio::test]
async fn every_end_of_an_answer_is_the_same_to_every_client_and_the_next_one_gets_its_own() {
    walk_all(ends_of_answers()).await;
}

#[tokio::test]
async fn every_head_of_an_answer_is_passed_on_or_refused_in_every_version() {
    walk_all(heads()).await;
}

#[tokio::test]
async fn trailers_reach_every_client_that_takes_them_and_are_announced_to_no_other() {
    walk_all(trailers()).await;
}

#[tokio::test]
async fn the_answer_s_kind_decides_how_long_its_silences_may_be() {
    walk_all(silences()).await;
}

#[tokio::test]
async fn every_upload_ends_once_and_is_answered_in_every_version() {
    walk_all(uploads()).await;
}
