//! The coordinator: one deploy from its lock to its end, step after step as `ployz_core::deploy::step` says.

use crate::deploy::coordinator::attended::Attended;
use crate::deploy::coordinator::lease::Lease;
use crate::deploy::coordinator::planning::lost;
use crate::failure::{Failure, Result};
use crate::network::context::Network;
use crate::progress::Say;
use ployz_core::deploy::step::next_giving_up;
use ployz_core::deploy::{DeployPlan, Step, next};
use ployz_core::id::DeployId;
use ployz_core::wire::v1::api::{ErrorCode, Payload};
use ployz_core::wire::v1::api_deploy::{DeployReport, DeployState};
use ployz_core::wire::v1::deploy::{
    Decision, DeployEvent, DeployFailure, DeployPhase, DeployStatus, Preview, VERSION,
};
use ployz_host::clock;
use ployz_nats::deploys::Records;
use ployz_nats::store::Store;

/// A deploy that is being carried out, or carried on.
pub(super) struct Run<'a> {
    pub(super) mesh: &'a Network,
    pub(super) store: Store,
    pub(super) records: Records,
    pub(super) lease: &'a Lease,
    /// As it is in the store.
    pub(super) status: DeployStatus,
    /// Its revision there: the right to go on.
    pub(super) revision: u64,
    pub(super) decision: Option<Decision>,
    /// Of the coordinator that began it; one that resumes needs none.
    pub(super) plan: Option<DeployPlan>,
    /// Of one that was asked for here and may be given up.
    pub(super) attended: Option<&'a Attended>,
    pub(super) gives_up: bool,
    pub(super) events: Vec<DeployEvent>,
    pub(super) failures: Vec<DeployFailure>,
    say: Say<'a>,
}

/// What a step gives: failures name machines.
pub(super) type Done = std::result::Result<(), Vec<DeployFailure>>;

pub(super) fn held(status: &DeployStatus, why: &str) -> Failure {
    let message = format!("the records of deploy {} contradict each other: {why}", status.deploy);
    Failure::new(ErrorCode::DeployInterrupted, message)
}

pub(super) fn refused(failures: &[DeployFailure], message: &str) -> Failure {
    let code = failures.first().map_or(ErrorCode::DeployFailed, code_of);
    Failure::new(code, message).with(failures.iter().map(ToString::to_string).collect())
}

fn code_of(failure: &DeployFailure) -> ErrorCode {
    failure.code.parse().unwrap_or(ErrorCode::DeployFailed)
}

