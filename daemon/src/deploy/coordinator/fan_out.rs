//! The same asked of many machines: each goes its own way, and one that fails keeps no other from its work.

use futures_util::future::join_all;
use ployz_core::id::{InstanceId, MachineId};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployAnswer, DeployFailure, Operation};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Instances by the machine they are on.
pub(super) type ByMachine = BTreeMap<MachineId, Vec<InstanceId>>;

/// A machine that did not do its part.
pub(super) struct Missed {
    /// Which.
    pub machine: MachineId,
    /// What it did not do, in order: the operation that failed, and those after it, which were not sent.
    pub left: Vec<Operation>,
    /// Why not.
    pub failure: DeployFailure,
}

/// Sends the operations of one step to all machines at once, to each one after the other. A failure ends the part of its
/// machine alone. The store's operations are left out.
pub(super) async fn everywhere<'a, W: Future<Output = Result<(), DeployFailure>>>(
    operations: &'a [Operation],
    work: impl Fn(&'a MachineId, &'a Operation) -> W,
) -> Vec<Missed> {
    let mut machines: BTreeMap<&MachineId, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        if let Some(machine) = &operation.machine {
            machines.entry(machine).or_default().push(operation);
        }
    }
    let work = &work;
    let parts = machines.into_iter().map(|(machine, operations)| async move {
        let mut left = operations.into_iter();
        while let Some(operation) = left.next() {
            if let Err(failure) = work(machine, operation).await {
                let left = std::iter::once(operation).chain(left).cloned().collect();
                return Some(Missed { machine: machine.clone(), left, failure });
            }
        }
        None
    });
    join_all(parts).await.into_iter().flatten().collect()
}

