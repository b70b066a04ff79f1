//! Images that machines lack, fetched and named before anything is written: each machine pulls by itself, and one that the
//! registry gives nothing gets it from one that has it. Cut off anywhere, engines hold images without a name and no more.

use crate::deploy::coordinator::observe::{Survey, odd};
use crate::failure::{Failure, Result};
use crate::progress::Say;
use crate::pull::ask::ask;
use futures_util::future::join_all;
use parking_lot::Mutex;
use ployz_core::deploy::pull::Seen;
use ployz_core::deploy::registry;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployFailure, ImagePull};
use ployz_core::wire::v1::manifest::ImageRef;
use ployz_core::wire::v1::pull::{PullAnswer, PullCommand, PullGive, PullName, PullProgress, PullWanted};
use ployz_nats::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// One image that is being fetched.
struct Fetching<'a> {
    store: &'a Store,
    pull: &'a ImagePull,
    pinned: ImageRef,
    standing: Mutex<BTreeMap<MachineId, PullProgress>>,
}

type Failed = BTreeMap<MachineId, DeployFailure>;

/// Fetches everything, each image on all machines that lack it, and says so.
pub(super) async fn fetch(
    store: &Store,
    pulls: &[ImagePull],
    survey: &Survey,
    say: Say<'_>,
) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let mut fetched = Vec::new();
    for pull in pulls {
        let long =
            || Failure::new(ErrorCode::InvalidArgument, format!("the name {} is too long", pull.image));
        let pinned = match pull.image.digest() {
            Some(_) => pull.image.clone(),
            None => pull.image.pinned(&pull.digest).ok_or_else(long)?,
        };
        say(&pull.to_string());
        let fetching = Fetching { store, pull, pinned, standing: Mutex::default() };
        let given = fetching.everywhere(survey, say).await?;
        let from = given.iter().map(|(to, from)| format!("; {to} has it from {from}")).collect::<String>();
        said.push(format!("pulled {} ({}){from}", pull.image, pull.digest));
        fetched.push(fetching);
    }
    // Named when all are there: cut off before, no name leads to another image than it did.
    for fetching in fetched.iter().filter(|fetching| fetching.pull.image.digest().is_none()) {
        fetching.name().await?;
    }
    said.iter().for_each(|line| say(line));
    Ok(said)
}