pub(super) fn report(
    deploy_id: Option<DeployId>,
    preview: Preview,
    state: DeployState,
    events: Vec<DeployEvent>,
    failures: Vec<DeployFailure>,
) -> DeployReport {
    DeployReport { deploy_id, preview, state, events, failures }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        mesh: &'a Network,
        store: &Store,
        records: &Records,
        lease: &'a Lease,
        status: DeployStatus,
        say: Say<'a>,
    ) -> Self {
        Self {
            mesh,
            store: store.clone(),
            records: records.clone(),
            lease,
            status,
            revision: 0,
            decision: None,
            plan: None,
            attended: None,
            gives_up: false,
            events: Vec::new(),
            failures: Vec::new(),
            say,
        }
    }

    /// Reports progress to the caller, and keeps it for the report.
    pub(super) fn progress(&mut self, message: String) {
        (self.say)(&message);
        self.events.push(DeployEvent { step: self.status.phase, message });
    }

    /// Goes on until it is over or something is in the way. An error means that this coordinator must not go on: what
    /// is left is known from the records.
    pub(super) async fn drive(&mut self) -> Result<()> {
        loop {
            if !self.lease.holds() {
                return Err(lost(&self.status.deploy));
            }
            let decision = self.decision.as_ref();
            let step = if self.gives_up {
                next_giving_up(&self.status, decision)
            } else {
                next(&self.status, decision)
            };
            let done = match step {
                Step::Nothing => return Ok(()),
                Step::Hold(why) => return Err(held(&self.status, why)),
                Step::Commit if self.is_given_up() => Err(self.aborted()),
                Step::Commit | Step::Abandon => {
                    self.decide(step).await?;
                    continue;
                }
                _ => self.work_unless_given_up(step).await,
            };
            match done {
                Ok(()) => {
                    let Some(phase) = step.reaches() else { continue };
                    let mut status = self.status.at(phase, clock::now());
                    status.failure = status.failure.or_else(|| self.failures.first().cloned());
                    self.write(status).await?;
                }
                Err(failures) => {
                    let first = failures.first().cloned();
                    self.failures.extend(failures);
                    if let Some(first) = first {
                        self.write(self.status.failed(first, clock::now())).await?;
                    }
                    if self.decision.is_some() {
                        return Ok(());
                    }
                    let why = if self.is_given_up() { "aborted" } else { "failed" };
                    self.gives_up = true;
                    self.progress(format!("{why}: undoing it"));
                }
            }
        }
    }

    /// Whether an operator wants it undone, and nothing was decided yet.
    fn is_given_up(&self) -> bool {
        let asked = self.attended.is_some_and(Attended::is_given_up);
        asked && self.decision.is_none() && !self.gives_up
    }

    fn aborted(&self) -> Vec<DeployFailure> {
        self.attended.map(Attended::aborted).into_iter().collect()
    }

    async fn work_unless_given_up(&mut self, step: Step) -> Done {
        let Some(one) = self.attended.filter(|_| self.decision.is_none() && !self.gives_up) else {
            return self.work(step).await;
        };
        // Cancel-safe: as if the coordinator had been killed there; what machines were asked for before is undone.
        tokio::select! {
            biased;
            () = one.until_given_up() => Err(vec![one.aborted()]),
            done = self.work(step) => done,
        }
    }

    async fn work(&mut self, step: Step) -> Done {
        match step {
            // Asked before the status was written; a coordinator that resumes never begins.
            Step::Probe => Ok(()),
            Step::Start => self.start().await,
            Step::AwaitReady => self.await_ready().await,
            Step::Route => self.route().await,
            Step::Drain => self.drain().await,
            Step::Clean => self.clean().await,
            Step::Undo => self.undo().await,
            Step::Commit | Step::Abandon | Step::Nothing | Step::Hold(_) => Ok(()),
        }
    }

    async fn decide(&mut self, step: Step) -> Result<()> {
        let own = self.mesh.network().machine.id;
        let decision = match (&self.plan, step) {
            (Some(plan), Step::Commit) => Decision::Committed(Box::new(plan.commit(&own, clock::now()))),
            _ => Decision::Abandoned {
                version: VERSION,
                namespace: self.status.namespace.clone(),
                deploy: self.status.deploy.clone(),
                by: own,
                at: clock::now(),
            },
        };
        let holds = self.records.decide(&self.status.namespace, &decision).await?;
        match &holds {
            Decision::Committed(_) => {
                if let Some(one) = self.attended {
                    one.committed();
                }
                self.progress(format!("deploy {} is committed", self.status.deploy));
            }
            Decision::Abandoned { .. } => {
                self.progress(format!("deploy {} is abandoned", self.status.deploy))
            }
        }
        self.decision = Some(holds);
        Ok(())
    }

    async fn write(&mut self, status: DeployStatus) -> Result<()> {
        self.revision = self.records.put_status(&status, Some(self.revision)).await?;
        self.status = status;
        Ok(())
    }

    fn state(&self) -> DeployState {
        let owes = self.status.debts.iter().any(|debt| debt.deploy == self.status.deploy);
        match (&self.decision, self.status.phase) {
            (Some(Decision::Committed(_)), phase) if phase != DeployPhase::Cleaned || owes => {
                DeployState::CleanupPending
            }
            (_, DeployPhase::Undone) if owes => DeployState::UndoPending,
            (_, phase) => DeployState::of(phase, self.gives_up),
        }
    }

    /// How it ended, for its caller.
    pub(super) fn end(self, preview: Preview) -> Result<DeployReport> {
        let (state, deploy) = (self.state(), self.status.deploy.clone());
        let gave_up = |failure: &DeployFailure| failure.code == ErrorCode::DeployAborted.as_str();
        let aborted = self.failures.first().is_some_and(gave_up);
        let report = report(Some(deploy.clone()), preview, state, self.events, self.failures);
        let message = match state {
            DeployState::Failed if aborted => format!("deploy {deploy} was aborted and undone"),
            DeployState::Failed => format!("deploy {deploy} failed and was undone"),
            DeployState::UndoPending => format!("deploy {deploy} failed and is not undone yet"),
            _ => return Ok(report),
        };
        let mut failure = refused(&report.failures, &message);
        failure.payload = Some(Box::new(Payload::Deploy(Box::new(report))));
        Err(failure)
    }
}
