//! Services as an operator asks for them: what was committed, and what the machines say of it now.

use crate::deploy::agent::commands;
use crate::deploy::context::open;
use crate::deploy::coordinator::ask::ask;
use crate::deploy::coordinator::observe::{list, odd};
use crate::failure::{Failure, Result};
use crate::network::context::Network;
use futures_util::future::join_all;
use ployz_core::adopt::Verdict;
use ployz_core::id::{InstanceId, MachineId, Namespace, ServiceName};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::api_deploy::{
    InstanceRow, ServiceDetail, ServiceList, ServiceLogLine, ServiceLogMissing, ServiceLogs,
    ServiceLogsRequest, ServiceRequest, ServiceRow,
};
use ployz_core::wire::v1::deploy::{
    CommittedService, DeployAnswer, DeployCommand, DeployPhase, InstanceSeen, Logs, Placed, ReadinessState,
};
use ployz_core::wire::v1::manifest::Route;
use ployz_nats::store::Store;
use std::collections::BTreeSet;

/// What the members say of their instances.
struct Observed {
    /// The instances that are ready.
    ready: BTreeSet<Ready>,
    /// Everything that is there, with its machine.
    seen: Vec<(MachineId, InstanceSeen)>,
    /// The machines that did not answer.
    unreachable: Vec<MachineId>,
}

/// An instance that is ready. Its machine and namespace belong to it: a record names all three.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ready {
    machine: MachineId,
    namespace: Namespace,
    instance: InstanceId,
}

/// `service-list`.
pub async fn list_all(mesh: &Network, namespace: Option<&Namespace>) -> Result<ServiceList> {
    let (store, records) = open(mesh).await?;
    let Observed { ready, unreachable, .. } = observe(mesh, &store, namespace).await;
    let mut services = Vec::new();
    for status in records.statuses().await? {
        if namespace.is_some_and(|wanted| *wanted != status.namespace) {
            continue;
        }
        let Some(commit) = records.committed(&status).await? else { continue };
        let phase = Some(status.phase).filter(|phase| !phase.is_final());
        let rows = commit.services.iter();
        services.extend(rows.map(|(name, committed)| row(&commit.namespace, name, committed, phase, &ready)));
    }
    services.sort_by(|a, b| (&a.namespace, &a.service).cmp(&(&b.namespace, &b.service)));
    Ok(ServiceList { services, unreachable })
}

fn row(
    namespace: &Namespace,
    name: &ServiceName,
    committed: &CommittedService,
    phase: Option<DeployPhase>,
    ready: &BTreeSet<Ready>,
) -> ServiceRow {
    let is_ready = |placed: &&Placed| {
        let Placed { machine, instance } = (*placed).clone();
        ready.contains(&Ready { machine, namespace: namespace.clone(), instance })
    };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mode: &str = committed.service.placement.mode.into();
    ServiceRow {
        namespace: namespace.clone(),
        service: name.clone(),
        image: committed.service.image.clone(),
        revision: committed.revision.clone(),
        wanted: count(committed.slots.len()),
        ready: count(committed.slots.values().filter(is_ready).count()),
        mode: mode.to_owned(),
        routes: committed.service.routes.iter().map(Route::key).collect(),
        deploy: committed.deploy.clone(),
        phase,
    }
}

/// Asks every member at once.
async fn observe(mesh: &Network, store: &Store, namespace: Option<&Namespace>) -> Observed {
    let members: Vec<MachineId> =
        mesh.peers.borrow().machines.iter().map(|machine| machine.id.clone()).collect();
    let asked = members.iter().map(|machine| async move { (machine, list(store, machine, namespace).await) });
    let (mut ready, mut seen, mut unreachable) = (BTreeSet::new(), Vec::new(), Vec::new());
    for (machine, answer) in join_all(asked).await {
        let Ok(instances) = answer else {
            unreachable.push(machine.clone());
            continue;
        };
        for instance in instances {
            if instance.state == ReadinessState::Ready {
                ready.insert(Ready {
                    machine: machine.clone(),
                    namespace: instance.namespace.clone(),
                    instance: instance.instance.clone(),
                });
            }
            seen.push((machine.clone(), instance));
        }
    }
    Observed { ready, seen, unreachable }
}

