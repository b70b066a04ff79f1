//! Why an operation on a unit failed, with its cause as a value: callers match on it and never on its words.

use ployz_core::spec::UnitName;
use std::time::Duration;

/// A failed operation on a unit; the cause is its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {unit}")]
pub struct UnitError {
    /// What was being done.
    pub operation: &'static str,
    /// To which unit.
    pub unit: UnitName,
    /// Why not.
    #[source]
    pub cause: UnitCause,
}

/// What kept it.
#[derive(Debug, thiserror::Error)]
pub enum UnitCause {
    /// systemd knows no unit of this name.
    #[error("there is no such unit")]
    NoSuchUnit,
    /// systemd refused, or could not be asked. Its own text has its cause in it, so it ends the chain.
    #[error("{0}")]
    Bus(Box<dyn std::error::Error + Send + Sync>),
    /// The manager ended the job with another result than `done`.
    #[error("the job ended with {result}; see journalctl -u {unit}")]
    Job {
        /// systemd's word, for example `failed` or `dependency`.
        result: String,
        /// Whose journal says more.
        unit: UnitName,
    },
    /// It took longer than it may.
    #[error("timed out after {}s", .0.as_secs())]
    TimedOut(Duration),
    /// What is there is not what the operation is for.
    #[error("{0}")]
    Standing(String),
    /// A file of the unit.
    #[error(transparent)]
    File(Box<crate::state::DiskError>),
    /// A system call.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Its namespace.
    #[error(transparent)]
    Netns(Box<ployz_netns::Error>),
    /// Anything else, as a sentence.
    #[error("{0}")]
    Other(String),
}

impl UnitError {
    /// Of this operation on this unit.
    pub fn new(operation: &'static str, unit: &UnitName, cause: impl Into<UnitCause>) -> Self {
        Self { operation, unit: unit.clone(), cause: cause.into() }
    }
}

impl From<crate::state::DiskError> for UnitCause {
    fn from(error: crate::state::DiskError) -> Self {
        Self::File(Box::new(error))
    }
}

impl From<ployz_netns::Error> for UnitCause {
    fn from(error: ployz_netns::Error) -> Self {
        Self::Netns(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_chain_has_operation_unit_and_cause_once() {
        let error = UnitError::new("stop", &UnitName::NATS, UnitCause::TimedOut(Duration::from_secs(60)));
        assert_eq!(ployz_core::text::chain(&error), "cannot stop ployz-nats: timed out after 60s");
    }
}
