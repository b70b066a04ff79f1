//! The same asked of many machines: each goes its own way, and one that fails keeps no other from its work.

use futures_util::future::join_all;
use ployz_core::id::{InstanceId, MachineId};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployAnswer, DeployFailure, Placed};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Instances by the machine they are on.
pub(super) type ByMachine = BTreeMap<MachineId, Vec<InstanceId>>;

/// A machine that did not do its part.
pub(super) struct Missed {
    /// Which.
    pub machine: MachineId,
    /// The first order that it did not carry out; those after it were not given.
    pub order: usize,
    /// Why not.
    pub failure: DeployFailure,
}

/// Gives orders to all machines at once, to each one after the other. A failure ends the part of its machine alone.
pub(super) async fn everywhere<W: Future<Output = Result<(), DeployFailure>>>(
    orders: &[&ByMachine],
    work: impl Fn(usize, MachineId, Vec<InstanceId>) -> W,
) -> Vec<Missed> {
    let machines: BTreeSet<&MachineId> = orders.iter().flat_map(|order| order.keys()).collect();
    let work = &work;
    let parts = machines.into_iter().map(|machine| async move {
        for (number, order) in orders.iter().enumerate() {
            let Some(ids) = order.get(machine) else { continue };
            if let Err(failure) = work(number, machine.clone(), ids.clone()).await {
                return Some(Missed { machine: machine.clone(), order: number, failure });
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

/// Instances by their machines.
pub(super) fn by_machine<'a>(placed: impl Iterator<Item = &'a Placed>) -> ByMachine {
    let mut machines = ByMachine::new();
    for placed in placed {
        machines.entry(placed.machine.clone()).or_default().push(placed.instance.clone());
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
pub(super) fn count(machines: &ByMachine) -> String {
    let instances: usize = machines.values().map(Vec::len).sum();
    let s = |number: usize| if number == 1 { "" } else { "s" };
    format!("{instances} instance{} on {} machine{}", s(instances), machines.len(), s(machines.len()))
}

const RETRY_DELAY: Duration = Duration::from_millis(400);
/// The lock is renewed every 5 s: three chances for a clock that is nearly right.
const CLOCK_AHEAD_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn machines(list: &[(&str, &str)]) -> ByMachine {
        let placed: Vec<Placed> = list
            .iter()
            .map(|(machine, id)| Placed { machine: machine.parse().unwrap(), instance: id.parse().unwrap() })
            .collect();
        by_machine(placed.iter())
    }

    #[tokio::test]
    async fn a_dead_machine_keeps_no_other_from_its_work() {
        let candidates = machines(&[("dead", "web-0-new"), ("n1", "web-1-new")]);
        let stopped = machines(&[("dead", "web-0-old"), ("n1", "web-1-old"), ("n2", "web-2-old")]);
        let done = RefCell::new(Vec::new());
        let missed = everywhere(&[&candidates, &stopped], |order, machine, ids| {
            let done = &done;
            async move {
                if machine.as_str() == "dead" {
                    return Err(DeployFailure::new(ErrorCode::ParticipantUnreachable, "away").on(&machine));
                }
                done.borrow_mut().extend(ids.iter().map(|id| format!("{order} {id}")));
                Ok(())
            }
        })
        .await;
        let mut done = done.into_inner();
        done.sort();
        assert_eq!(done, ["0 web-1-new", "1 web-1-old", "1 web-2-old"]);
        let missed: Vec<_> = missed.iter().map(|missed| (missed.machine.as_str(), missed.order)).collect();
        assert_eq!(missed, [("dead", 0)]);
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