/// `service-inspect`.
pub async fn inspect(mesh: &Network, request: &ServiceRequest) -> Result<ServiceDetail> {
    let (store, records) = open(mesh).await?;
    let committed = find(records.current(&request.namespace).await?, &request.namespace, &request.service)?;
    let Observed { seen, unreachable, .. } = observe(mesh, &store, Some(&request.namespace)).await;
    let lost = lost(&request.namespace, &request.service, &committed, &seen, &unreachable);
    let of_it = seen.into_iter().filter(|(_, seen)| seen.service == request.service);
    let mut instances: Vec<InstanceRow> = of_it
        .map(|(machine, seen)| {
            let placed = Placed { machine: machine.clone(), instance: seen.instance.clone() };
            InstanceRow { current: committed.slots.get(&seen.slot) == Some(&placed), machine, seen }
        })
        .collect();
    instances.extend(lost);
    instances.sort_by(|a, b| (a.seen.slot, &a.seen.instance).cmp(&(b.seen.slot, &b.seen.instance)));
    Ok(ServiceDetail { namespace: request.namespace.clone(), committed, instances, unreachable })
}

/// What is committed and not there, of machines that said what is.
fn lost(
    namespace: &Namespace,
    service: &ServiceName,
    committed: &CommittedService,
    seen: &[(MachineId, InstanceSeen)],
    unreachable: &[MachineId],
) -> Vec<InstanceRow> {
    let is_there = |placed: &Placed| {
        unreachable.contains(&placed.machine)
            || seen
                .iter()
                .any(|(machine, seen)| *machine == placed.machine && seen.instance == placed.instance)
    };
    let gone = committed.slots.iter().filter(|(_, placed)| !is_there(placed));
    let row = |(slot, placed): (&u32, &Placed)| InstanceRow {
        machine: placed.machine.clone(),
        current: true,
        seen: InstanceSeen {
            instance: placed.instance.clone(),
            namespace: namespace.clone(),
            service: service.clone(),
            slot: *slot,
            revision: committed.revision.clone(),
            deploy: committed.deploy.clone(),
            address: None,
            publish: BTreeSet::new(),
            state: ReadinessState::Gone,
            runs: Some(false),
            verdict: Verdict::Create.word().to_owned(),
            reasons: vec![commands::GONE.to_owned()],
            started_at: None,
        },
    };
    gone.map(row).collect()
}

/// `service-logs`. An instance whose log is not given is named; a failure only when nobody gives one: the others' lines are
/// worth more.
pub async fn logs(mesh: &Network, request: &ServiceLogsRequest) -> Result<ServiceLogs> {
    let (store, records) = open(mesh).await?;
    let (namespace, service) = (&request.namespace, &request.service);
    let committed = find(records.current(namespace).await?, namespace, service)?;
    let wanted = |placed: &&Placed| request.instance.as_ref().is_none_or(|only| *only == placed.instance);
    let wanted: Vec<&Placed> = committed.slots.values().filter(wanted).collect();
    if let (Some(only), true) = (&request.instance, wanted.is_empty()) {
        let message = format!("service {namespace}/{service} has no instance {only}");
        return Err(Failure::new(ErrorCode::ServiceNotFound, message));
    }
    let asked = wanted.into_iter().map(|placed| {
        let logs = Logs {
            network: store.network().clone(),
            namespace: namespace.clone(),
            instance: placed.instance.clone(),
            tail: request.tail,
            after: request.after,
        };
        let store = &store;
        async move { (placed, ask(store, &placed.machine, &DeployCommand::Logs(logs)).await) }
    });
    let mut found = ServiceLogs { lines: Vec::new(), missing: Vec::new() };
    let answers = join_all(asked).await;
    for (placed, answer) in &answers {
        let Placed { instance, machine } = (*placed).clone();
        match answer {
            Ok(DeployAnswer::Logs { lines }) => found.lines.extend(lines.iter().map(|line| ServiceLogLine {
                instance: instance.clone(),
                machine: machine.clone(),
                line: line.clone(),
            })),
            Ok(_) => found.missing.push(ServiceLogMissing { instance, why: odd(&machine).to_string() }),
            Err(failure) => found.missing.push(ServiceLogMissing { instance, why: failure.to_string() }),
        }
    }
    if found.missing.len() == answers.len() && !answers.is_empty() {
        let message = format!("no machine returns the log of {service}");
        let causes = found.missing.into_iter().map(|missing| missing.why).collect();
        return Err(Failure::new(ErrorCode::ParticipantUnreachable, message).with(causes));
    }
    found.lines.sort_by(|a, b| (a.line.at, &a.instance).cmp(&(b.line.at, &b.instance)));
    Ok(found)
}

fn find(
    current: Option<ployz_core::wire::v1::deploy::DeployCommit>,
    namespace: &Namespace,
    service: &ServiceName,
) -> Result<CommittedService> {
    let missing = || {
        Failure::new(
            ErrorCode::ServiceNotFound,
            format!("there is no service {service} in namespace {namespace}"),
        )
    };
    current.and_then(|mut current| current.services.remove(service)).ok_or_else(missing)
}
