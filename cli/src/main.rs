//! `ployzctl`: arguments to a request, over the daemon's socket, and the answer to text. It decides nothing itself.

mod args;
mod client;
mod complete;
mod doctor;
mod failure;
mod follow;
mod generate;
mod interrupt;
mod progress;
mod render;
mod request;
mod socket;

use args::{Cli, Global};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use client::Answer;
use failure::Failure;
use ployz_core::wire::v1::api::{Payload, Request};
use ployz_core::wire::v1::doctor::Level;
use progress::Progress;
use render::Mode;
use request::Task;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    complete::answer_shell();
    let cli = Cli::parse();
    if cli.global.json && cli.global.plain {
        // clap compares flags of one level only: `ployzctl --json status --plain` gets past it.
        let what = "the argument '--json' cannot be used with '--plain'";
        Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
    }
    let json = cli.global.json;
    run(cli).unwrap_or_else(|failure| {
        if let (true, Some(envelope)) = (json, failure.envelope()) {
            // A reader that went away is told by the exit code alone.
            let _ = render::write_envelope(&envelope, &mut io::stdout().lock());
        }
        failure.print();
        ExitCode::from(failure.exit_code())
    })
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match Task::of(cli.command, &mut io::stdin().lock())? {
        Task::Call(request) => call(&cli.global, &request),
        Task::Doctor => finish(&cli.global, &Request::Doctor, |progress| {
            runtime()?.block_on(doctor::ask(&cli.global, progress))
        }),
        Task::Follow(request) => {
            let socket = socket::find(&cli.global)?;
            match runtime()?.block_on(follow::follow(&socket, request, mode(&cli.global)))? {}
        }
        Task::Completions(shell) => {
            let mut out = io::stdout().lock();
            complete::write_script(shell, &mut out)?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Generate(dir) => {
            generate::write_all(&dir)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn call(global: &Global, request: &Request) -> Result<ExitCode, Failure> {
    let socket = socket::find(global)?;
    finish(global, request, |progress| runtime()?.block_on(interrupt::call(&socket, request, progress)))
}

/// Gets the answer, writes it and finds the exit code.
fn finish(
    global: &Global,
    request: &Request,
    ask: impl FnOnce(&mut Progress) -> Result<Answer, Failure>,
) -> Result<ExitCode, Failure> {
    let progress = Progress::on_terminal(!global.quiet && !global.json);
    let mut progress = match request {
        // What was said before is what is asked for.
        Request::DeployAttach(_) => progress.at_once(),
        _ => progress,
    };
    let answer = ask(&mut progress)?;
    let written = write(global, request, &answer);
    if !answer.envelope.ok {
        return Err(Failure::Refused(Box::new(answer.envelope)));
    }
    let code = verdict(&answer);
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        written => written.map(|()| code).map_err(Failure::Output),
    }
}

/// `--json` writes failures too: a script wants to see the code. Everything else writes successes only.
fn write(global: &Global, request: &Request, answer: &Answer) -> io::Result<()> {
    let mode = mode(global);
    if !answer.envelope.ok && !global.quiet && mode == Mode::Human {
        return render::write_steps(answer, &mut io::stderr().lock());
    }
    if (answer.envelope.ok && global.quiet) || (!answer.envelope.ok && mode != Mode::Json) {
        return Ok(());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    render::write(mode, request::changes(request), answer, &mut out, &mut io::stderr().lock())?;
    out.flush()
}

fn mode(global: &Global) -> Mode {
    match (global.json, global.plain) {
        (true, _) => Mode::Json,
        (_, true) => Mode::Plain,
        _ => Mode::Human,
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn verdict(answer: &Answer) -> ExitCode {
    match &answer.envelope.payload {
        Some(Payload::MeshReady(ready)) if !ready.ready => ExitCode::FAILURE,
        Some(Payload::Doctor(found)) if found.worst() == Level::Fail => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
