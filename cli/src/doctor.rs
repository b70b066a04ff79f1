//! `doctor` asks ployzd like any other command; when nobody answers, `ployzd doctor` looks at the machine by itself.

use crate::args::Global;
use crate::client::{self, Answer};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::socket;
use ployz_core::wire::v1::api::Request;
use std::io;
use std::time::Duration;
use tokio::process::Command;

/// The daemon's findings, or those of its program.
pub(crate) async fn ask(global: &Global, progress: &mut Progress) -> Result<Answer, Failure> {
    // A configuration that is refused is what the operator wants to hear about here; a ployzd that was started with an
    // earlier one is most likely at the usual place.
    let (socket, refused) = match socket::find(global) {
        Ok(socket) => (socket, None),
        Err(failure @ Failure::Config { .. }) => (socket::usual(), Some(failure)),
        Err(failure) => return Err(failure),
    };
    let call = client::call(&socket, &Request::Doctor, progress);
    let away = match tokio::time::timeout(DOCTOR_TIMEOUT, call).await {
        Ok(Err(away)) if is_away(&away) => away,
        Ok(answer) => return answer,
        Err(_) => {
            let cause = io::Error::new(io::ErrorKind::TimedOut, "timed out");
            Failure::Unreachable { socket, cause }
        }
    };
    alone(global, refused.unwrap_or(away)).await
}

/// Whoever may not talk to a daemon that runs would see even less without it.
fn is_away(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { cause, .. } => cause.kind() != io::ErrorKind::PermissionDenied,
        Failure::BrokenOff { .. } => true,
        _ => false,
    }
}

/// `failure` is what is said when the program cannot be had either.
async fn alone(global: &Global, failure: Failure) -> Result<Answer, Failure> {
    let mut command = Command::new("ployzd");
    if let Some(config) = &global.config {
        command.arg("--config").arg(config);
    }
    let run = command.arg("doctor").kill_on_drop(true).output();
    let Ok(Ok(output)) = tokio::time::timeout(DOCTOR_TIMEOUT, run).await else { return Err(failure) };
    match serde_json::from_slice(&output.stdout) {
        Ok(envelope) => Ok(Answer { envelope, foreign: None }),
        Err(_) => Err(failure),
    }
}

/// Every check has a deadline of a few seconds of its own.
const DOCTOR_TIMEOUT: Duration = Duration::from_secs(30);
