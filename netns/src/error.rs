//! One error type for all hands: what was being done, to what, and the kernel's own words.

use std::io;

/// A failed operation on the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or a file operation.
    #[error("cannot {operation} {subject}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A netlink request that the kernel refused.
    #[error("cannot {operation} {subject}")]
    Netlink {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
    /// An external program that failed.
    #[error("cannot {operation} {subject}: {detail}")]
    Program {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// The program's last words.
        detail: String,
    },
    /// An answer that does not follow its protocol.
    #[error("cannot {operation} {subject}: {detail}")]
    Protocol {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// What was wrong.
        detail: String,
    },
}

/// Result of the hands.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => {
                Some(-message.raw_code())
            }
            _ => None,
        }
    }
}

pub(crate) trait Context<T> {
    fn doing(self, operation: &'static str, subject: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing(self, operation: &'static str, subject: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { operation, subject: subject.into(), source })
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn doing(self, operation: &'static str, subject: impl Into<String>) -> Result<T> {
        self.map_err(|errno| Error::Io { operation, subject: subject.into(), source: errno.into() })
    }
}

impl<T> Context<T> for std::result::Result<T, rtnetlink::Error> {
    fn doing(self, operation: &'static str, subject: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Netlink { operation, subject: subject.into(), source })
    }
}
