//! What can go wrong with Docker, told apart by what the caller can do about it.

use crate::engine::TooLong;
use std::io;
use std::time::Duration;

/// A failed operation on the engine.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// There is no engine: no socket, nobody behind it, or no answer to a ping.
    #[error("Docker is not available at {socket}: {detail}")]
    Unavailable {
        /// The socket.
        socket: String,
        /// What was seen.
        detail: String,
    },
    /// The engine did not answer in time. The operation may have been carried out all the same.
    #[error("cannot {operation} {subject}: Docker did not answer within {}s", limit.as_secs())]
    Late {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It is not there, or something that it needs is not.
    #[error("cannot {operation} {subject}: {detail}")]
    Missing {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// What is not there.
        detail: String,
    },
    /// It is not ours, so nothing was done to it.
    #[error("cannot {operation} {subject}: it is not ours: {why}")]
    Foreign {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// How that is known.
        why: String,
    },
    /// The engine was not asked: this text cannot be what it stands for, and would be another call.
    #[error("{text:?} is no {what}")]
    Refused {
        /// What was wanted.
        what: &'static str,
        /// As given, cut where it is long.
        text: String,
    },
    /// The engine refused, or the exchange broke off.
    #[error("cannot {operation} {subject}")]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// The engine's own words.
        #[source]
        source: bollard::errors::Error,
    },
    /// What the engine said cannot be used.
    #[error("cannot {operation} {subject}: {detail}")]
    Odd {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// What is odd.
        detail: String,
    },
}

/// Results of the engine.
pub type Result<T> = std::result::Result<T, DockerError>;

impl DockerError {
    /// From the engine's answer; 404 becomes [`Self::Missing`].
    pub(super) fn of(operation: &'static str, subject: &str, source: bollard::errors::Error) -> Self {
        let subject = subject.to_owned();
        match source {
            bollard::errors::Error::DockerResponseServerError { status_code: 404, message } => {
                Self::Missing { operation, subject, detail: message }
            }
            source if is_too_long(&source) => Self::Odd { operation, subject, detail: TooLong.to_string() },
            source => Self::Failed { operation, subject, source },
        }
    }

    /// Looked for and not there.
    pub(super) fn missing(operation: &'static str, subject: String) -> Self {
        Self::Missing { operation, subject, detail: "it is not there".to_owned() }
    }

    /// Whether nobody knows what the engine did, because it is not there, is silent or went away over it.
    pub fn is_away(&self) -> bool {
        use bollard::errors::Error as Source;
        match self {
            Self::Unavailable { .. } | Self::Late { .. } => true,
            Self::Failed { source, .. } => matches!(
                source,
                Source::RequestTimeoutError
                    | Source::IOError { .. }
                    | Source::HyperResponseError { .. }
                    | Source::HyperLegacyError { .. }
            ),
            _ => false,
        }
    }

    /// HTTP status of the engine's refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Failed { source, .. } => status(source),
            Self::Missing { .. } => Some(404),
            _ => None,
        }
    }
}

/// Whether the exchange was ended here because there was no end to the answer.
fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = ployz_core::text::causes(error);
    causes.any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<TooLong>())
    })
}

fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_in_the_engines_words() {
        let message = "network ployz0 not found".to_owned();
        let source = bollard::errors::Error::DockerResponseServerError { status_code: 404, message };
        let error = DockerError::of("start container", "prod.web-a", source);
        assert_eq!(error.to_string(), "cannot start container prod.web-a: network ployz0 not found");
        assert_eq!(error.status(), Some(404));
    }
}