/// Asks one machine again for as long as it says that it was asked too late and our own lock lasts. One for which even
/// what is in time comes too late has another time than we have; that passes only if somebody sets a clock.
///
/// `lease` is the end of the lock, `None` when it is lost; `now` is Unix seconds.
pub(super) async fn insist<W: Future<Output = Result<DeployAnswer, DeployFailure>>>(
    machine: &MachineId,
    lease: impl Fn() -> Option<u64>,
    now: impl Fn() -> u64,
    ask: impl Fn(u64) -> W,
) -> Result<(), DeployFailure> {
    let mut ahead: Option<Instant> = None;
    loop {
        let Some(not_after) = lease() else {
            let what = "the lock of the deploy was lost";
            return Err(DeployFailure::new(ErrorCode::DeployInterrupted, what).on(machine));
        };
        let DeployAnswer::TooLate { clock } = ask(not_after).await? else { return Ok(()) };
        let ours = now();
        if ours > not_after {
            // It did a part and our own time was over; what is left is asked for with the lock's new end.
            ahead = None;
        } else if ahead.get_or_insert_with(Instant::now).elapsed() >= CLOCK_AHEAD_TIMEOUT {
            return Err(skewed(machine, clock, ours));
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

fn skewed(machine: &MachineId, clock: u64, ours: u64) -> DeployFailure {
    let what = format!(
        "its clock is {}s ahead of this machine's: every request to it would miss its deadline",
        clock.saturating_sub(ours)
    );
    DeployFailure::new(ErrorCode::ClockSkew, what).on(machine)
}

/// The instances of operations by their machines.
pub(super) fn by_machine(operations: &[Operation]) -> ByMachine {
    let mut machines = ByMachine::new();
    for operation in operations {
        if let Some(machine) = &operation.machine {
            machines.entry(machine.clone()).or_default().extend(operation.instances().cloned());
        }
    }
    machines
}

/// Takes one out.
pub(super) fn drop_one(left: &mut ByMachine, machine: &MachineId, instance: &InstanceId) {
    if let Some(ids) = left.get_mut(machine) {
        ids.retain(|id| id != instance);
    }
    left.retain(|_, ids| !ids.is_empty());
}

/// `3 instances on 2 machines`.
pub(super) fn count(operations: &[Operation]) -> String {
    let instances: usize = operations.iter().map(|operation| operation.instances().count()).sum();
    let machines: BTreeSet<&MachineId> =
        operations.iter().filter_map(|operation| operation.machine.as_ref()).collect();
    let s = |number: usize| if number == 1 { "" } else { "s" };
    format!("{instances} instance{} on {} machine{}", s(instances), machines.len(), s(machines.len()))
}

const RETRY_DELAY: Duration = Duration::from_millis(400);
/// The lock is renewed every 5 s: three chances for a clock that is nearly right.
const CLOCK_AHEAD_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::deploy::{DeployPhase, OperationKind, Target};
    use std::cell::{Cell, RefCell};

    fn operation(command: OperationKind, machine: &str, instances: &[&str]) -> Operation {
        let target = |instance: &&str| Target {
            service: "web".parse().unwrap(),
            slot: None,
            instance: Some(instance.parse().unwrap()),
            cause: "undo".into(),
        };
        Operation {
            step: 1,
            phase: DeployPhase::Undone,
            machine: Some(machine.parse().unwrap()),
            command,
            wave: None,
            targets: instances.iter().map(target).collect(),
        }
    }

    #[tokio::test]
    async fn a_dead_machine_keeps_no_other_from_its_work() {
        use OperationKind::{Remove, Restore};
        let operations = [
            operation(Remove, "dead", &["web-0-new"]),
            operation(Remove, "n1", &["web-1-new"]),
            operation(Restore, "dead", &["web-0-old"]),
            operation(Restore, "n1", &["web-1-old", "web-3-old"]),
            operation(Restore, "n2", &["web-2-old"]),
        ];
        assert_eq!(count(&operations), "6 instances on 3 machines");
        let done = RefCell::new(Vec::new());
        let missed = everywhere(&operations, |machine, operation| {
            let done = &done;
            async move {
                if machine.as_str() == "dead" {
                    return Err(DeployFailure::new(ErrorCode::ParticipantUnreachable, "away").on(machine));
                }
                let ids: Vec<&str> = operation.instances().map(InstanceId::as_str).collect();
                done.borrow_mut().push(format!("{machine} {} {}", operation.command, ids.join(" ")));
                Ok(())
            }
        })
        .await;
        // A stable sort: what one machine did stays in the order in which it did it.
        let mut done = done.into_inner();
        done.sort_by_key(|line| line.split(' ').next().map(str::to_owned));
        assert_eq!(done, ["n1 remove web-1-new", "n1 restore web-1-old web-3-old", "n2 restore web-2-old"]);
        assert_eq!(missed.len(), 1);
        let (machine, left) = (missed[0].machine.as_str(), &missed[0].left);
        assert_eq!((machine, left.as_slice()), ("dead", &[operations[0].clone(), operations[2].clone()][..]));
    }

    #[tokio::test]
    async fn what_comes_after_a_failure_is_not_sent_and_is_left() {
        use OperationKind::{Remove, Restore};
        let operations = [operation(Remove, "n1", &["web-0-new"]), operation(Restore, "n1", &["web-0-old"])];
        let missed = everywhere(&operations, |machine, operation| async move {
            match operation.command {
                Restore => Err(DeployFailure::new(ErrorCode::DockerUnavailable, "away").on(machine)),
                _ => Ok(()),
            }
        });
        let missed = missed.await;
        assert_eq!(missed[0].left, [operations[1].clone()], "what it did is not left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_ahead_is_named_and_not_waited_for() {
        let machine: MachineId = "n3".parse().unwrap();
        let began = Instant::now();
        let now = || 1_000 + began.elapsed().as_secs();
        let failure = insist(
            &machine,
            || Some(now() + 18),
            now,
            |_| async { Ok(DeployAnswer::TooLate { clock: now() + 40 }) },
        );
        let failure = failure.await.unwrap_err();
        assert_eq!(failure.code, "CLOCK_SKEW");
        assert!(failure.to_string().starts_with("n3: its clock is 40s ahead"), "{failure}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn what_took_longer_than_the_lock_lasts_is_asked_again() {
        let machine: MachineId = "n1".parse().unwrap();
        let began = Instant::now();
        let now = || 1_000 + began.elapsed().as_secs();
        let asked = Cell::new(0);
        let done = insist(
            &machine,
            || Some(now() + 20),
            now,
            |_| async {
                asked.set(asked.get() + 1);
                // Each time one more is started, and the rest comes too late.
                tokio::time::sleep(Duration::from_secs(25)).await;
                Ok(if asked.get() < 9 { DeployAnswer::TooLate { clock: now() } } else { DeployAnswer::Done })
            },
        );
        assert_eq!(done.await, Ok(()));
        assert_eq!(asked.get(), 9);
        let lost = insist(&machine, || None, now, |_| async { Ok(DeployAnswer::Done) }).await;
        assert_eq!(lost.unwrap_err().code, "DEPLOY_INTERRUPTED");
    }
}
