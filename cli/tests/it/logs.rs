//! `service logs --follow` against a daemon that has new lines, none, dies and comes back.

use crate::fake::{Fake, Script};
use crate::services::line;
use crate::stage::{Stage, once};
use ployz_core::wire::v1::api::{ErrorCode, Payload};
use ployz_core::wire::v1::api_deploy::{ServiceLogLine, ServiceLogs};
use std::io::{BufRead, BufReader};
use std::process::Child;

/// A follower, stopped with its test.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answer(lines: &[ServiceLogLine]) -> Script {
    Script::payload(Payload::ServiceLogs(ServiceLogs { lines: lines.to_vec(), missing: Vec::new() }))
}

/// The first lines a follower prints.
fn followed(scripts: Vec<Script>, arguments: &[&str], count: usize) -> (Vec<String>, Vec<serde_json::Value>) {
    let stage = Stage::new();
    let fake = Fake::play(stage.path(), scripts);
    let mut command = stage.command(&[&["service", "logs", "shop/web", "-f"], arguments].concat());
    let mut follower = Follower(command.env("PLOYZ_SOCKET", &fake.socket).spawn().unwrap());
    let out = BufReader::new(follower.0.stdout.take().unwrap());
    (out.lines().take(count).map(|line| line.unwrap()).collect(), fake.asked())
}

const S: u64 = 1_000_000_000;

#[test]
fn new_lines_are_printed_once_and_a_daemon_that_dies_is_waited_for() {
    let (a, b) = (line("web-0-aaaaa", 90 * S, "one"), line("web-0-aaaaa", 91 * S, "two"));
    let c = line("web-1-bbbbb", 91 * S, "three");
    let scripts = vec![
        answer(std::slice::from_ref(&a)),
        answer(&[a.clone(), b.clone()]),
        Script::pieces(&[]).hang_up(),
        Script::error(ErrorCode::NoRunningNetwork, "starting", &[]),
        answer(&[a, b, c]),
    ];
    let (lines, asked) = followed(scripts, &["-n", "7"], 3);
    assert_eq!(lines, ["web-0-aaaaa | one", "web-0-aaaaa | two", "web-1-bbbbb | three"]);
    assert_eq!((&asked[0]["tail"], &asked[0]["after"]), (&7.into(), &serde_json::Value::Null));
    assert_eq!((&asked[1]["tail"], &asked[1]["after"]), (&u32::MAX.into(), &(80 * S).into()));
    assert_eq!(asked[4]["after"], 81 * S);
}

#[test]
fn each_line_is_a_json_object_or_a_row() {
    let script = answer(&[line("web-0-aaaaa", 90 * S, "one"), line("web-0-aaaaa", 91 * S, "error")]);
    let (lines, _) = followed(vec![script.clone()], &["--json"], 2);
    let second: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!((&second["text"], &second["stream"]), (&"error".into(), &"stderr".into()));
    let (lines, _) = followed(vec![script], &["--plain"], 1);
    assert_eq!(lines, ["90000000000\tweb-0-aaaaa\tnode-1\tstdout\tone"]);
}

#[test]
fn what_cannot_pass_ends_it() {
    let gone = Script::error(ErrorCode::ServiceNotFound, "no service shop/web", &[]);
    let run = once(gone.clone(), &["service", "logs", "shop/web", "-f"], "");
    assert_eq!(run.code, Some(1));
    assert!(run.err.starts_with("error [SERVICE_NOT_FOUND]: no service shop/web\n"), "{}", run.err);
    let first = Script::error(ErrorCode::NoRunningNetwork, "nothing runs", &[]);
    assert_eq!(once(first, &["service", "logs", "shop/web", "-f"], "").code, Some(1));
    let stage = Stage::new();
    let fake = Fake::play(stage.path(), vec![answer(&[line("web-0-aaaaa", 90 * S, "one")]), gone]);
    let run = stage.run_with(&fake, &["service", "logs", "shop/web", "--follow"], "");
    assert_eq!((run.code, run.out.as_str()), (Some(1), "web-0-aaaaa | one\n"));
}
