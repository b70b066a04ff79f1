//! What a failed step of a join leads to.

use crate::wire::v1::api::ErrorCode;

/// What the machine that joins does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Take everything of the join down: it will not succeed.
    Undo,
    /// Keep the keys and the record, and ask again.
    Retry,
}

/// After a step that failed with `code`. `unknown`: a request was sent and not answered, so the machine may have been let in
/// and must come back with the same keys. What passes by itself (the store is away, the disk is full) is no reason to give
/// up either.
pub fn after_failure(code: ErrorCode, unknown: bool) -> AfterFailure {
    match code {
        _ if unknown => AfterFailure::Retry,
        ErrorCode::StoreUnavailable | ErrorCode::IoError | ErrorCode::DiskFull => AfterFailure::Retry,
        _ => AfterFailure::Undo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_undoes_the_join_and_what_passes_is_retried() {
        let retried: Vec<&str> = ErrorCode::ALL
            .iter()
            .filter(|code| after_failure(**code, false) == AfterFailure::Retry)
            .map(|code| code.as_str())
            .collect();
        assert_eq!(retried, ["STORE_UNAVAILABLE", "DISK_FULL", "IO_ERROR"]);
        assert_eq!(after_failure(ErrorCode::TokenRevoked, false), AfterFailure::Undo);
        assert_eq!(
            after_failure(ErrorCode::IssuerUnreachable, false),
            AfterFailure::Undo,
            "nothing was sent"
        );
    }

    #[test]
    fn nothing_is_undone_while_the_machine_may_have_been_let_in() {
        assert!(ErrorCode::ALL.iter().all(|code| after_failure(*code, true) == AfterFailure::Retry));
    }
}
