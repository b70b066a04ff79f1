//! `ployz-front PROGRAM [ARGUMENT...]`: the main process of a unit whose successor is not to wait for it.
//!
//! It starts the program, passes on that it is ready, and ends as the program ends. Told to end itself it ends at once, and
//! the kernel tells the program (PR_SET_PDEATHSIG), which drains for as long as it likes (`KillMode=process`): the service
//! manager starts the next one meanwhile, on the same sockets. It also makes a killed front no reason to lose a connection.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let worker = arguments.first().is_some_and(|first| first == WORKER);
    let done = if worker { become_program(arguments.split_off(1)) } else { watch(&arguments) };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ployz-front: {error}");
            ExitCode::from(EXIT_CANNOT_START)
        }
    }
}

/// Starts the program and ends as it ends. SIGTERM has its default effect.
fn watch(command: &[OsString]) -> io::Result<ExitCode> {
    let mut program = Command::new("/proc/self/exe");
    program.arg(WORKER).arg(std::process::id().to_string()).args(command);
    // The sockets are inherited as they are; whose they are is said of this process (sd_listen_fds(3)).
    program.env_remove("LISTEN_PID");
    if let Some(manager) = std::env::var_os("NOTIFY_SOCKET") {
        let (path, heard) = notify_socket()?;
        program.env("NOTIFY_SOCKET", path);
        std::thread::spawn(move || pass_on(&heard, &manager));
    }
    let status = program.spawn()?.wait()?;
    let killed = status.signal().map(|signal| 128 + signal);
    Ok(status.code().or(killed).and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into())
}

/// The child's half: asks to be told when the front ends, then is the program.
fn become_program(mut command: Vec<OsString>) -> io::Result<ExitCode> {
    if command.len() < 2 {
        return Err(io::Error::other("no program is named"));
    }
    set_pdeathsig(Signal::SIGTERM)?;
    let front = command.remove(0);
    // It may have ended before the kernel was asked.
    if Pid::from_raw(front.to_str().and_then(|pid| pid.parse().ok()).unwrap_or(0)) != getppid() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Command::new(&command[0]).args(&command[1..]).exec())
}

/// A socket of our own for what the program says: the manager listens to its main process only, and a program that drains
/// must not say `STOPPING=1` for the one that follows it.
///
/// A path and not an abstract name, which the library of our programs does not speak (sd-notify 0.5). `PrivateTmp=` makes the
/// directory the unit's own.
fn notify_socket() -> io::Result<(PathBuf, UnixDatagram)> {
    let path = std::env::temp_dir().join(format!("ployz-front-{}", std::process::id()));
    // Of an earlier process with the same number.
    let _ = std::fs::remove_file(&path);
    let heard = UnixDatagram::bind(&path)?;
    Ok((path, heard))
}

fn pass_on(heard: &UnixDatagram, manager: &OsString) {
    let mut message = [0; 4096];
    let Ok(sender) = UnixDatagram::unbound() else { return };
    while let Ok(length) = heard.recv(&mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        let lines: Vec<&str> =
            text.lines().filter(|line| *line == "READY=1" || line.starts_with("STATUS=")).collect();
        if !lines.is_empty() {
            // A manager that cannot be notified starts another one in its own time.
            let _ = send(&sender, lines.join("\n").as_bytes(), manager);
        }
    }
}

fn send(socket: &UnixDatagram, message: &[u8], to: &OsString) -> io::Result<usize> {
    match to.to_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => socket.send_to_addr(message, &SocketAddr::from_abstract_name(name)?),
        None => socket.send_to(message, to),
    }
}

/// First argument of the child between fork and its program.
const WORKER: &str = "--worker";
/// As shells say that a program cannot be run.
const EXIT_CANNOT_START: u8 = 126;
