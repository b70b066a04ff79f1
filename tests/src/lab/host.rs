//! Programs of the build machine: start one, collect what it prints, and never wait for it without an end.
//!
//! Output is read by threads into memory, so a child that leaves a process behind with an open pipe does not hold us.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 128 + N for a process that died of signal N.
    pub code: i32,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
    pub(crate) raw: Vec<u8>,
}

impl Output {
    /// Whether the command exited with 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// Everything, for a message: the code, standard output, standard error.
    pub fn describe(&self) -> String {
        let mut text = format!("exit code {}", self.code);
        for (name, part) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !part.trim().is_empty() {
                text.push_str(&format!("\n--- {name}\n{}", part.trim_end()));
            }
        }
        text
    }
}

/// What a child reads from standard input.
pub(crate) enum Input {
    /// End of file at once.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// This file.
    File(File),
}

/// A child in its own process group, with its output so far.
pub(crate) struct Running {
    child: Child,
    out: Stream,
    err: Stream,
}

impl Running {
    pub(crate) fn start(command: &mut Command, input: Input) -> Result<Self> {
        let (stdin, bytes) = match input {
            Input::Nothing => (Stdio::null(), None),
            Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
            Input::File(file) => (Stdio::from(file), None),
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        if let (Some(bytes), Some(mut pipe)) = (bytes, child.stdin.take()) {
            // A child that stops reading early shows in its exit code.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let out = Stream::read(child.stdout.take());
        let err = Stream::read(child.stderr.take());
        Ok(Self { child, out, err })
    }

    /// Waits for the end; after `limit` kills the whole process group and fails with what was printed.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Output> {
        match self.wait(limit)? {
            Some(status) => Ok(self.output(status)),
            None => {
                self.kill(Signal::SIGKILL);
                let output = self.output(ExitStatus::from_raw(9));
                bail!("did not end within {limit:.1?}: {}", output.describe())
            }
        }
    }

    /// The exit status, or `None` when the child still runs after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait().context("wait for a child")? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_millis(15));
        }
    }

    pub(crate) fn output(&self, status: ExitStatus) -> Output {
        self.out.settle();
        self.err.settle();
        let raw = self.out.bytes();
        Output {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&raw).into_owned(),
            stderr: String::from_utf8_lossy(&self.err.bytes()).into_owned(),
            raw,
        }
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out.bytes()).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.err.bytes()).into_owned()
    }

    /// Signals the process group; for SIGKILL also reaps the child.
    pub(crate) fn kill(&mut self, signal: Signal) {
        // Fails only when the group is gone already.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
        if signal == Signal::SIGKILL {
            let _ = self.child.wait();
        }
    }
}

/// Runs a host program to its end and returns its standard output; a failure carries everything it printed.
pub(crate) fn sh(command: &mut Command) -> Result<String> {
    sh_for(HOST_LIMIT, command)
}

/// [`sh`] with a limit of its own.
pub(crate) fn sh_for(limit: Duration, command: &mut Command) -> Result<String> {
    let what = show(command);
    let output = Running::start(command, Input::Nothing)?.finish(limit).with_context(|| what.clone())?;
    if !output.ok() {
        bail!("{what}: {}", output.describe());
    }
    Ok(output.stdout)
}

/// A command line for a message.
pub(crate) fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// One word of a shell command, whatever it contains.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Buffer>>);

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn read(pipe: Option<impl Read + Send + 'static>) -> Self {
        let stream = Self::default();
        let (sink, Some(mut pipe)) = (stream.clone(), pipe) else { return stream };
        thread::spawn(move || {
            let mut chunk = vec![0; 16 * 1024];
            while let Ok(n) = pipe.read(&mut chunk) {
                if n == 0 {
                    break;
                }
                sink.with(|buffer| buffer.bytes.extend_from_slice(&chunk[..n]));
            }
            sink.with(|buffer| buffer.ended = true);
        });
        stream
    }

    fn with<T>(&self, f: impl FnOnce(&mut Buffer) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn bytes(&self) -> Vec<u8> {
        self.with(|buffer| buffer.bytes.clone())
    }

    /// Gives the reader a moment to reach the end; a process left behind may keep the pipe open for ever.
    fn settle(&self) {
        let end = Instant::now() + Duration::from_millis(500);
        while !self.with(|buffer| buffer.ended) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

const HOST_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn bash(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn output_keeps_both_streams_and_the_code() {
        let output = Running::start(&mut bash("cat; echo err >&2; exit 3"), Input::Bytes(b"in".to_vec()))
            .unwrap()
            .finish(Duration::from_secs(10))
            .unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "in", "err\n"));
    }

    #[test]
    fn overdue_child_is_killed_and_what_it_said_is_told() {
        let error = Running::start(&mut bash("echo so far; sleep 60"), Input::Nothing)
            .unwrap()
            .finish(Duration::from_millis(300))
            .unwrap_err();
        assert!(format!("{error:#}").contains("so far"), "{error:#}");
    }

    #[test]
    fn process_left_behind_does_not_hold_the_caller() {
        let start = Instant::now();
        let output = Running::start(&mut bash("sleep 20 & echo done"), Input::Nothing)
            .unwrap()
            .finish(Duration::from_secs(10))
            .unwrap();
        assert_eq!(output.stdout, "done\n");
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn quoted_word_survives_the_shell() {
        let word = "it's $HOME \"x\"";
        assert_eq!(sh(&mut bash(&format!("printf %s {}", quote(word)))).unwrap(), word);
    }
}
