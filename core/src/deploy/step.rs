//! A deploy as a small state machine over its two durable records.
//!
//! ```text
//! Locked -> Probed -> Started -> Ready -> [decision] -> Committed -> Routed -> Drained -> Cleaned
//!    \_________\_________\_________\___ [abandoned] -> Undone
//! ```
//!
//! What is next follows from the records alone, so any machine that holds the namespace's lock can go on where another
//! was cut off. The status may be behind the truth, never ahead of it: a phase is written after its work is done, and
//! all work can be done twice. Before the decision everything can be undone, after it everything must be finished: what
//! a machine that is away cannot do then is written down as its debt, and the deploy is over without it.

use crate::id::{DeployId, MachineId};
use crate::wire::v1::deploy::{
    Debt, Decision, DeployFailure, DeployPhase, DeployStatus, Owed, Placed, SlotWork,
};
use crate::wire::v1::manifest::Order;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask every participant; then the phase is `Probed`.
    Probe,
    /// Start candidates, wave by wave (stop-first: stop the old one before); then `Started`.
    Start,
    /// Wait until all candidates are ready; then `Ready`.
    AwaitReady,
    /// Create the decision "committed". If another decision exists, that one holds.
    Commit,
    /// Publish the routing events; then `Routed`.
    Route,
    /// Take old instances out of service and let their connections end; then `Drained`.
    Drain,
    /// Remove old instances; then `Cleaned`.
    Clean,
    /// Create the decision "abandoned". If another decision exists, that one holds.
    Abandon,
    /// Remove candidates and start stopped old instances again; then `Undone`.
    Undo,
    /// Over.
    Nothing,
    /// The records contradict each other: an operator must look. Nothing is touched.
    Hold(&'static str),
}

/// What a coordinator does with a deploy that it found and did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It happened: finish it.
    Finish,
    /// It did not happen: undo it. Without a decision, abandon it first.
    Undo,
    /// It is over, or there was none.
    Nothing,
    /// As [`Step::Hold`].
    Hold(&'static str),
}

/// The next step of the coordinator that began a deploy and still wants it.
pub fn next(status: &DeployStatus, decision: Option<&Decision>) -> Step {
    if let Some(why) = contradiction(status, decision) {
        return Step::Hold(why);
    }
    match (decision, status.phase) {
        (_, DeployPhase::Cleaned | DeployPhase::Undone) => Step::Nothing,
        (None, DeployPhase::Locked) => Step::Probe,
        (None, DeployPhase::Probed) => Step::Start,
        (None, DeployPhase::Started) => Step::AwaitReady,
        (None, _) => Step::Commit,
        (Some(Decision::Abandoned { .. }), _) => Step::Undo,
        (Some(Decision::Committed(_)), DeployPhase::Routed) => Step::Drain,
        (Some(Decision::Committed(_)), DeployPhase::Drained) => Step::Clean,
        (Some(Decision::Committed(_)), _) => Step::Route,
    }
}

/// The next step of a coordinator that aborts a deploy, its own or an interrupted one. Once it is committed there is no giving up.
pub fn next_giving_up(status: &DeployStatus, decision: Option<&Decision>) -> Step {
    match (next(status, decision), decision) {
        (Step::Hold(why), _) => Step::Hold(why),
        (Step::Nothing, _) => Step::Nothing,
        (_, None) => Step::Abandon,
        (step, Some(_)) => step,
    }
}

/// What becomes of a deploy that was found.
///
/// The caller holds the namespace's lock and has put its own name into the status first
/// ([`DeployStatus::taken_over`]), so that the one before it cannot write there any more; the decision is read after that.
pub fn resume(status: Option<&DeployStatus>, decision: Option<&Decision>) -> Resume {
    let Some(status) = status else { return Resume::Nothing };
    match next_giving_up(status, decision) {
        Step::Nothing => Resume::Nothing,
        Step::Hold(why) => Resume::Hold(why),
        Step::Abandon | Step::Undo => Resume::Undo,
        _ => Resume::Finish,
    }
}

/// The deploy whose commit says what the namespace is.
pub fn current<'a>(status: &'a DeployStatus, decision: Option<&Decision>) -> Option<&'a DeployId> {
    let happened = status.phase == DeployPhase::Cleaned || decision.and_then(Decision::commit).is_some();
    if happened { Some(&status.deploy) } else { status.base.as_ref() }
}

impl Step {
    /// The phase that is written when this step is done; `None` where the decision is what is written.
    pub fn reaches(self) -> Option<DeployPhase> {
        match self {
            Self::Probe => Some(DeployPhase::Probed),
            Self::Start => Some(DeployPhase::Started),
            Self::AwaitReady => Some(DeployPhase::Ready),
            Self::Route => Some(DeployPhase::Routed),
            Self::Drain => Some(DeployPhase::Drained),
            Self::Clean => Some(DeployPhase::Cleaned),
            Self::Undo => Some(DeployPhase::Undone),
            Self::Commit | Self::Abandon | Self::Nothing | Self::Hold(_) => None,
        }
    }
}

impl DeployStatus {
    /// This status in another phase.
    pub fn at(&self, phase: DeployPhase, now: u64) -> Self {
        Self { phase, updated_at: now, ..self.clone() }
    }

    /// This status in other hands: written by compare-and-set before anything else is done.
    pub fn taken_over(&self, by: &MachineId, now: u64) -> Self {
        Self { coordinator: by.clone(), updated_at: now, ..self.clone() }
    }

    /// This status with what went wrong.
    pub fn failed(&self, failure: DeployFailure, now: u64) -> Self {
        Self { failure: Some(failure), updated_at: now, ..self.clone() }
    }

    /// This status with something that a machine could not do. What is to be removed need not be started before.
    pub fn owing(&self, owed: Owed, placed: &Placed) -> Self {
        let mut debts = self.debts.clone();
        debts.retain(|debt| debt.placed != *placed);
        debts.push(Debt { deploy: self.deploy.clone(), owed, placed: placed.clone() });
        Self { debts, ..self.clone() }
    }

    /// Whether a machine owes something of this very deploy.
    pub fn owes(&self, machine: &MachineId) -> bool {
        self.debts.iter().any(|debt| debt.deploy == self.deploy && debt.placed.machine == *machine)
    }

    /// Candidates: what undoing removes.
    pub fn candidates(&self) -> impl Iterator<Item = &Placed> {
        self.work.iter().filter_map(|work| work.start.as_ref())
    }

    /// Old instances that may have been stopped for a candidate: what undoing starts again.
    pub fn stopped(&self) -> impl Iterator<Item = &Placed> {
        self.work.iter().filter(|work| work.stops_first()).filter_map(|work| work.stop.as_ref())
    }
}

impl SlotWork {
    /// Whether the old instance is stopped before the new one starts. One that only goes is stopped after the commit.
    pub fn stops_first(&self) -> bool {
        self.order == Order::StopFirst && self.start.is_some()
    }
}

fn contradiction(status: &DeployStatus, decision: Option<&Decision>) -> Option<&'static str> {
    use DeployPhase::{Cleaned, Committed, Drained, Routed, Undone};
    match (decision, status.phase) {
        (Some(decision), _) if *decision.deploy() != status.deploy => {
            Some("the decision belongs to another deploy")
        }
        (None, Committed | Routed | Drained) => {
            Some("its status is past the commit, but there is no commit record")
        }
        (Some(Decision::Abandoned { .. }), Committed | Routed | Drained | Cleaned) => {
            Some("its status is past the commit, but it was abandoned")
        }
        (Some(Decision::Committed(_)), Undone) => Some("it was undone, but there is a commit"),
        _ => None,
    }
}
