//! `doctor` in every mode, with a daemon and without one.

use crate::fake::Script;
use crate::rendering::session;
use crate::stage::{Run, Stage, once};
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Payload};
use ployz_core::wire::v1::doctor::{Check, Doctor};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn healthy() -> Doctor {
    let checks = vec![
        Check::ok("daemon", "ployzd 0.1.0 runs (pid 812)"),
        Check::warn("clock n2", "+5 s against this machine", "synchronise the clocks"),
    ];
    Doctor { daemon_answers: true, checks }
}

fn ill() -> Doctor {
    let mut found = healthy();
    found.checks.push(Check::fail(
        "gateway-port",
        "0.0.0.0:80 is already in use by nginx (pid 7)",
        "stop it, or set gateway_listen_addr",
    ));
    found
}

#[test]
fn findings_are_shown_in_every_mode() {
    session("doctor.txt", "doctor", Payload::Doctor(ill()));
}

#[test]
fn only_a_failed_check_is_an_exit_code() {
    for mode in [&[][..], &["--json"], &["--plain"], &["-q"]] {
        let arguments = [&["doctor"], mode].concat();
        assert_eq!(
            once(Script::payload(Payload::Doctor(healthy())), &arguments, "").code,
            Some(0),
            "{mode:?}"
        );
        assert_eq!(once(Script::payload(Payload::Doctor(ill())), &arguments, "").code, Some(1), "{mode:?}");
    }
}

#[test]
fn without_a_daemon_its_program_looks_around() {
    let stage = Stage::new();
    let found = Envelope::ok("3 checks", Some(Payload::Doctor(Doctor { daemon_answers: false, ..ill() })));
    program(
        stage.path(),
        &format!("[ \"$*\" = doctor ] && echo '{}'", serde_json::to_string(&found).unwrap()),
    );
    let run = without_daemon(&stage, &["doctor", "--json"]);
    assert_eq!((run.code, run.err.as_str()), (Some(1), ""), "{run:?}");
    let said: Envelope = serde_json::from_str(&run.out).unwrap();
    assert_eq!(said, found);
}

#[test]
fn a_configuration_that_is_refused_is_looked_at_with_it() {
    let stage = Stage::new();
    let config = stage.path().join("config.toml");
    std::fs::write(&config, "nonsense = 1\n").unwrap();
    let found = Envelope::ok("2 checks", Some(Payload::Doctor(healthy())));
    let body =
        format!("[ \"$1 $3\" = '--config doctor' ] && echo '{}'", serde_json::to_string(&found).unwrap());
    program(stage.path(), &body);
    let run = without_daemon(&stage, &["doctor", "--plain", "--config", config.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn without_either_the_daemon_is_what_is_missed() {
    let stage = Stage::new();
    let run = without_daemon(&stage, &["doctor", "--json"]);
    assert!(run.code == Some(1) && run.err.starts_with("error: cannot reach ployzd"), "{run:?}");
    let said: Envelope = serde_json::from_str(&run.out).unwrap();
    assert_eq!(said.code, ErrorCode::DaemonUnreachable.as_str());
}

/// Whatever is called ployzd on this machine is not asked.
fn without_daemon(stage: &Stage, arguments: &[&str]) -> Run {
    let mut command = stage.command(arguments);
    if !arguments.contains(&"--config") {
        command.env("PLOYZ_SOCKET", stage.path().join("none.sock"));
    }
    command.env("PATH", stage.path());
    crate::stage::finish(command, "")
}

fn program(dir: &Path, body: &str) {
    let path = dir.join("ployzd");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
