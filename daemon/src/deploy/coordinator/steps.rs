//! The work of each step of a deploy. All of it can be done twice: whoever goes on cannot know how far it came.

use crate::deploy::coordinator::ask::ask;
use crate::deploy::coordinator::fan_out::{
    ByMachine, Missed, by_machine, count, drop_one, everywhere, insist,
};
use crate::deploy::coordinator::observe::{claims, odd};
use crate::deploy::coordinator::run::{Done, Run};
use futures_util::future::join_all;
use ployz_core::deploy::{commit, probe};
use ployz_core::id::{InstanceId, MachineId, ServiceName};
use ployz_core::routing::Event;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{
    Candidate, Decision, DeployAnswer, DeployCommand, DeployFailure, DeployPhase, Drain, Instances, Owed,
    Placed, ReadinessState, SlotWork, Start, Wave,
};
use ployz_core::wire::v1::manifest::Span;
use ployz_host::clock;
use ployz_nats::events::{PublishError, Publisher};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// What machines are asked for: which instances, and the command about them.
type Order<'a> = (&'a ByMachine, &'a (dyn Fn(Instances) -> DeployCommand + Sync));

impl Run<'_> {
    /// Asks every participant whether it could; changes nothing.
    pub(super) async fn probe(&self) -> Done {
        let Some(plan) = &self.plan else { return Ok(()) };
        let asked = plan.preview.participants.iter().map(|machine| async move {
            let question = probe::question(plan, self.store.network(), machine);
            match ask(&self.store, machine, &DeployCommand::Probe(question.clone())).await {
                Ok(DeployAnswer::Probed(told)) => probe::judge(plan, machine, &question, &told),
                Ok(_) => vec![odd(machine)],
                Err(failure) => vec![failure],
            }
        });
        all(join_all(asked).await.into_iter().flatten().collect())
    }

    /// Starts candidates, wave by wave, each until it is ready.
    pub(super) async fn start(&mut self) -> Done {
        let Some(plan) = self.plan.clone() else { return Ok(()) };
        let waves = plan.preview.waves.len();
        for (number, group) in plan.preview.waves.iter().enumerate() {
            let work: Vec<SlotWork> =
                self.status.work.iter().filter(|work| is_in(group, work)).cloned().collect();
            let stops = by_machine(
                work.iter().filter(|work| work.stops_first()).filter_map(|work| work.stop.as_ref()),
            );
            if !stops.is_empty() {
                self.tell(format!("wave {} of {waves}: stopping {}", number + 1, count(&stops)));
                self.each(&stops, &DeployCommand::Stop).await?;
            }
            let starts = by_machine(work.iter().filter_map(|work| work.start.as_ref()));
            self.tell(format!("wave {} of {waves}: starting {}", number + 1, count(&starts)));
            self.each(&starts, &|which| DeployCommand::Start(self.candidates(which))).await?;
            self.until_ready(&starts).await?;
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
        let candidates = by_machine(self.status.candidates());
        self.until_ready(&candidates).await?;
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

    async fn until_ready(&mut self, wanted: &ByMachine) -> Done {
        let until = Instant::now() + self.patience(wanted);
        let mut left = wanted.clone();
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
                    // A machine may be silent for a moment; its time is limited by the deadline like everybody's.
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

    /// Tells gateways and DNS, over what they were told before and nothing else.
    pub(super) async fn route(&self) -> Done {
        let Some(Decision::Committed(commit)) = &self.decision else { return Ok(()) };
        let publisher = Publisher::new(self.store.client().clone(), self.store.network());
        for event in commit::events(commit) {
            self.publish(&publisher, &event).await.map_err(|failure| vec![failure])?;
        }
        Ok(())
    }

    async fn publish(&self, publisher: &Publisher, event: &Event) -> Result<(), DeployFailure> {
        let failed = |error: PublishError| {
            DeployFailure::new(ErrorCode::StoreUnavailable, ployz_core::text::chain(&error))
        };
        for _ in 0..CAS_TRIES {
            let (value, sequence) = match publisher.current(&event.key).await {
                Ok(current) => (current.value, current.sequence),
                Err(PublishError::Damaged { sequence, .. }) if event.value.is_some() => (None, sequence),
                Err(error) => return Err(failed(error)),
            };
            if value == event.value {
                return Ok(());
            }
            // After the sequence was read: who takes the deploy over in between changes one of the two.
            self.is_ours().await?;
            let done = match &event.value {
                Some(value) => publisher.put_at(&event.key, value, sequence).await,
                None => publisher.remove_at(&event.key, sequence).await,
            };
            match done {
                Ok(_) => return Ok(()),
                Err(PublishError::Conflict(_)) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(DeployFailure::new(ErrorCode::DeployInterrupted, format!("{} keeps changing", event.key)))
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
        let old = self.retired();
        if old.is_empty() {
            return Ok(());
        }
        self.tell(format!("draining {}", count(&old)));
        let drain = |which| DeployCommand::Drain(Drain { which, at_most: DRAIN });
        let missed = self.everywhere(&[(&old, &drain)]).await;
        self.owe(missed, &[(Owed::Remove, &old)])
    }

    /// Removes old instances.
    pub(super) async fn clean(&mut self) -> Done {
        let old = self.retired();
        if old.is_empty() {
            return Ok(());
        }
        self.tell(format!("removing {}", count(&old)));
        let missed = self.everywhere(&[(&old, &DeployCommand::Remove)]).await;
        self.owe(missed, &[(Owed::Remove, &old)])
    }

    /// Removes candidates, and starts again what was stopped for them.
    pub(super) async fn undo(&mut self) -> Done {
        // Before the probes were answered nothing was asked of anybody.
        if self.status.phase == DeployPhase::Locked {
            return Ok(());
        }
        let candidates = self.members(by_machine(self.status.candidates()));
        let stopped = self.members(by_machine(self.status.stopped()));
        self.tell(format!("removing {}", count(&candidates)));
        if !stopped.is_empty() {
            self.tell(format!("starting {} again", count(&stopped)));
        }
        let orders: [Order<'_>; 2] =
            [(&candidates, &DeployCommand::Remove), (&stopped, &DeployCommand::Restore)];
        let missed = self.everywhere(&orders).await;
        self.owe(missed, &[(Owed::Remove, &candidates), (Owed::Restore, &stopped)])
    }

    /// After the decision nobody is waited for: what a machine did not do is written down, and it does it when it reads
    /// that. Nothing is written by whoever has lost the lock: then others know better.
    fn owe(&mut self, missed: Vec<Missed>, orders: &[(Owed, &ByMachine)]) -> Done {
        if !missed.is_empty() && !self.lease.holds() {
            return Err(missed.into_iter().map(|missed| missed.failure).collect());
        }
        for Missed { machine, order, failure } in missed {
            for (owed, ids) in &orders[order..] {
                for instance in ids.get(&machine).into_iter().flatten() {
                    let placed = Placed { machine: machine.clone(), instance: instance.clone() };
                    self.status = self.status.owing(*owed, &placed);
                }
            }
            self.tell(format!("{machine}: deferred until it is reachable: {failure}"));
            self.failures.push(failure);
        }
        Ok(())
    }

    fn retired(&self) -> ByMachine {
        let commit = self.decision.as_ref().and_then(Decision::commit);
        let old = commit.iter().flat_map(|commit| &commit.retired).map(|old| &old.placed);
        self.members(by_machine(old.filter(|old| !self.status.owes(&old.machine))))
    }

    /// A machine that left took its containers with it.
    fn members(&self, mut wanted: ByMachine) -> ByMachine {
        let members: BTreeSet<MachineId> =
            self.mesh.peers.borrow().machines.iter().map(|machine| machine.id.clone()).collect();
        wanted.retain(|machine, _| members.contains(machine));
        wanted
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

    /// Asks all machines at once.
    async fn each(&self, wanted: &ByMachine, command: &(dyn Fn(Instances) -> DeployCommand + Sync)) -> Done {
        let missed = self.everywhere(&[(wanted, command)]).await;
        all(missed.into_iter().map(|missed| missed.failure).collect())
    }

    async fn everywhere(&self, orders: &[Order<'_>]) -> Vec<Missed> {
        let wanted: Vec<&ByMachine> = orders.iter().map(|(wanted, _)| *wanted).collect();
        let lease = || self.lease.holds().then(|| self.lease.not_after());
        everywhere(&wanted, |order, machine, ids| async move {
            let ask = |not_after| {
                let command = orders[order].1(self.instances(ids.clone(), not_after));
                let (store, machine) = (&self.store, &machine);
                async move { ask(store, machine, &command).await }
            };
            insist(&machine, lease, clock::now, ask).await
        })
        .await
    }
}

fn all(failures: Vec<DeployFailure>) -> Done {
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn is_in(group: &[Wave], work: &SlotWork) -> bool {
    work.start.is_some()
        && group.iter().any(|wave| wave.service == work.service && wave.slots.contains(&work.slot))
}

const POLL_INTERVAL: Duration = Duration::from_millis(400);
const START_TIMEOUT_MIN: Duration = Duration::from_secs(60);
/// The machine's own deadline comes first: it knows what the container said.
const START_TIMEOUT_GRACE: Duration = Duration::from_secs(10);
/// Gateways were told before; this is for requests that are under way.
const DRAIN: Span = Span::from_secs(5);
const CAS_TRIES: usize = 5;
