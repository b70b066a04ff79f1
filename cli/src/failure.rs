//! Everything that can go wrong for `ployzctl`, what it prints and the exit code it gives.
//!
//! The form is the same for all: `error [CODE]: message`, one `caused by:` line a cause, a `hint:` line.

use crate::interrupt::Interruption;
use ployz_core::wire::v1::api::{Envelope, ErrorCode};
use ployz_core::wire::v1::manifest::BadManifest;
use std::io::{self, Write};
use std::path::PathBuf;

/// A failed run.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The line cannot be right.
    Usage(String),
    /// The configuration cannot be used.
    Config {
        /// Why.
        cause: String,
    },
    /// The manifest is refused.
    Manifest(Box<BadManifest>),
    /// Nobody answers at the socket.
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The daemon hung up before its answer was complete.
    BrokenOff {
        /// The socket.
        socket: PathBuf,
        /// What the HTTP client saw.
        cause: String,
    },
    /// The answer is not of this contract.
    Unintelligible {
        /// What came instead.
        cause: String,
    },
    /// The daemon answered with a failure.
    Refused(Box<Envelope>),
    /// A signal ended the command; what is still under way was said when it came.
    Interrupted(Interruption),
    /// The output cannot be written; the reader having gone away is no failure.
    Output(io::Error),
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config { .. } | Self::Manifest(_) => 2,
            Self::Unreachable { .. } | Self::BrokenOff { .. } | Self::Unintelligible { .. } => 1,
            Self::Refused(_) => 1,
            Self::Interrupted(signal) => signal.exit_code(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => 1,
        }
    }

    /// What `--json` prints when ployzd was not or could not be asked; `None` for what has no code.
    pub(crate) fn envelope(&self) -> Option<Envelope> {
        if let Self::Manifest(bad) = self {
            return Some(Envelope::error(ErrorCode::ManifestInvalid, REFUSED, vec![bad.to_string()]));
        }
        let Unasked { message, cause, hint } = self.unasked()?;
        let envelope = Envelope::error(ErrorCode::DaemonUnreachable, message, vec![cause]);
        Some(Envelope { hint: Some(hint), ..envelope })
    }

    /// What there is to say when ployzd gave no answer, or none that can be read.
    fn unasked(&self) -> Option<Unasked> {
        let (message, cause, hint) = match self {
            Self::Unreachable { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                ("cannot reach ployzd", cause.to_string(), JOIN_THE_GROUP.to_owned())
            }
            Self::Unreachable { socket, cause } => {
                let socket = socket.display();
                let hint = format!("is ployzd running? (socket: {socket}); systemctl status ployzd");
                ("cannot reach ployzd", cause.to_string(), hint)
            }
            Self::BrokenOff { socket, cause } => {
                let hint = format!(
                    "ployzd may have been restarted (socket: {}); `ployzctl status` shows the current \
                     state, `ployzctl service ls` how far a deploy came",
                    socket.display()
                );
                ("ployzd closed the connection before its response was complete", cause.clone(), hint)
            }
            Self::Unintelligible { cause } => {
                let hint = "ployzctl and ployzd differ in version: upgrade both".to_owned();
                ("invalid response from ployzd", cause.clone(), hint)
            }
            _ => return None,
        };
        Some(Unasked { message, cause, hint })
    }

    /// The whole text; empty when there is nothing to say.
    pub(crate) fn text(&self) -> String {
        if let Some(Unasked { message, cause, hint }) = self.unasked() {
            return paragraph("", message, &[cause], Some(&hint));
        }
        match self {
            Self::Usage(what) => paragraph("", what, &[], Some("`--help` shows how each command is used")),
            Self::Config { cause } => {
                let hint =
                    "correct the file, or name the socket with --socket; `ployzd check-config` shows more";
                paragraph("", "the configuration cannot be used", std::slice::from_ref(cause), Some(hint))
            }
            Self::Manifest(bad) => {
                let code = ErrorCode::ManifestInvalid;
                paragraph(&format!(" [{code}]"), REFUSED, &[bad.to_string()], Some(code.hint()))
            }
            Self::Refused(envelope) => {
                let code = format!(" [{}]", envelope.code);
                paragraph(&code, &envelope.message, &envelope.causes, envelope.hint.as_deref())
            }
            // Said above, or when it came.
            Self::Interrupted(_) => String::new(),
            Self::Unreachable { .. } | Self::BrokenOff { .. } | Self::Unintelligible { .. } => String::new(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => String::new(),
            Self::Output(error) => paragraph("", "cannot write the output", &[error.to_string()], None),
        }
    }

    /// Writes the text to standard error. A closed standard error is nobody's loss.
    pub(crate) fn print(&self) {
        let _ = io::stderr().lock().write_all(self.text().as_bytes());
    }
}

/// Of a call without an answer.
struct Unasked {
    message: &'static str,
    cause: String,
    hint: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn paragraph(code: &str, message: &str, causes: &[String], hint: Option<&str>) -> String {
    use crate::render::text::clean;
    let mut text = format!("error{}: {}\n", clean(code), clean(message));
    for cause in causes {
        text += &format!("  caused by: {}\n", clean(cause));
    }
    if let Some(hint) = hint {
        text += &format!("  hint: {}\n", clean(hint));
    }
    text
}

const REFUSED: &str = "the manifest is invalid; nothing was sent to ployzd";
const JOIN_THE_GROUP: &str =
    "add yourself to the group ployz: sudo usermod -aG ployz $USER, then log in again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_door_says_how_to_get_the_key() {
        let cause = io::Error::from_raw_os_error(13);
        let failure = Failure::Unreachable { socket: "/run/ployz/ployzd.sock".into(), cause };
        let want = "error: cannot reach ployzd\n  caused by: Permission denied (os error 13)\n  \
            hint: add yourself to the group ployz: sudo usermod -aG ployz $USER, then log in again\n";
        assert_eq!((failure.text().as_str(), failure.exit_code()), (want, 1));
    }

    #[test]
    fn scripts_read_the_same_as_people() {
        let cause = "unexpected EOF".to_owned();
        let failure = Failure::BrokenOff { socket: "/run/ployz/ployzd.sock".into(), cause };
        let envelope = failure.envelope().expect("it has one");
        assert_eq!(envelope.message, "ployzd closed the connection before its response was complete");
        let hint = envelope.hint.expect("it has one");
        assert!(hint.contains("how far a deploy came") && failure.text().contains(&hint), "{hint}");
    }

    #[test]
    fn a_reader_that_went_away_is_success_without_a_word() {
        let failure = Failure::Output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.text().as_str(), failure.exit_code()), ("", 0));
    }
}
