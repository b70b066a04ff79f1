//! What is said and kept about deploys: the preview, the two durable records, and the commands between machines.
//!
//! Of the two records one is a log of where a deploy stands ([`DeployStatus`], compare-and-set) and one is the
//! decision ([`Decision`], written once): whatever the first says, only the second tells whether it happened.

mod command;
mod operation;
mod preview;
mod record;

pub use command::{
    Candidate, DeployAnswer, DeployCommand, DeployEvent, Drain, ImageContent, ImageSeen, InstanceSeen,
    Instances, List, LogLine, LogStream, Logs, Probe, Probed, Readiness, ReadinessState, Start, Started,
};
pub use operation::{Operation, OperationKind, Target};
pub use preview::{Action, ImagePull, Placed, Preview, ServiceChange, SlotChange, Stray, Wave};
pub use record::{
    CommittedService, Debt, Decision, DeployCommit, DeployFailure, DeployLock, DeployPhase, DeployStatus,
    Owed, Retired, SlotWork,
};

/// The version of all of these.
pub const VERSION: u32 = 1;
