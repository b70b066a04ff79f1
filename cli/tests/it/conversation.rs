//! Talking with the daemon: exit codes, error texts, progress, a daemon that is away, dies or speaks otherwise.

use crate::fake::{Fake, Script};
use crate::rendering::{not_ready, ready};
use crate::stage::{Run, Stage, once};
use ployz_core::wire::v1::api::{ErrorCode, NetworkSummary, Payload};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn parts(run: &Run) -> (Option<i32>, &str, &str) {
    (run.code, &run.out, &run.err)
}

#[test]
fn an_error_is_printed_with_code_causes_and_hint() {
    let script = Script::error(
        ErrorCode::NetworkStartFailed,
        "network prod did not start",
        &["wireguard: cannot make wg0", "Operation not permitted (os error 1)"],
    );
    let want = "error [NETWORK_START_FAILED]: network prod did not start\n  \
        caused by: wireguard: cannot make wg0\n  \
        caused by: Operation not permitted (os error 1)\n  \
        hint: `ployzctl explain` shows each component; `journalctl -u ployzd` has the details\n";
    let run = once(script.clone(), &["mesh", "start", "prod"], "");
    assert_eq!(parts(&run), (Some(1), "", want));
    let quiet = once(script.clone(), &["-q", "mesh", "start", "prod"], "");
    assert_eq!(parts(&quiet), (Some(1), "", want));
    let json = once(script, &["--json", "mesh", "start", "prod"], "");
    assert_eq!((json.code, json.err.as_str()), (Some(1), want));
    let envelope: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&envelope["ok"], &envelope["code"]), (&false.into(), &"NETWORK_START_FAILED".into()));
}

#[test]
fn success_is_silent_when_quiet() {
    for mode in [&["-q"][..], &["--quiet", "--json"], &["--plain", "-q"]] {
        let arguments = [&["mesh", "start", "prod"], mode].concat();
        assert_eq!(parts(&once(Script::ok("network prod is running"), &arguments, "")), (Some(0), "", ""));
    }
    let loud = once(Script::ok("network prod is running"), &["mesh", "start", "prod"], "");
    assert_eq!(parts(&loud), (Some(0), "network prod is running\n", ""));
}

#[test]
fn ready_answers_with_its_exit_code() {
    for mode in [&[][..], &["--json"], &["--plain"], &["-q"]] {
        let arguments = [&["mesh", "ready"], mode].concat();
        assert_eq!(once(Script::payload(ready()), &arguments, "").code, Some(0), "{mode:?}");
        assert_eq!(once(Script::payload(not_ready()), &arguments, "").code, Some(1), "{mode:?}");
    }
}

#[test]
fn a_daemon_that_is_away_is_named_with_its_socket() {
    let stage = Stage::new();
    let socket = stage.path().join("none.sock");
    let run = stage.run(&["status", "--socket", socket.to_str().unwrap()], "");
    let want = format!(
        "error: cannot reach ployzd\n  caused by: No such file or directory (os error 2)\n  \
         hint: is ployzd running? (socket: {}); systemctl status ployzd\n",
        socket.display()
    );
    assert_eq!(parts(&run), (Some(1), "", want.as_str()));
}

#[test]
fn a_stale_socket_is_a_daemon_that_is_away() {
    let stage = Stage::new();
    let socket = stage.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let run = stage.run(&["status", "--socket", socket.to_str().unwrap()], "");
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("Connection refused") && run.err.contains("is ployzd running?"), "{}", run.err);
}

#[test]
fn the_socket_comes_from_flag_then_environment_then_configuration() {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::ok("done"));
    let config = stage.path().join("config.toml");
    std::fs::write(&config, format!("socket = {:?}\n", fake.socket)).unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(stage.run(&["status", "--config", config], "").code, Some(0));
    assert_eq!(stage.run(&["--socket", "/nonexistent", "status", "--config", config], "").code, Some(1));
    let mut by_environment = stage.command(&["status"]);
    assert!(by_environment.env("PLOYZ_CONFIG", config).output().unwrap().status.success());
    let mut flag_wins = stage.command(&["status", "--socket", fake.socket.to_str().unwrap()]);
    assert!(flag_wins.env("PLOYZ_SOCKET", "/nonexistent").output().unwrap().status.success());
}

#[test]
fn a_configuration_that_cannot_be_used_is_exit_code_2() {
    let stage = Stage::new();
    let config = stage.path().join("config.toml");
    let missing = stage.run(&["status", "--config", config.to_str().unwrap()], "");
    assert_eq!((missing.code, missing.out.as_str()), (Some(2), ""));
    assert!(missing.err.contains("there is no such file"), "{}", missing.err);
    std::fs::write(&config, "\nsokcet = \"/x\"\n").unwrap();
    let wrong = stage.run(&["status", "--config", config.to_str().unwrap()], "");
    let want = format!("caused by: {}:2: unknown key sokcet; did you mean socket?", config.display());
    assert!(wrong.code == Some(2) && wrong.err.contains(&want), "{}", wrong.err);
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let script = Script::pieces(&[
        "{\"event\":\"progress\",\"mess",
        "age\":\"making wg0\"}\n\n{\"event\":\"result\",\"ok\":true,\"code\":\"OK\"",
        ",\"message\":\"running\"}",
    ]);
    assert_eq!(parts(&once(script, &["mesh", "start", "prod"], "")), (Some(0), "running\n", ""));
}

