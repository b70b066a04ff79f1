//! What the shell's completion gets, asked the way the scripts ask, and the scripts themselves in a real bash.

use crate::fake::{Fake, Script};
use crate::stage::Stage;
use ployz_core::wire::v1::api::{NetworkSummary, Payload};
use std::process::Command;
use std::time::{Duration, Instant};

fn networks() -> Payload {
    let network =
        |name: &str| NetworkSummary { name: name.parse().unwrap(), state: "stopped".into(), active: false };
    Payload::MeshList { networks: vec![network("prod"), network("preview"), network("staging")] }
}

pub(crate) fn complete(stage: &Stage, socket: &str, words: &[&str]) -> String {
    let arguments = [&["--", "ployzctl"], words].concat();
    let mut command = stage.command(&arguments);
    command.env("PLOYZ_COMPLETE", "bash").env("PLOYZ_SOCKET", socket).env("_CLAP_IFS", "\n");
    let output = command.env("_CLAP_COMPLETE_INDEX", words.len().to_string()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn names_of_networks_are_live() {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::payload(networks()));
    let socket = fake.socket.to_str().unwrap();
    for verb in ["status", "start", "init", "destroy"] {
        assert_eq!(complete(&stage, socket, &["mesh", verb, "pr"]), "prod\npreview");
    }
    assert_eq!(complete(&stage, socket, &["explain", "n"]), "netns\nnats");
}

#[test]
fn names_of_namespaces_and_services_are_live() {
    let stage = Stage::new();
    let list = crate::services::list(&[("shop", "web"), ("shop", "worker"), ("site", "web")]);
    let fake = Fake::start(stage.path(), Script::payload(list));
    let socket = fake.socket.to_str().unwrap();
    for verb in ["inspect", "logs", "rm"] {
        assert_eq!(complete(&stage, socket, &["service", verb, "shop/"]), "shop/web\nshop/worker");
    }
    assert_eq!(complete(&stage, socket, &["service", "ls", "--namespace", "s"]), "shop\nsite");
    assert_eq!(complete(&stage, socket, &["deploy", "service", "w"]), "web\nworker");
    assert_eq!(complete(&stage, socket, &["deploy", "service", "web", "--namespace", "si"]), "site");
}

#[test]
fn a_daemon_that_is_away_or_slow_gives_nothing_soon() {
    let stage = Stage::new();
    assert_eq!(complete(&stage, "/nonexistent", &["mesh", "status", "pr"]), "");
    let _fake = Fake::start(stage.path(), Script::payload(networks()).after(Duration::from_secs(20)));
    let began = Instant::now();
    let socket = stage.path().join("ployzd.sock");
    assert_eq!(complete(&stage, socket.to_str().unwrap(), &["mesh", "status", "pr"]), "");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn hidden_commands_and_the_stray_token_are_not_offered() {
    let stage = Stage::new();
    let first = complete(&stage, "/nonexistent", &[""]);
    assert!(first.contains("mesh") && !first.contains("__generate"), "{first}");
}

#[test]
fn the_bash_script_completes_in_bash() {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::payload(networks()));
    let script = stage.run(&["completions", "bash"], "").out;
    let probe = "COMP_WORDS=(ployzctl mesh start pr); COMP_CWORD=3; COMP_TYPE=9
        _clap_complete_ployzctl ployzctl pr start; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_ployzctl"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("{script}\n{probe}")]).env("PATH", path).env("PLOYZ_SOCKET", &fake.socket);
    let output = bash.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "prod\npreview\n", "{:?}", output.stderr);
}