impl Fetching<'_> {
    /// Fetches it on all machines; says who got it from whom.
    async fn everywhere(&self, survey: &Survey, say: Say<'_>) -> Result<Vec<(MachineId, MachineId)>> {
        let work = async {
            let failed = self.fetch_all().await;
            if failed.is_empty() { Ok(Vec::new()) } else { self.give_rest(failed, survey).await }
        };
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        let mut last = String::new();
        loop {
            // Cancel-safe: the work is pinned and polled on.
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let line = self.progress();
                    if line != last && !line.is_empty() {
                        say(&format!("pulling {}: {line}", self.pull.image));
                        last = line;
                    }
                }
            }
        }
    }

    async fn fetch_all(&self) -> Failed {
        let command = PullCommand::Fetch(self.wanted());
        let command = &command;
        let parts = self.pull.on.iter().map(|machine| async move {
            self.carried_out(machine, machine, command).await.err().map(|failure| (machine.clone(), failure))
        });
        join_all(parts).await.into_iter().flatten().collect()
    }

    /// Machines that the registry gives nothing get it from those that have it.
    async fn give_rest(&self, failed: Failed, survey: &Survey) -> Result<Vec<(MachineId, MachineId)>> {
        let givers = givers(self.pull, &failed, survey.seen(&self.pull.image));
        let parts = failed.into_iter().enumerate().map(|(index, (machine, failure))| {
            let alike = |giver: &&MachineId| survey.platform(giver) == survey.platform(&machine);
            let able: Vec<&MachineId> = givers.iter().filter(alike).collect();
            let giver = able.get(index % able.len().max(1)).map(|giver| (*giver).clone());
            async move {
                let Some(giver) = giver.filter(|_| can_be_given(&failure)) else { return Err(vec![failure]) };
                let give = PullCommand::Give(PullGive { wanted: self.wanted(), to: machine.clone() });
                match self.carried_out(&giver, &machine, &give).await {
                    Ok(()) => Ok((machine, giver)),
                    Err(another) => Err(vec![failure, another]),
                }
            }
        });
        let (mut given, mut failures) = (Vec::new(), Vec::new());
        for part in join_all(parts).await {
            match part {
                Ok(one) => given.push(one),
                Err(both) => failures.extend(both),
            }
        }
        if failures.is_empty() {
            return Ok(given);
        }
        Err(worst(&format!("the image {} cannot be brought to every machine", self.pull.image), failures))
    }

    /// Asks a machine to do something and again until it is done. One whose ployzd was restarted begins again.
    async fn carried_out(
        &self,
        machine: &MachineId,
        whose: &MachineId,
        command: &PullCommand,
    ) -> std::result::Result<(), DeployFailure> {
        let (until, mut answered) = (Instant::now() + PULL_TIMEOUT, Instant::now());
        loop {
            match ask(self.store, machine, command).await {
                Ok(PullAnswer::Done) => return Ok(()),
                Ok(PullAnswer::Working(progress)) if Instant::now() < until => {
                    answered = Instant::now();
                    self.stands(whose, progress);
                }
                Ok(PullAnswer::Working(_)) => {
                    let what = format!("timed out after {}s", PULL_TIMEOUT.as_secs());
                    return Err(DeployFailure::new(ErrorCode::ImagePullFailed, what).on(machine));
                }
                Ok(_) => return Err(odd(machine)),
                Err(failure) if passes(&failure) && answered.elapsed() < RESTART_TIMEOUT => {}
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn name(&self) -> Result<()> {
        let name = PullName { wanted: self.wanted(), name: self.pull.image.clone() };
        let command = PullCommand::Name(name);
        let command = &command;
        let parts = self.pull.on.iter().map(|machine| self.carried_out(machine, machine, command));
        let failures: Vec<DeployFailure> =
            join_all(parts).await.into_iter().filter_map(|done| done.err()).collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(worst(&format!("the image {} was fetched but could not be tagged", self.pull.image), failures))
    }

    fn wanted(&self) -> PullWanted {
        PullWanted { network: self.store.network().clone(), image: self.pinned.clone() }
    }

    fn stands(&self, machine: &MachineId, progress: PullProgress) {
        self.standing.lock().insert(machine.clone(), progress);
    }

    fn progress(&self) -> String {
        let standing = self.standing.lock();
        let moving = standing.iter().filter(|(_, progress)| **progress != PullProgress::default());
        moving
            .map(|(machine, progress)| format!("{machine} {}", line(progress)))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Machines that have it: those that fetched it, and those that had it before.
fn givers(pull: &ImagePull, failed: &Failed, seen: &Seen) -> BTreeSet<MachineId> {
    let fetched = pull.on.iter().filter(|machine| !failed.contains_key(*machine));
    let pinned = pull.image.digest().is_some();
    let had = seen.iter().filter(|(_, seen)| pinned || seen.digests.contains(&pull.digest));
    fetched.chain(had.map(|(machine, _)| machine)).cloned().collect()
}

/// Whether another machine could do what a registry did not: a machine that has no room, or is away, is not helped.
fn can_be_given(failure: &DeployFailure) -> bool {
    let helpless = [
        ErrorCode::DiskFull,
        ErrorCode::DockerUnavailable,
        ErrorCode::MachineUnreachable,
        ErrorCode::ImagePlatform,
        ErrorCode::InvalidRequest,
    ];
    helpless.iter().all(|code| code.as_str() != failure.code)
}

fn passes(failure: &DeployFailure) -> bool {
    [ErrorCode::MachineUnreachable, ErrorCode::TransferBusy].iter().any(|code| code.as_str() == failure.code)
}

fn line(progress: &PullProgress) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let bytes = (progress.of_bytes > 0).then(|| {
        format!("{} of {} MiB", mib(progress.bytes).min(mib(progress.of_bytes)), mib(progress.of_bytes))
    });
    let layers =
        (progress.of_layers > 0).then(|| format!("{} of {} layers", progress.layers, progress.of_layers));
    layers.into_iter().chain(bytes).collect::<Vec<_>>().join(", ")
}

/// The failure that tells most, with all of them as causes.
pub(super) fn worst(what: &str, mut failures: Vec<DeployFailure>) -> Failure {
    failures.sort_by_key(|failure| std::cmp::Reverse(registry::weight(&failure.code)));
    let code = failures.first().and_then(|failure| failure.code.parse().ok());
    let causes = failures.iter().map(|failure| format!("{failure} [{}]", failure.code)).collect();
    Failure::new(code.unwrap_or(ErrorCode::ImagePullFailed), what).with(causes)
}

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// A ployzd that is upgraded is away for a few seconds.
const RESTART_TIMEOUT: Duration = Duration::from_secs(15);
/// A machine ends its own part earlier.
const PULL_TIMEOUT: Duration = Duration::from_secs(3900);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_known() {
        let of =
            |layers, of_layers, bytes, of_bytes| line(&PullProgress { layers, of_layers, bytes, of_bytes });
        assert_eq!(of(1, 3, 5 << 20, 40 << 20), "1 of 3 layers, 5 of 40 MiB");
        assert_eq!(of(1, 3, 0, 0), "1 of 3 layers");
        assert_eq!(of(0, 0, 5 << 20, 4 << 20), "4 of 4 MiB");
    }

    #[test]
    fn an_image_is_given_by_those_that_have_this_one() {
        let digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let on = ["n1", "n2"].map(|machine| machine.parse().unwrap()).into();
        let pull = ImagePull { image: "web:1".parse().unwrap(), digest, on };
        let failure = DeployFailure::new(ErrorCode::RegistryUnreachable, "x");
        let failed = BTreeMap::from([("n2".parse().unwrap(), failure.clone())]);
        assert_eq!(givers(&pull, &failed, &Seen::new()), ["n1".parse().unwrap()].into());
        assert!(can_be_given(&failure));
        assert!(!can_be_given(&DeployFailure::new(ErrorCode::DiskFull, "x")));
    }
}
