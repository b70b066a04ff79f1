//! What is asked of the coordinator: a preview, a deploy, a removal, and going on with a deploy that was cut off.

use crate::deploy::agent::instances::{Busy, Purpose};
use crate::deploy::context::{Deploys, open};
use crate::deploy::coordinator::attended::Attended;
use crate::deploy::coordinator::lease::{self, Lease};
use crate::deploy::coordinator::observe::Survey;
use crate::deploy::coordinator::planning::{Wish, unchanged_baseline};
use crate::deploy::coordinator::pull::{self, Images};
use crate::deploy::coordinator::run::{Run, held, refused, report};
use crate::failure::{Failure, Result};
use crate::network::context::Network;
use crate::progress::Say;
use ployz_core::deploy::debt::carried;
use ployz_core::deploy::{Resume, Scope, resume};
use ployz_core::id::{DeployId, Namespace};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::api_deploy::{
    DeployPreview, DeployReport, DeployRequest, DeployState, ServiceRequest,
};
use ployz_core::wire::v1::deploy::{DeployEvent, DeployStatus};
use ployz_core::wire::v1::manifest::{self, Manifest};
use ployz_host::clock;
use ployz_nats::bucket::Stored;
use ployz_nats::deploys::Records;
use ployz_nats::store::Store;
use std::time::Duration;

/// `deploy-preview`.
pub async fn preview(mesh: &Network, request: &DeployRequest) -> Result<DeployPreview> {
    let (store, records) = open(mesh).await?;
    let mut survey = Survey::make(mesh, &store, &records, &request.manifest).await?;
    let (deploy, own) = (DeployId::from_bytes(ployz_host::random::bytes()), mesh.network().machine.id);
    let wish = Wish { manifest: &request.manifest, scope: &scope(request), deploy: &deploy, own: &own };
    let mut preview = Images::of(wish).plan(&store, &mut survey, wish).await?.preview;
    if let Some(found) = records.status(&request.manifest.namespace).await?
        && !found.value.phase.is_final()
    {
        let (deploy, phase) = (&found.value.deploy, found.value.phase);
        preview
            .warnings
            .push(format!("deploy {deploy} has not ended ({phase}): it must be finished or undone first"));
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
pub async fn recover(deploys: &Deploys, namespace: &Namespace, say: Say<'_>) -> Result<()> {
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

fn scope(request: &DeployRequest) -> Scope {
    request.only.clone().map_or(Scope::Namespace, Scope::Service)
}

async fn occupy<'a>(deploys: &'a Deploys, one: &Attended) -> Result<Busy<'a>> {
    let namespace = &one.namespace;
    for second in 0..RECOVER_TRIES {
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
    let message = format!("a deploy to namespace {namespace} is in progress on this machine{other}");
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
    let wish = Asked { manifest, scope, expected };
    let done = Box::pin(under_lock(deploys, &store, &records, &lease, wish, one)).await;
    lease.release().await;
    // Whatever is left is gone on with, without anybody asking.
    deploys.local.unfinished.notify_one();
    done
}

/// What a deploy is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    manifest: &'a Manifest,
    scope: &'a Scope,
    /// The deploy that must still be the committed one.
    expected: Option<&'a DeployId>,
}

async fn under_lock(
    deploys: &Deploys,
    store: &Store,
    records: &Records,
    lease: &Lease,
    Asked { manifest, scope, expected }: Asked<'_>,
    one: &Attended,
) -> Result<DeployReport> {
    let (deploy, speak) = (&one.id, |line: &str| one.say(line));
    let say: Say<'_> = &speak;
    let before = Box::pin(settle(deploys, store, records, lease, &manifest.namespace, say)).await?;
    say("querying the state of the machines");
    let own = deploys.network.network().machine.id;
    let wish = Wish { manifest, scope, deploy, own: &own };
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
    run.progress(format!("deploy {deploy}: probing {} machines", plan.preview.participants.len()));
    // Once before anything is written at all: a refusal leaves no trace.
    if let Err(failures) = one.unless_given_up(run.probe()).await? {
        return Err(refused(&failures, "the machines cannot run this deploy; nothing was changed"));
    }
    run.revision = records.put_status(&run.status, before.map(|before| before.revision)).await?;
    run.drive().await.map_err(|failure| interrupted(deploy, failure))?;
    run.end(plan.preview)
}

/// Brings what was cut off to its end. The status is taken over first, so that the earlier coordinator cannot go on; only then
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
    say(&format!("{what} deploy {}, which was interrupted ({})", status.deploy, status.phase));
    tracing::warn!(
        %namespace,
        deploy = %status.deploy,
        phase = %status.phase,
        action = what,
        "resuming an interrupted deploy"
    );
    let mut run = Run::new(&deploys.network, store, records, lease, status, say);
    (run.revision, run.decision, run.gives_up) = (revision, decision, true);
    run.drive().await?;
    if run.status.phase.is_final() {
        return Ok(Some(Stored { value: run.status, revision: run.revision }));
    }
    let message = format!("deploy {} was interrupted and cannot be completed yet", run.status.deploy);
    let failures = run.failures.iter().map(ToString::to_string).collect();
    Err(Failure::new(ErrorCode::DeployInterrupted, message).with(failures))
}

/// Whether it happens is not known here; the coordinator that resumes it decides by the records.
fn interrupted(deploy: &DeployId, failure: Failure) -> Failure {
    let message = format!("deploy {deploy} was interrupted and will resume: {failure}");
    Failure::new(ErrorCode::DeployInterrupted, message).with(failure.causes)
}

const RECOVER_TRIES: usize = 90;
