//! THE adopt-first rule, once: inspect, decide, apply, verify. This module is the *decide*.
//!
//! *Unknown is not absent*: an inspection that timed out, and anything that is not provably ours, is held and
//! never touched.

pub mod container;
pub mod decide;
pub mod device;
pub mod identity;
pub mod op;
mod ops;
pub mod plan;
pub mod recreate_guard;
pub mod sidecar;
pub mod trigger;

pub use decide::decide;
pub use op::{Op, PlannedOp};
pub use plan::{Component, Plan, Step};
pub use recreate_guard::RecreateGuard;
pub use trigger::{KernelEvent, Trigger};

use crate::live::NodeLive;
use crate::spec::NodeSpec;
use std::fmt;

/// What an inspection found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// Proven not to be there.
    Absent,
    /// There, and this is it.
    Present(T),
    /// There, but not made by Ployz; the text names its owner or how that is known.
    Foreign(String),
    /// Could not be inspected; the text says why.
    Unknown(String),
}

/// One field in which reality differs from the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The field's name.
    pub field: String,
    /// How it changes, ready to print: `8080 -> 80`, or `+b7f3... (db-2)`.
    pub change: String,
}

/// What to do about one component.
#[derive(Debug, Clone, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Verdict {
    /// Right as it is: no write at all.
    Adopt,
    /// Differs in what can be changed while it runs.
    Converge(Vec<Drift>),
    /// Not there.
    Create,
    /// Differs in what cannot be changed while it runs.
    Recreate(Cause),
    /// Not ours, or not known: nothing is touched.
    Hold(String),
}

/// Why something is recreated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// These fields differ.
    Drift(Vec<Drift>),
    /// What it lives in is recreated.
    Parent(Component),
}

/// The plan that leads from what was found to what is wanted.
pub fn plan(spec: &NodeSpec, live: &NodeLive) -> Plan {
    decide::node(spec, live)
}

impl<T> Seen<T> {
    /// The live value, if there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(live) => Some(live),
            _ => None,
        }
    }

    /// Where it stands, in words that an operator reads; what is there is not described.
    pub fn standing(&self) -> String {
        match self {
            Self::Absent => "it is not there".into(),
            Self::Present(_) => "it is there".into(),
            Self::Foreign(owner) => format!("not ours: {owner}"),
            Self::Unknown(why) => format!("cannot inspect: {why}"),
        }
    }
}

impl Drift {
    /// `field: live -> want`.
    pub fn new(field: &str, live: &str, want: &str) -> Self {
        Self { field: field.to_owned(), change: format!("{live} -> {want}") }
    }

    /// A change that is not a replacement, such as a list's additions and removals.
    pub fn change(field: &str, change: impl Into<String>) -> Self {
        Self { field: field.to_owned(), change: change.into() }
    }
}

impl Verdict {
    /// Whether applying this writes anything.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Adopt | Self::Hold(_))
    }

    /// The word an operator sees.
    pub fn word(&self) -> &'static str {
        self.into()
    }

    /// Why, in one line; empty for adopt and create.
    pub fn why(&self) -> String {
        match self {
            Self::Adopt | Self::Create => String::new(),
            Self::Converge(drift) | Self::Recreate(Cause::Drift(drift)) => {
                drift.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            Self::Recreate(Cause::Parent(parent)) => format!("{parent} is recreated"),
            Self::Hold(why) => why.clone(),
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.change)
    }
}
