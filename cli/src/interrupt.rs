//! Ctrl-C while ployzd changes something: ployzd goes on with it, so it says that, and how to see its end. A
//! deploy that is not committed is undone by a second Ctrl-C.

use crate::client::{self, Answer};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::text::clean;
use crate::request;
use ployz_core::id::DeployId;
use ployz_core::wire::v1::api::Request;
use ployz_core::wire::v1::api_deploy::{DeployAttachRequest, DeployMark};
use std::io::{self, Write};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// What ended the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// SIGINT.
    CtrlC,
    /// SIGTERM.
    Terminate,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    /// As a shell gives it: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::CtrlC => 130,
            Self::Terminate => 143,
        }
    }
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Interruption {
        // Cancel-safe: a signal that came meanwhile is received by the next call.
        tokio::select! {
            _ = self.interrupt.recv() => Interruption::CtrlC,
            _ = self.terminate.recv() => Interruption::Terminate,
        }
    }
}

/// [`client::call`] that says what becomes of a change when it is interrupted.
pub(crate) async fn call(
    socket: &Path,
    request: &Request,
    progress: &mut Progress,
) -> Result<Answer, Failure> {
    if !request::changes(request) {
        return client::call(socket, request, progress).await;
    }
    let mut signals = Signals::listen()?;
    let deploy = progress.deploy();
    let (first, id) = {
        let mut call = pin!(client::call(socket, request, progress));
        // Cancel-safe: the call is pinned, and ployzd goes on whether it is read or not.
        let first = tokio::select! {
            answer = &mut call => return answer,
            signal = signals.next() => signal,
        };
        let known = deploy.borrow().clone();
        say(&notice(known.as_ref(), first));
        let Some(id) = undoable(known, first) else { return Err(Failure::Interrupted(first)) };
        tokio::select! {
            answer = &mut call => return answer,
            signal = signals.next() => (signal, id),
            () = sleep(SECOND_INTERRUPT_TIMEOUT) => return Err(Failure::Interrupted(first)),
        }
    };
    if first == Interruption::Terminate {
        return Err(Failure::Interrupted(first));
    }
    undo(socket, id, progress, &mut signals).await
}

async fn undo(
    socket: &Path,
    id: DeployId,
    progress: &mut Progress,
    signals: &mut Signals,
) -> Result<Answer, Failure> {
    say(&format!("undoing deploy {id}"));
    let request = Request::DeployAttach(DeployAttachRequest { deploy: Some(id), abort: true });
    // Cancel-safe: what was asked for is done by ployzd.
    let answer = tokio::select! {
        answer = client::call(socket, &request, progress) => answer?,
        signal = signals.next() => {
            say("ployzd continues to undo it");
            return Err(Failure::Interrupted(signal));
        }
    };
    if answer.envelope.ok {
        say(&clean(&answer.envelope.message));
        return Err(Failure::Interrupted(Interruption::CtrlC));
    }
    Ok(answer)
}

/// The deploy that a second Ctrl-C undoes.
fn undoable(known: Option<DeployMark>, signal: Interruption) -> Option<DeployId> {
    known.filter(|deploy| !deploy.committed && signal == Interruption::CtrlC).map(|deploy| deploy.id)
}

fn notice(known: Option<&DeployMark>, signal: Interruption) -> String {
    let Some(DeployMark { id, namespace, committed }) = known else {
        return "ployzd continues with this; `ployzctl status` and `journalctl -u ployzd` show the outcome"
            .into();
    };
    let follow = format!("`ployzctl deploy attach {id}` or the same command again shows it");
    if *committed {
        return format!(
            "deploy {id} of namespace {namespace} is committed and cannot be undone; it continues: {follow}"
        );
    }
    let undo = match signal {
        Interruption::CtrlC => {
            format!("Ctrl-C again within {}s undoes it", SECOND_INTERRUPT_TIMEOUT.as_secs())
        }
        Interruption::Terminate => format!("`ployzctl deploy attach {id} --abort` undoes it"),
    };
    format!("deploy {id} of namespace {namespace} continues: {follow}\n{undo}")
}

/// Whatever the mode and wherever it goes: the operator must know what is still under way.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// For how long a second Ctrl-C is waited for.
const SECOND_INTERRUPT_TIMEOUT: Duration = Duration::from_secs(5);
