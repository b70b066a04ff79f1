//! The work of each step of a deploy: its operations are sent in their order, and what a machine does not do is dealt with.
//! Which operations there are is decided by `ployz_core::deploy::operations`. All of it can be done twice: a coordinator
//! that goes on cannot know how far it came.

use crate::deploy::coordinator::ask::ask;
use crate::deploy::coordinator::fan_out::{
    ByMachine, Missed, by_machine, count, drop_one, everywhere, insist,
};
use crate::deploy::coordinator::observe::{claims, odd};
use crate::deploy::coordinator::run::{Done, Run};
use futures_util::future::join_all;
use ployz_core::deploy::operations::{groups, of_step};
use ployz_core::deploy::{Step, commit, probe};
use ployz_core::id::{InstanceId, MachineId, ServiceName};
use ployz_core::routing::Event;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{
    Candidate, Decision, DeployAnswer, DeployCommand, DeployFailure, Drain, Instances, Operation,
    OperationKind, Placed, ReadinessState, SlotWork, Start,
};
use ployz_core::wire::v1::manifest::Span;
use ployz_host::clock;
use ployz_nats::bucket::{StoreError, compare_and_set};
use ployz_nats::events::{PublishError, Publisher};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

impl Run<'_> {
    /// Asks every participant whether it could; changes nothing.
    pub(super) async fn probe(&self) -> Done {
        let Some(plan) = &self.plan else { return Ok(()) };
        let operations = self.operations(Step::Probe);
        let asked = operations.iter().filter_map(|operation| operation.machine.as_ref());
        let asked = asked.map(|machine| async move {
            let question = probe::question(plan, self.store.network(), machine);
            match ask(&self.store, machine, &DeployCommand::Probe(question.clone())).await {
                Ok(DeployAnswer::Probed(probed)) => probe::judge(plan, machine, &question, &probed),
                Ok(_) => vec![odd(machine)],
                Err(failure) => vec![failure],
            }
        });
        all(join_all(asked).await.into_iter().flatten().collect())
    }

    /// Starts candidates, wave by wave, each until it is ready.
    pub(super) async fn start(&mut self) -> Done {
        let operations = self.operations(Step::Start);
        for group in groups(&operations) {
            let Some(first) = group.first() else { continue };
            match first.command {
                OperationKind::AwaitReady => self.until_ready(group).await?,
                OperationKind::Stop => self.each(group, "stopping").await?,
                _ => self.each(group, "starting").await?,
            }
        }
        Ok(())
    }

    fn candidates(&self, which: Instances) -> Start {
        let Instances { network, namespace, deploy, not_after, instances: ids } = which;
        let committed = self.plan.iter().flat_map(|plan| &plan.services);
        let (mut services, mut candidates) = (BTreeMap::new(), Vec::new());
        for (name, committed) in committed {
            for (slot, placed) in committed.slots.iter().filter(|(_, placed)| ids.contains(&placed.instance))
            {
                services.insert(name.clone(), committed.service.clone());
                candidates.push(Candidate {
                    instance: placed.instance.clone(),
                    service: name.clone(),
                    slot: *slot,
                    revision: committed.revision.clone(),
                    content: committed.content.clone(),
                });
            }
        }
        Start { network, namespace, deploy, not_after, services, candidates }
    }

    /// Waits for all candidates once more, because some may have become ready long before others.
    pub(super) async fn await_ready(&mut self) -> Done {
        self.until_ready(&self.operations(Step::AwaitReady)).await?;
        self.is_beside_others().await.map_err(|failure| vec![failure])
    }

    /// Looks once more, close to the commit, what other namespaces have: their locks are not ours.
    async fn is_beside_others(&self) -> Result<(), DeployFailure> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let look = async {
            let statuses = self.records.statuses().await?;
            claims(&self.records, &statuses, &self.status.namespace).await
        };
        let claims = look.await.map_err(|error| {
            DeployFailure::new(ErrorCode::StoreUnavailable, ployz_core::text::chain(&error))
        })?;
        plan.beside(&claims).map_err(|error| DeployFailure::new(error.code(), error.to_string()))
    }

    async fn until_ready(&self, operations: &[Operation]) -> Done {
        let mut left = by_machine(operations);
        let until = Instant::now() + self.patience(&left);
        loop {
            let asked = left.iter().map(|(machine, ids)| async {
                let command = DeployCommand::Readiness(self.instances(ids.clone(), self.lease.not_after()));
                (machine.clone(), ask(&self.store, machine, &command).await)
            });
            let mut last = Vec::new();
            for (machine, answer) in join_all(asked).await {
                match answer {
                    Ok(DeployAnswer::Readiness { instances }) => {
                        for one in instances {
                            let failure = |what: String| self.not_ready(&machine, &one.instance, what);
                            match one.state {
                                ReadinessState::Ready => drop_one(&mut left, &machine, &one.instance),
                                ReadinessState::Failed { why } => return Err(vec![failure(why)]),
                                ReadinessState::Gone => return Err(vec![failure("it is gone".into())]),
                                ReadinessState::Draining => {
                                    return Err(vec![failure("it is being taken out of service".into())]);
                                }
                                ReadinessState::Starting { last: why } => {
                                    last.push(failure(why.unwrap_or_else(|| "it is starting".into())));
                                }
                            }
                        }
                    }
                    Ok(_) => return Err(vec![odd(&machine)]),
                    // A machine may be silent for a moment; its time is limited by the deadline like that of the others.
                    Err(failure) => last.push(failure),
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until || !self.lease.holds() {
                return Err(last);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn not_ready(&self, machine: &MachineId, instance: &InstanceId, what: String) -> DeployFailure {
        let failure =
            DeployFailure::new(ErrorCode::ReadinessFailed, format!("{instance}: {what}")).on(machine);
        match self.service_of(instance) {
            Some(service) => failure.of(service),
            None => failure,
        }
    }

    fn service_of(&self, instance: &InstanceId) -> Option<&ServiceName> {
        let is = |work: &&SlotWork| work.start.as_ref().is_some_and(|placed| placed.instance == *instance);
        self.status.work.iter().find(is).map(|work| &work.service)
    }

    fn patience(&self, wanted: &ByMachine) -> Duration {
        let services = wanted.values().flatten().filter_map(|id| self.service_of(id));
        let committed = services.filter_map(|name| self.plan.as_ref()?.services.get(name));
        let longest =
            committed.filter_map(|committed| Some(committed.service.readiness.as_ref()?.deadline.duration()));
        longest.max().unwrap_or_default().max(START_TIMEOUT_MIN) + START_TIMEOUT_GRACE
    }

    /// Publishes the routes for gateways and DNS: only what differs from what is published.
    pub(super) async fn route(&self) -> Done {
        let Some(Decision::Committed(commit)) = &self.decision else { return Ok(()) };
        let publisher = self.store.publisher();
        for event in commit::events(commit) {
            self.publish(&publisher, &event).await.map_err(|failure| vec![failure])?;
        }
        Ok(())
    }

    async fn publish(&self, publisher: &Publisher, event: &Event) -> Result<(), DeployFailure> {
        let published = compare_and_set(|| async {
            let (value, sequence) = match publisher.current(&event.key).await {
                Ok(current) => (current.value, current.sequence),
                Err(PublishError::Damaged { sequence, .. }) if event.value.is_some() => (None, sequence),
                Err(error) => return Err(Unpublished::from(error)),
            };
            if value == event.value {
                return Ok(Ok(()));
            }
            // After the sequence was read: who takes the deploy over in between changes one of the two.
            self.is_ours().await?;
            let written = match &event.value {
                Some(value) => publisher.put_at(&event.key, value, sequence).await,
                None => publisher.remove_at(&event.key, sequence).await,
            };
            match written {
                Ok(_) => Ok(Ok(())),
                Err(PublishError::Conflict(key)) => Ok(Err(StoreError::Conflict(key.to_string()))),
                Err(error) => Err(error.into()),
            }
        });
        published.await.map_err(|Unpublished(failure)| failure)
    }

    async fn is_ours(&self) -> Result<(), DeployFailure> {
        let found = self.records.status(&self.status.namespace).await;
        let found =
            found.map_err(|error| DeployFailure::new(ErrorCode::StoreUnavailable, error.to_string()))?;
        if found.is_some_and(|found| found.revision == self.revision) {
            return Ok(());
        }
        Err(DeployFailure::new(ErrorCode::DeployInterrupted, "another machine has taken this deploy over"))
    }

    /// Takes old instances out of service.
    pub(super) async fn drain(&mut self) -> Done {
        self.finish(Step::Drain).await
    }

    /// Removes old instances.
    pub(super) async fn clean(&mut self) -> Done {
        self.finish(Step::Clean).await
    }

    /// Removes candidates, and starts again what was stopped for them.
    pub(super) async fn undo(&mut self) -> Done {
        self.finish(Step::Undo).await
    }

    /// Sends what follows the decision. A machine that cannot do its part owes it.
    async fn finish(&mut self, step: Step) -> Done {
        let operations = self.operations(step);
        for same in operations.chunk_by(|a, b| a.command == b.command) {
            match same.first().map(|first| first.command) {
                Some(OperationKind::Drain) => self.progress(format!("draining {}", count(same))),
                Some(OperationKind::Restore) => self.progress(format!("starting {} again", count(same))),
                _ => self.progress(format!("removing {}", count(same))),
            }
        }
        let missed = self.everywhere(&operations).await;
        self.owe(missed)
    }

    /// After the decision no machine is waited for: what one did not do is recorded as its pending cleanup, which it does
    /// when it reads the record. A coordinator that lost the lease writes nothing: its successor does.
    fn owe(&mut self, missed: Vec<Missed>) -> Done {
        if !missed.is_empty() && !self.lease.holds() {
            return Err(missed.into_iter().map(|missed| missed.failure).collect());
        }
        for Missed { machine, left, failure } in missed {
            for operation in &left {
                let Some(owed) = operation.command.owed() else { continue };
                for instance in operation.instances() {
                    let placed = Placed { machine: machine.clone(), instance: instance.clone() };
                    self.status = self.status.owing(owed, &placed);
                }
            }
            self.progress(format!("{machine}: deferred until it is reachable: {failure}"));
            self.failures.push(failure);
        }
        Ok(())
    }

    /// What a step sends. After the decision a machine that is no member has nothing to do: it took its containers with it.
    fn operations(&self, step: Step) -> Vec<Operation> {
        let mut operations = of_step(step, self.plan.as_ref(), &self.status, self.decision.as_ref());
        if self.decision.is_some() {
            let members: BTreeSet<MachineId> =
                self.mesh.peers.borrow().machines.iter().map(|machine| machine.id.clone()).collect();
            operations.retain(|operation| operation.machine.as_ref().is_none_or(|id| members.contains(id)));
        }
        operations
    }

    /// The command of an operation that is sent; `None` = it is the store's, or asked in a way of its own.
    fn command(&self, operation: &Operation, not_after: u64) -> Option<DeployCommand> {
        let which = self.instances(operation.instances().cloned().collect(), not_after);
        match operation.command {
            OperationKind::Stop => Some(DeployCommand::Stop(which)),
            OperationKind::Start => Some(DeployCommand::Start(self.candidates(which))),
            OperationKind::Drain => Some(DeployCommand::Drain(Drain { which, at_most: DRAIN })),
            OperationKind::Remove => Some(DeployCommand::Remove(which)),
            OperationKind::Restore => Some(DeployCommand::Restore(which)),
            OperationKind::Probe
            | OperationKind::AwaitReady
            | OperationKind::Commit
            | OperationKind::Route => None,
        }
    }

    fn instances(&self, instances: Vec<InstanceId>, not_after: u64) -> Instances {
        Instances {
            network: self.store.network().clone(),
            namespace: self.status.namespace.clone(),
            deploy: self.status.deploy.clone(),
            not_after,
            instances,
        }
    }

    /// Sends one step of a wave, and says so. All machines must do their part.
    async fn each(&mut self, group: &[Operation], doing: &str) -> Done {
        let waves = self.plan.as_ref().map_or(0, |plan| plan.preview.waves.len());
        let wave = group.first().and_then(|operation| operation.wave).unwrap_or_default();
        self.progress(format!("wave {wave} of {waves}: {doing} {}", count(group)));
        let missed = self.everywhere(group).await;
        all(missed.into_iter().map(|missed| missed.failure).collect())
    }

    async fn everywhere(&self, operations: &[Operation]) -> Vec<Missed> {
        let lease = || self.lease.holds().then(|| self.lease.not_after());
        everywhere(operations, |machine, operation| async move {
            let ask = |not_after| {
                let command = self.command(operation, not_after);
                async move {
                    let command = command.ok_or_else(|| not_sent(machine, operation))?;
                    ask(&self.store, machine, &command).await
                }
            };
            insist(machine, lease, clock::now, ask).await
        })
        .await
    }
}

fn not_sent(machine: &MachineId, operation: &Operation) -> DeployFailure {
    let what = format!("{} is not sent to machines", operation.command);
    DeployFailure::new(ErrorCode::DeployFailed, what).on(machine)
}

/// Why a routing event was not published.
struct Unpublished(DeployFailure);

impl From<DeployFailure> for Unpublished {
    fn from(failure: DeployFailure) -> Self {
        Self(failure)
    }
}

impl From<PublishError> for Unpublished {
    fn from(error: PublishError) -> Self {
        Self(DeployFailure::new(ErrorCode::StoreUnavailable, ployz_core::text::chain(&error)))
    }
}

/// What is left of a compare-and-set that gave up: another writer was faster each time.
impl From<StoreError> for Unpublished {
    fn from(error: StoreError) -> Self {
        Self(DeployFailure::new(ErrorCode::DeployInterrupted, ployz_core::text::chain(&error)))
    }
}

fn all(failures: Vec<DeployFailure>) -> Done {
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

const POLL_INTERVAL: Duration = Duration::from_millis(400);
const START_TIMEOUT_MIN: Duration = Duration::from_secs(60);
/// The machine's own deadline comes first: it knows what the container said.
const START_TIMEOUT_GRACE: Duration = Duration::from_secs(10);
/// Gateways have the routes already; this is for requests that are under way.
const DRAIN: Span = Span::from_secs(5);
