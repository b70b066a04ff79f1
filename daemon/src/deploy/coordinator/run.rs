//! The coordinator: one deploy from its lock to its end, step after step as `ployz_core::deploy::step` says.

use crate::deploy::Deploys;
use crate::deploy::agent::instances::{Busy, Purpose};
use crate::deploy::coordinator::attended::Attended;
use crate::deploy::coordinator::lease::{self, Lease};
use crate::deploy::coordinator::observe::Survey;
use crate::deploy::coordinator::pull::{self, Images};
use crate::deploy::coordinator::steps::Done;
use crate::failure::{Failure, Result};
use crate::network::Network;
use crate::progress::Say;
use ployz_core::deploy::debt::carried;
use ployz_core::deploy::step::next_giving_up;
use ployz_core::deploy::{DeployPlan, Resume, Scope, Step, next, plan, resume};
use ployz_core::id::{DeployId, Namespace};
use ployz_core::wire::v1::api::{ErrorCode, Payload};
use ployz_core::wire::v1::api_deploy::{
    DeployPreview, DeployReport, DeployRequest, DeployState, ServiceRequest,
};
use ployz_core::wire::v1::deploy::{
    Decision, DeployEvent, DeployFailure, DeployPhase, DeployStatus, Preview, VERSION,
};
use ployz_core::wire::v1::manifest::{self, Manifest};
use ployz_host::clock;
use ployz_nats::bucket::Stored;
use ployz_nats::deploys::Records;
use ployz_nats::store::Store;
use std::time::Duration;

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
    /// Of whoever began it; nobody else needs one.
    pub(super) plan: Option<DeployPlan>,
    /// Of one that was asked for here and may be given up.
    attended: Option<&'a Attended>,
    gives_up: bool,
    events: Vec<DeployEvent>,
    pub(super) failures: Vec<DeployFailure>,
    say: Say<'a>,
}

/// `deploy-preview`.
pub async fn preview(mesh: &Network, request: &DeployRequest) -> Result<DeployPreview> {
    let (store, records) = open(mesh).await?;
    let mut survey = Survey::make(mesh, &store, &records, &request.manifest).await?;
    let (deploy, own) = (DeployId::from_bytes(ployz_host::random::bytes()), mesh.network().machine.id);
    let wish = pull::Wish { manifest: &request.manifest, scope: &scope(request), deploy: &deploy, own: &own };
    let mut preview = Images::of(wish).plan(&store, &mut survey, wish).await?.preview;
    if let Some(found) = records.status(&request.manifest.namespace).await?
        && !found.value.phase.is_final()
    {
        let (deploy, phase) = (&found.value.deploy, found.value.phase);
        preview
            .warnings
            .push(format!("deploy {deploy} is not over ({phase}): it is finished or undone first"));
    }
    unchanged_baseline(request.expected_baseline.as_ref(), &preview)?;
    Ok(DeployPreview { preview })
}

/// `deploy`.
pub async fn deploy(deploys: &Deploys, request: &DeployRequest, one: &Attended) -> Result<DeployReport> {
    let scope = scope(request);
    Box::pin(carry_out(deploys, &request.manifest, &scope, request.expected_baseline.as_ref(), one)).await
}

/// `service-remove`: a deploy of one service that is not wanted any more.
pub async fn remove(deploys: &Deploys, request: &ServiceRequest, one: &Attended) -> Result<DeployReport> {
    let (_, records) = open(&deploys.network).await?;
    let current = records.current(&request.namespace).await?;
    if !current.is_some_and(|current| current.services.contains_key(&request.service)) {
        let message = format!("there is no service {} in namespace {}", request.service, request.namespace);
        return Err(Failure::new(ErrorCode::ServiceNotFound, message));
    }
    let manifest = Manifest {
        version: manifest::VERSION,
        namespace: request.namespace.clone(),
        services: Vec::new(),
        volumes: Vec::new(),
    };
    Box::pin(carry_out(deploys, &manifest, &Scope::Service(request.service.clone()), None, one)).await
}

/// Finishes or undoes the latest deploy of a namespace, if it was cut off.
pub async fn mend(deploys: &Deploys, namespace: &Namespace, say: Say<'_>) -> Result<()> {
    let Ok(_busy) = deploys.local.occupy(namespace, Purpose::Mend) else { return Ok(()) };
    let (store, records) = open(&deploys.network).await?;
    let Some(found) = records.status(namespace).await? else { return Ok(()) };
    let own = deploys.network.network().machine.id;
    if found.value.phase.is_final() || found.value.coordinator != own {
        return Ok(());
    }
    let lease = lease::take(&records, namespace, &found.value.deploy, &own, say).await?;
    let done = Box::pin(settle(deploys, &store, &records, &lease, namespace, say)).await;
    lease.release().await;
    done.map(drop)
}

