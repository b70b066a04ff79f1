//! Ctrl-C at a real process: what it says, what it asks the daemon for, and its exit code.

use crate::fake::{Fake, Script};
use crate::stage::Stage;
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Event};
use serde_json::json;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

const REMOVE: [&str; 3] = ["service", "rm", "shop/web"];

/// A deploy that says this much and goes on.
fn goes_on(committed: bool) -> Script {
    let line = json!({"event": "progress", "message": "draining", "deploy":
        {"id": "00000000000000aa", "namespace": "shop", "committed": committed}});
    Script::pieces(&[&format!("{line}\n")]).stays()
}

/// A command at its second signal or its end.
struct Interrupted {
    _stage: Stage,
    fake: Fake,
    child: Child,
    said: String,
}

impl Interrupted {
    /// Interrupted once, as soon as its daemon has said which deploy it is; `words` are in what it says to that.
    fn once(scripts: Vec<Script>, arguments: &[&str], with: &str, words: &str) -> Self {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let stage = Stage::new();
            let fake = Fake::play(stage.path(), scripts.clone());
            let mut command = stage.command(arguments);
            let mut child = command.env("PLOYZ_SOCKET", &fake.socket).spawn().unwrap();
            while fake.asked().is_empty() {
                assert!(Instant::now() < limit, "it asks nothing");
                std::thread::sleep(Duration::from_millis(5));
            }
            signal(&child, with);
            let said = read(&mut child);
            // Interrupted before the daemon's line was read, it cannot know yet.
            if said.contains(words) {
                return Self { _stage: stage, fake, child, said };
            }
            assert!(Instant::now() < limit, "{said}");
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Its end, and all that it said on standard error.
    fn end(mut self) -> (ExitStatus, String, Vec<serde_json::Value>) {
        let status = self.child.wait().unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut self.said).unwrap();
        (status, self.said, self.fake.asked())
    }
}

/// What is there, without waiting for the end.
fn read(child: &mut Child) -> String {
    let mut buffer = [0; 4096];
    let length = child.stderr.as_mut().unwrap().read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn the_first_ctrl_c_says_that_the_deploy_goes_on_and_how_to_follow_it() {
    let began = Instant::now();
    let run = Interrupted::once(vec![goes_on(false)], &REMOVE, "-INT", "continues");
    let (status, said, asked) = run.end();
    let want = "deploy 00000000000000aa of namespace shop continues: `ployzctl deploy attach 00000000000000aa` or the same \
        command again shows it\nCtrl-C again within 5s undoes it\n";
    assert_eq!((status.code(), said.as_str(), asked.len()), (Some(130), want, 1));
    assert!(began.elapsed() > Duration::from_secs(5), "the second one is waited for");
}

#[test]
fn a_second_ctrl_c_undoes_what_is_not_committed() {
    let undone = Script::ok("deploy 00000000000000aa was aborted and undone; nothing was changed");
    let run = Interrupted::once(vec![goes_on(false), undone], &REMOVE, "-INT", "undoes it");
    signal(&run.child, "-INT");
    let (status, said, asked) = run.end();
    assert_eq!(asked[1], json!({"command": "deploy-attach", "deploy": "00000000000000aa", "abort": true}));
    assert!(said.ends_with("was aborted and undone; nothing was changed\n"), "{said}");
    assert_eq!(status.code(), Some(130));
}

#[test]
fn a_second_ctrl_c_that_comes_too_late_says_so() {
    let late = Script::error(ErrorCode::DeployCommitted, "deploy 00000000000000aa is committed", &[]);
    let run = Interrupted::once(vec![goes_on(false), late], &REMOVE, "-INT", "undoes it");
    signal(&run.child, "-INT");
    let (status, said, _) = run.end();
    assert!(said.contains("error [DEPLOY_COMMITTED]: deploy 00000000000000aa is committed"), "{said}");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn what_is_committed_is_left_at_once_and_named() {
    let run = Interrupted::once(vec![goes_on(true)], &REMOVE, "-INT", "cannot be undone");
    let (status, said, asked) = run.end();
    assert!(
        said.contains("is committed and cannot be undone; it continues: `ployzctl deploy attach"),
        "{said}"
    );
    assert_eq!((status.code(), asked.len()), (Some(130), 1));
}

#[test]
fn a_deploy_that_ends_before_the_second_ctrl_c_is_reported_as_ever() {
    let progress = json!({"event": "progress", "message": "a", "deploy":
        {"id": "00000000000000aa", "namespace": "shop", "committed": false}});
    let end = Event::Result { envelope: Box::new(Envelope::ok("removed", None)) };
    let end = serde_json::to_string(&end).unwrap();
    let script = Script::pieces(&[&format!("{progress}\n"), &format!("{end}\n")]).slowly();
    let run = Interrupted::once(vec![script], &REMOVE, "-INT", "undoes it");
    assert_eq!(run.end().0.code(), Some(0));
}

#[test]
fn other_changes_go_on_too_and_questions_just_end() {
    let stays = Script::pieces(&["\n"]).stays();
    let run = Interrupted::once(
        vec![stays.clone()],
        &["mesh", "start", "prod"],
        "-INT",
        "ployzd continues with this",
    );
    assert_eq!(run.end().0.code(), Some(130));
    let run = Interrupted::once(vec![goes_on(false)], &REMOVE, "-TERM", "--abort` undoes it");
    assert_eq!(run.end().0.code(), Some(143), "no second SIGTERM is waited for");
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), stays);
    // What runs the tests may ignore SIGINT, and its children would too.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_ployzctl"), "service", "ls"]);
    let mut child = command.env("PLOYZ_SOCKET", &fake.socket).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while fake.asked().is_empty() {
        assert!(Instant::now() < limit, "it asks nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

#[test]
fn attaching_asks_for_one_deploy_or_the_latest() {
    use crate::stage::request;
    assert_eq!(request(&["deploy", "attach"], ""), json!({"command": "deploy-attach"}));
    let named = ["deploy", "attach", "00000000000000aa", "--abort"];
    assert_eq!(
        request(&named, ""),
        json!({"command": "deploy-attach", "deploy": "00000000000000aa", "abort": true})
    );
    crate::usage::refused(&["deploy", "-n", "attach"], "");
    crate::usage::refused(&["deploy", "attach", "not-an-id"], "");
}
