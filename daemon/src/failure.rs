//! An error as an operator sees it: a stable code, what failed, why, and what to do.

use ployz_core::wire::v1::api::{Asked, Envelope, ErrorCode, Payload};
use std::io;

/// A refused or failed request.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable code.
    pub code: ErrorCode,
    /// What failed.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do, when there is something better to say than the code's own hint.
    pub hint: Option<String>,
    /// Whether what was asked for may have happened all the same.
    pub unknown: bool,
    /// How far it came, where that is more than a sentence.
    pub payload: Option<Box<Payload>>,
}

/// Result of a request.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// With a code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), hint: None, unknown: false, payload: None }
    }

    /// With the chain of an error as causes.
    pub fn because(code: ErrorCode, message: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let inner = std::iter::successors(error.source(), |cause| cause.source());
        let causes = std::iter::once(error.to_string()).chain(inner.map(ToString::to_string)).collect();
        Self { causes, ..Self::new(code, message) }
    }

    /// With these causes.
    pub fn with(mut self, causes: Vec<String>) -> Self {
        self.causes.extend(causes);
        self
    }

    /// The answer to the one who asked for this.
    pub fn envelope(self, asked: Asked) -> Envelope {
        let mut envelope = Envelope::error(self.code, self.message, self.causes);
        envelope.hint = Some(self.hint.unwrap_or_else(|| self.code.hint_at(asked).to_owned()));
        envelope.payload = self.payload.map(|payload| *payload);
        envelope
    }
}

/// The code of a failure with files: a full disk has one of its own.
pub fn io_code(error: &(dyn std::error::Error + 'static)) -> ErrorCode {
    let mut causes = ployz_core::text::causes(error);
    let full = causes.any(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    });
    if full { ErrorCode::DiskFull } else { ErrorCode::IoError }
}

impl From<crate::state::DiskError> for Failure {
    fn from(error: crate::state::DiskError) -> Self {
        Self::because(io_code(&error), "the state on disk cannot be used", &error)
    }
}

impl From<ployz_nats::bucket::StoreError> for Failure {
    fn from(error: ployz_nats::bucket::StoreError) -> Self {
        Self::because(ErrorCode::StoreUnavailable, "the store cannot be used", &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::agent::instances::LocalError;
    use crate::state::DiskError;
    use nix::errno::Errno;

    #[test]
    fn a_full_disk_has_a_code_of_its_own_however_deep_it_is() {
        for (errno, code) in [
            (Errno::ENOSPC, ErrorCode::DiskFull),
            (Errno::EDQUOT, ErrorCode::DiskFull),
            (Errno::EIO, ErrorCode::IoError),
        ] {
            let error =
                || DiskError::Io { operation: "write", path: "keys.json".into(), source: errno.into() };
            assert_eq!(Failure::from(error()).code, code, "{errno}");
            assert_eq!(io_code(&LocalError::Disk(error())), code, "{errno}");
        }
    }
}