/// The store's connection and the records in it.
pub async fn open(mesh: &Network) -> Result<(Store, Records)> {
    let away = || Failure::new(ErrorCode::StoreUnavailable, "the store is not connected");
    let store = mesh.store.borrow().clone().ok_or_else(away)?;
    let records = Records::open(&store).await?;
    Ok((store, records))
}

fn scope(request: &DeployRequest) -> Scope {
    request.only.clone().map_or(Scope::Namespace, Scope::Service)
}

pub(super) fn planned(wish: pull::Wish<'_>, survey: &Survey) -> Result<DeployPlan> {
    let mut draw = || u64::from_le_bytes(ployz_host::random::bytes());
    plan(wish.manifest, wish.scope, &survey.world(), wish.deploy, &mut draw)
        .map_err(|error| Failure::new(error.code(), error.to_string()))
}

pub(super) fn unchanged_baseline(expected: Option<&DeployId>, preview: &Preview) -> Result<()> {
    match expected {
        Some(expected) if preview.baseline.as_ref() != Some(expected) => {
            let now = preview.baseline.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let message =
                format!("the preview was made from deploy {expected}, and {now} is committed by now");
            Err(Failure::new(ErrorCode::BaselineChanged, message))
        }
        _ => Ok(()),
    }
}

async fn occupy<'a>(deploys: &'a Deploys, one: &Attended) -> Result<Busy<'a>> {
    let namespace = &one.namespace;
    for second in 0..MEND_TRIES {
        match deploys.local.occupy(namespace, Purpose::Deploy) {
            Ok(busy) => return Ok(busy),
            Err(Purpose::Deploy) => break,
            Err(Purpose::Mend) => {
                if second == 0 {
                    one.say("waiting for an interrupted deploy to be finished or undone");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    let other =
        deploys.attended.others(one).map(|other| format!(" (deploy {})", other.id)).unwrap_or_default();
    let message = format!("a deploy to namespace {namespace} is under way on this machine{other}");
    Err(Failure::new(ErrorCode::DeployInProgress, message))
}

async fn carry_out(
    deploys: &Deploys,
    manifest: &Manifest,
    scope: &Scope,
    expected: Option<&DeployId>,
    one: &Attended,
) -> Result<DeployReport> {
    let (store, records) = open(&deploys.network).await?;
    let _busy = one.unless_given_up(occupy(deploys, one)).await??;
    let (deploy, own) = (one.id.clone(), deploys.network.network().machine.id);
    // Not cut off: a lock that was written and is not known of keeps others out until it runs out.
    let lease = lease::take(&records, &manifest.namespace, &deploy, &own, &|line| one.say(line)).await?;
    let wish = (manifest, scope, expected);
    let done = Box::pin(under_lock(deploys, &store, &records, &lease, wish, one)).await;
    lease.release().await;
    // Whatever is left is gone on with, without anybody asking.
    deploys.local.unfinished.notify_one();
    done
}

type Wish<'a> = (&'a Manifest, &'a Scope, Option<&'a DeployId>);

async fn under_lock(
    deploys: &Deploys,
    store: &Store,
    records: &Records,
    lease: &Lease,
    (manifest, scope, expected): Wish<'_>,
    one: &Attended,
) -> Result<DeployReport> {
    let (deploy, speak) = (&one.id, |line: &str| one.say(line));
    let say: Say<'_> = &speak;
    let before = Box::pin(settle(deploys, store, records, lease, &manifest.namespace, say)).await?;
    say("asking the machines what they run");
    let own = deploys.network.network().machine.id;
    let wish = pull::Wish { manifest, scope, deploy, own: &own };
    let planning =
        Box::pin(pull::plan_with_images(&deploys.network, store, records, lease, (wish, expected), say));
    let (survey, plan, pulled) = one.unless_given_up(planning).await??;
    if plan.preview.is_empty() {
        return Ok(report(None, plan.preview, DeployState::Unchanged, Vec::new(), Vec::new()));
    }
    plan.preview.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    let mut status = plan.status(&deploys.network.network().machine.id, clock::now());
    let debts = before.as_ref().map(|before| before.value.debts.as_slice()).unwrap_or_default();
    status.debts = carried(debts, &plan, &survey.world());
    let mut run = Run::new(&deploys.network, store, records, lease, status, say);
    run.plan = Some(plan.clone());
    run.attended = Some(one);
    run.events.extend(pulled.into_iter().map(|message| DeployEvent { step: run.status.phase, message }));
    run.tell(format!("deploy {deploy}: probing {} machines", plan.preview.participants.len()));
    // Once before anything is written at all: a refusal leaves no trace.
    if let Err(failures) = one.unless_given_up(run.probe()).await? {
        return Err(refused(&failures, "the machines cannot carry this out; nothing was changed"));
    }
    run.revision = records.put_status(&run.status, before.map(|before| before.revision)).await?;
    run.drive().await.map_err(|failure| interrupted(deploy, failure))?;
    run.end(plan.preview)
}

/// Brings what was cut off to its end. The status is taken over first, so that whoever had it cannot go on; only then
/// does the decision tell what is to be done.
async fn settle(
    deploys: &Deploys,
    store: &Store,
    records: &Records,
    lease: &Lease,
    namespace: &Namespace,
    say: Say<'_>,
) -> Result<Option<Stored<DeployStatus>>> {
    let Some(found) = records.status(namespace).await? else { return Ok(None) };
    if found.value.phase.is_final() {
        return Ok(Some(found));
    }
    let status = found.value.taken_over(&deploys.network.network().machine.id, clock::now());
    let revision = records.put_status(&status, Some(found.revision)).await?;
    let decision = records.decision(namespace, &status.deploy).await?;
    let what = match resume(Some(&status), decision.as_ref()) {
        Resume::Nothing => return Ok(Some(Stored { value: status, revision })),
        Resume::Hold(why) => return Err(held(&status, why)),
        Resume::Finish => "finishing",
        Resume::Undo => "undoing",
    };
    say(&format!("{what} deploy {}, which was cut off ({})", status.deploy, status.phase));
    tracing::warn!("{what} deploy {} of namespace {namespace}, cut off at {}", status.deploy, status.phase);
    let mut run = Run::new(&deploys.network, store, records, lease, status, say);
    (run.revision, run.decision, run.gives_up) = (revision, decision, true);
    run.drive().await?;
    if run.status.phase.is_final() {
        return Ok(Some(Stored { value: run.status, revision: run.revision }));
    }
    let message = format!("deploy {} was cut off and cannot be brought to its end yet", run.status.deploy);
    let failures = run.failures.iter().map(ToString::to_string).collect();
    Err(Failure::new(ErrorCode::DeployInterrupted, message).with(failures))
}

/// Whether it happens is not known here; whoever goes on with it decides by the records.
fn interrupted(deploy: &DeployId, failure: Failure) -> Failure {
    let message = format!("deploy {deploy} was interrupted and goes on as soon as it can: {failure}");
    Failure::new(ErrorCode::DeployInterrupted, message).with(failure.causes)
}

pub(super) fn lost(deploy: &DeployId) -> Failure {
    Failure::new(ErrorCode::DeployInterrupted, format!("the lock of deploy {deploy} was lost"))
}

fn held(status: &DeployStatus, why: &str) -> Failure {
    let message = format!("the records of deploy {} contradict each other: {why}", status.deploy);
    Failure::new(ErrorCode::DeployInterrupted, message)
}

fn refused(failures: &[DeployFailure], message: &str) -> Failure {
    let code = failures.first().map_or(ErrorCode::DeployFailed, code_of);
    Failure::new(code, message).with(failures.iter().map(ToString::to_string).collect())
}

fn code_of(failure: &DeployFailure) -> ErrorCode {
    let known = ErrorCode::ALL.iter().find(|code| code.as_str() == failure.code);
    known.copied().unwrap_or(ErrorCode::DeployFailed)
}

fn report(
    deploy_id: Option<DeployId>,
    preview: Preview,
    state: DeployState,
    events: Vec<DeployEvent>,
    failures: Vec<DeployFailure>,
) -> DeployReport {
    DeployReport { deploy_id, preview, state, events, failures }
}

impl<'a> Run<'a> {
    fn new(
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

    /// Tells whoever asked, and keeps it for the report.
    pub(super) fn tell(&mut self, message: String) {
        (self.say)(&message);
        self.events.push(DeployEvent { step: self.status.phase, message });
    }

    /// Goes on until it is over or something is in the way. An error means that this coordinator must not go on: what
    /// is left is known from the records.
    async fn drive(&mut self) -> Result<()> {
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
                    let why = if self.is_given_up() { "it was given up" } else { "it failed" };
                    self.gives_up = true;
                    self.tell(format!("{why}: undoing what was begun"));
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
            // Asked before the status was written; whoever goes on where another was cut off never begins.
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
                self.tell(format!("deploy {} is committed", self.status.deploy));
            }
            Decision::Abandoned { .. } => self.tell(format!("deploy {} is abandoned", self.status.deploy)),
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

    /// How it ended, for whoever asked for it.
    fn end(self, preview: Preview) -> Result<DeployReport> {
        let (state, deploy) = (self.state(), self.status.deploy.clone());
        let gave_up = |failure: &DeployFailure| failure.code == ErrorCode::DeployAborted.as_str();
        let aborted = self.failures.first().is_some_and(gave_up);
        let report = report(Some(deploy.clone()), preview, state, self.events, self.failures);
        let message = match state {
            DeployState::Failed if aborted => format!("deploy {deploy} was given up and undone"),
            DeployState::Failed => format!("deploy {deploy} failed and was undone"),
            DeployState::UndoPending => format!("deploy {deploy} failed and is not undone yet"),
            _ => return Ok(report),
        };
        let mut failure = refused(&report.failures, &message);
        failure.payload = Some(Box::new(Payload::Deploy(Box::new(report))));
        Err(failure)
    }
}

const MEND_TRIES: usize = 90;
