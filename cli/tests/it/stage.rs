//! Where a test plays: a directory of its own, a way to run `ployzctl` in it, and the golden texts.

use crate::fake::{Fake, Script};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of one test, removed with it.
pub(crate) struct Stage(PathBuf);

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Stage {
    /// A new, empty one. Short, because a socket's path has at most 107 bytes.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ployzctl-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// `ployzctl` with these arguments, in an environment that is the same everywhere.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ployzctl"));
        command.args(arguments).env_clear().env("HOME", &self.0).env("COLUMNS", "100").env("NO_COLOR", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it with this standard input and without a daemon.
    pub(crate) fn run(&self, arguments: &[&str], stdin: &str) -> Run {
        finish(self.command(arguments), stdin)
    }

    /// Runs it against a daemon.
    pub(crate) fn run_with(&self, fake: &Fake, arguments: &[&str], stdin: &str) -> Run {
        let mut command = self.command(arguments);
        command.env("PLOYZ_SOCKET", &fake.socket);
        finish(command, stdin)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `ployzctl` once against a daemon with this script.
pub(crate) fn once(script: Script, arguments: &[&str], stdin: &str) -> Run {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), script);
    stage.run_with(&fake, arguments, stdin)
}

/// Runs `ployzctl` once and gives the request the daemon saw.
pub(crate) fn request(arguments: &[&str], stdin: &str) -> serde_json::Value {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::ok("done"));
    let run = stage.run_with(&fake, arguments, stdin);
    assert_eq!(run.code, Some(0), "{run:?}");
    let asked = fake.asked();
    assert_eq!(asked.len(), 1);
    asked[0].clone()
}

/// Compares with `tests/golden/<name>`, or writes it when `PLOYZ_BLESS` is set.
pub(crate) fn golden(name: &str, text: &str) {
    same_as(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name), text);
}

/// Compares with a file of the project, or writes it when `PLOYZ_BLESS` is set.
pub(crate) fn same_as(path: &Path, text: &str) {
    if std::env::var_os("PLOYZ_BLESS").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(path).unwrap_or_default();
    let hint = "if the change is meant: PLOYZ_BLESS=1 cargo test -p ployzctl";
    assert_eq!(text, wanted, "{} differs; {hint}", path.display());
}

pub(crate) fn finish(mut command: Command, stdin: &str) -> Run {
    let mut child = command.spawn().unwrap();
    // A run that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
