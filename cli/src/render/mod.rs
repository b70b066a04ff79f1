//! An answer as text: for people, for scripts, or as JSON. Nothing here knows how the answer was got.

mod human;
mod json;
pub(crate) mod logs;
mod plain;
pub(crate) mod text;

pub(crate) use json::write_envelope;

use crate::client::Answer;
use ployz_core::wire::v1::api::Payload;
use std::io::{self, Write};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Labels, tables, units.
    Human,
    /// `key: value` lines and tab-separated rows; numbers without units.
    Plain,
    /// The whole envelope.
    Json,
}

/// Writes what a failed operation had done, for people; the error itself is the failure's.
pub(crate) fn write_steps(answer: &Answer, notes: &mut dyn Write) -> io::Result<()> {
    answer.envelope.payload.as_ref().map_or(Ok(()), |payload| human::steps(payload, notes))
}

/// Writes the answer to `out`; what only explains it goes to `notes`. `changes`: something was done, so say so first.
pub(crate) fn write(
    mode: Mode,
    changes: bool,
    answer: &Answer,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> io::Result<()> {
    match mode {
        Mode::Json => json::write(answer, out),
        Mode::Plain => match &answer.envelope.payload {
            Some(payload) => {
                // No row of its own: every row is a line of the log.
                if let Payload::ServiceLogs(found) = payload {
                    notes.write_all(logs::missing(&found.missing).as_bytes())?;
                }
                // The token must be alone on standard output.
                if let Payload::MachineInviteCreate { warnings, .. } = payload {
                    let mut lines = warnings.iter();
                    lines.try_for_each(|line| writeln!(notes, "warning: {}", text::clean(line)))?;
                }
                plain::write(payload, out)
            }
            None => writeln!(out, "{}", text::clean(&answer.envelope.message)),
        },
        Mode::Human => {
            let payload = answer.envelope.payload.as_ref();
            if changes || payload.is_none() {
                let line = text::clean(&answer.envelope.message);
                // A token must be alone on standard output.
                match payload {
                    Some(Payload::MachineInviteCreate { .. }) => writeln!(notes, "{line}")?,
                    _ => writeln!(out, "{line}")?,
                }
            }
            payload.map_or(Ok(()), |payload| human::write(payload, out, notes))
        }
    }
}