#[test]
fn progress_is_not_shown_when_piped() {
    let progress = "{\"event\":\"progress\",\"message\":\"making wg0\"}\n";
    let result = "{\"event\":\"result\",\"ok\":true,\"code\":\"OK\",\"message\":\"running\"}\n";
    let script = Script::pieces(&[progress, result]).after(Duration::from_millis(1200));
    assert_eq!(parts(&once(script, &["mesh", "start", "prod"], "")), (Some(0), "running\n", ""));
}

/// On a terminal, which `script` (bsdutils, part of every Debian) plays.
fn on_a_terminal(delay: Duration, mode: &str) -> String {
    let stage = Stage::new();
    let progress = "{\"event\":\"progress\",\"message\":\"making wg0\"}\n";
    let result = "{\"event\":\"result\",\"ok\":true,\"code\":\"OK\",\"message\":\"running\"}\n";
    let fake = Fake::start(stage.path(), Script::pieces(&[progress, result]).after(delay));
    let line = format!("{} mesh start prod {mode}", env!("CARGO_BIN_EXE_ployzctl"));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("PLOYZ_SOCKET", &fake.socket).stdin(Stdio::null());
    let output = script.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

#[test]
fn progress_is_shown_on_a_terminal_when_it_takes_over_a_second() {
    let slow = on_a_terminal(Duration::from_millis(1500), "");
    assert_eq!(slow, "... waiting for ployzd\n... making wg0\nrunning\n");
    assert_eq!(on_a_terminal(Duration::ZERO, ""), "running\n");
    assert_eq!(on_a_terminal(Duration::from_millis(1500), "--quiet"), "");
    assert!(on_a_terminal(Duration::from_millis(1500), "--json").starts_with('{'));
}

#[test]
fn a_daemon_that_dies_in_between_leaves_a_way_on() {
    let progress = "{\"event\":\"progress\",\"message\":\"making wg0\"}\n";
    for script in [Script::pieces(&[progress]).hang_up(), Script::pieces(&[progress]), Script::pieces(&[])] {
        let run = once(script, &["mesh", "start", "prod"], "");
        assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
        assert!(
            run.err.starts_with("error: ployzd closed the connection before its response was complete\n"),
            "{}",
            run.err
        );
        assert!(run.err.contains("`ployzctl status` shows the current state"), "{}", run.err);
    }
}

#[test]
fn an_answer_of_another_kind_is_shown_and_explained() {
    let run = once(Script::pieces(&["not found"]).status(404), &["status"], "");
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    assert!(
        run.err.contains("404") && run.err.contains("not found") && run.err.contains("upgrade both"),
        "{}",
        run.err
    );
}

#[test]
fn a_payload_of_a_newer_daemon_is_passed_on() {
    let line = r#"{"event":"result","ok":true,"code":"OK","message":"three hens","payload":{"kind":"hens","count":3}}"#;
    assert_eq!(parts(&once(Script::pieces(&[line]), &["status"], "")), (Some(0), "three hens\n", ""));
    let json = once(Script::pieces(&[line]), &["--json", "status"], "");
    let envelope: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.code, &envelope["payload"]["count"]), (Some(0), &3.into()));
    let plain = r#"{"ok":false,"code":"NEW_CODE","message":"no hens"}"#;
    let run = once(Script::pieces(&[plain]).status(400), &["status"], "");
    assert_eq!(parts(&run), (Some(1), "", "error [NEW_CODE]: no hens\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let stage = Stage::new();
    let network =
        |n| NetworkSummary { name: format!("n{n}").parse().unwrap(), state: "stopped".into(), active: false };
    let networks = (0..20_000).map(network).collect();
    let fake = Fake::start(stage.path(), Script::payload(Payload::MeshList { networks }));
    for mode in ["--plain", "--json", "--socket"] {
        let socket = fake.socket.to_str().unwrap();
        let arguments = if mode == "--socket" { vec!["mesh", "list"] } else { vec!["mesh", "list", mode] };
        let mut child = stage.command(&arguments).env("PLOYZ_SOCKET", socket).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{mode}");
    }
}

#[test]
fn a_reader_that_goes_away_does_not_make_the_mesh_ready() {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::payload(not_ready()));
    let mut child = stage.command(&["mesh", "ready"]).env("PLOYZ_SOCKET", &fake.socket).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn help_into_a_closed_pipe_is_no_failure() {
    let mut child = Stage::new().command(&["--help"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_slow_daemon_is_waited_for() {
    let began = Instant::now();
    let run = once(Script::ok("done").after(Duration::from_millis(400)), &["mesh", "stop"], "");
    assert_eq!(parts(&run), (Some(0), "done\n", ""));
    assert!(began.elapsed() >= Duration::from_millis(400));
}
