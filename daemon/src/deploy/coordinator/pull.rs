//! Images that machines lack: what exactly they are, found out before a plan is carried out. `ployz_core::deploy::pull`
//! decides; the machines' part is `crate::pull`, and `fetching` gets them there.

use crate::deploy::coordinator::fetching::{self, worst};
use crate::deploy::coordinator::lease::Lease;
use crate::deploy::coordinator::observe::{Survey, odd};
use crate::deploy::coordinator::planning::{Wish, lost, planned, unchanged_baseline};
use crate::failure::{Failure, Result};
use crate::network::context::Network;
use crate::progress::Say;
use crate::pull::ask::ask;
use futures_util::{StreamExt, stream};
use ployz_core::deploy::DeployPlan;
use ployz_core::deploy::pull::{Need, before, fits, need, of_digest, pull, users, wishes};
use ployz_core::id::{DeployId, MachineId};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::manifest::{ImageDigest, ImageRef, Pull};
use ployz_core::wire::v1::pull::{PullAnswer, PullCommand, PullFound, PullWanted};
use ployz_nats::deploys::Records;
use ployz_nats::store::Store;
use std::collections::{BTreeMap, BTreeSet};

/// The images of one deploy. What a registry said is asked once.
pub(super) struct Images {
    wishes: BTreeMap<ImageRef, Pull>,
    /// What their registries said.
    asked: BTreeMap<ImageRef, ImageDigest>,
}

/// The plan, what it was made from, and what was pulled for it: of images that come from registries, only what they hold
/// says what is to be done.
pub(super) async fn plan_with_images(
    mesh: &Network,
    store: &Store,
    records: &Records,
    lease: &Lease,
    (wish, expected): (Wish<'_>, Option<&DeployId>),
    say: Say<'_>,
) -> Result<(Survey, DeployPlan, Vec<String>)> {
    let mut survey = Survey::make(mesh, store, records, wish.manifest).await?;
    let mut images = Images::of(wish);
    let mut plan = images.plan(store, &mut survey, wish).await?;
    unchanged_baseline(expected, &plan.preview)?;
    let pulls = std::mem::take(&mut plan.preview.pulls);
    if pulls.is_empty() {
        return Ok((survey, plan, Vec::new()));
    }
    let pulled = fetching::fetch(store, &pulls, &survey, say).await?;
    if !lease.holds() {
        return Err(lost(wish.deploy));
    }
    let mut survey = Survey::make(mesh, store, records, wish.manifest).await?;
    let mut plan = images.plan_again(&mut survey, wish)?;
    unchanged_baseline(expected, &plan.preview)?;
    plan.preview.pulls = pulls;
    Ok((survey, plan, pulled))
}

impl Images {
    pub(super) fn of(wish: Wish<'_>) -> Self {
        Self { wishes: wishes(wish.manifest, wish.scope), asked: BTreeMap::new() }
    }

    /// The plan, with what is to be pulled before it. Asks registries, and fetches nothing.
    pub(super) async fn plan(
        &mut self,
        store: &Store,
        survey: &mut Survey,
        wish: Wish<'_>,
    ) -> Result<DeployPlan> {
        let needs: Vec<(ImageRef, Pull, Need)> = self
            .wishes
            .iter()
            .map(|(image, pull)| (image.clone(), *pull, need(*pull, image, survey.seen(image))))
            .collect();
        for (image, _, need) in &needs {
            self.judge(survey, image, need);
        }
        let first = planned(wish, survey)?;
        for (image, wanted, need) in &needs {
            let users = users(&first, image);
            if *need != Need::Ask || users.is_empty() || self.asked.contains_key(image) {
                continue;
            }
            let found = find(store, wish.own, image, &users).await?;
            for_all(image, &found, &users, survey)?;
            if pull(&first, *wanted, image, &found.digest, survey.seen(image)).is_none() {
                survey.judge(image, of_digest(&found.digest, survey.seen(image)));
            }
            self.asked.insert(image.clone(), found.digest);
        }
        let mut plan = planned(wish, survey)?;
        plan.preview.pulls = needs
            .iter()
            .filter_map(|(image, wanted, need)| {
                let digest = match need {
                    Need::Nothing => None,
                    Need::Known(digest) => Some(digest),
                    Need::Ask => self.asked.get(image),
                };
                pull(&plan, *wanted, image, digest?, survey.seen(image))
            })
            .collect();
        Ok(plan)
    }

    /// The plan of what the machines have now that everything was fetched.
    pub(super) fn plan_again(&self, survey: &mut Survey, wish: Wish<'_>) -> Result<DeployPlan> {
        for (image, wanted) in &self.wishes {
            let need = need(*wanted, image, survey.seen(image));
            self.judge(survey, image, &need);
            if let Some(digest) = self.asked.get(image) {
                survey.judge(image, of_digest(digest, survey.seen(image)));
            }
        }
        planned(wish, survey)
    }

    fn judge(&self, survey: &mut Survey, image: &ImageRef, need: &Need) {
        survey.judge(image, before(need, image, survey.seen(image)));
    }
}

/// What a registry has under a name. One machine asks; where it fails, the others do, because another may have a way
/// there or a login.
async fn find(
    store: &Store,
    own: &MachineId,
    image: &ImageRef,
    machines: &BTreeSet<MachineId>,
) -> Result<PullFound> {
    let ask = |machine: MachineId| async move {
        let network = store.network().clone();
        let question = PullCommand::Ask(PullWanted { network, image: image.clone() });
        match ask(store, &machine, &question).await {
            Ok(PullAnswer::Found(found)) => Ok(found),
            Ok(_) => Err(odd(&machine)),
            Err(failure) => Err(failure),
        }
    };
    let first = machines.get(own).or(machines.first()).cloned();
    let Some(first) = first else { return Err(gone(image, Vec::new())) };
    let failure = match ask(first.clone()).await {
        Ok(found) => return Ok(found),
        Err(failure) => failure,
    };
    let others: Vec<MachineId> =
        machines.iter().filter(|machine| **machine != first).take(ASKED).cloned().collect();
    let mut failures = vec![failure];
    for answer in stream::iter(others).map(ask).buffered(ASKED).collect::<Vec<_>>().await {
        match answer {
            Ok(found) => return Ok(found),
            Err(failure) => failures.push(failure),
        }
    }
    Err(gone(image, failures))
}

fn gone(image: &ImageRef, failures: Vec<DeployFailure>) -> Failure {
    let what = format!("{} does not report the image {image}", image.registry());
    worst(&what, failures)
}

/// Whether an image is for every machine that is to run it, as far as that is known.
fn for_all(image: &ImageRef, found: &PullFound, users: &BTreeSet<MachineId>, survey: &Survey) -> Result<()> {
    let wrong = users.iter().filter_map(|machine| {
        let platform = survey.platform(machine)?;
        let offered = found.platforms.join(", ");
        (!fits(platform, &found.platforms))
            .then(|| format!("{machine} is {platform}, the image is for {offered}"))
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let what = format!("the image {image} does not fit the platform of every machine that runs it");
    Err(Failure::new(ErrorCode::ImagePlatform, what).with(wrong))
}

/// Machines that are asked what a registry has, at a time.
const ASKED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_that_tells_most_is_the_one_that_is_named() {
        let failure =
            |code: ErrorCode, machine: &str| DeployFailure::new(code, "x").on(&machine.parse().unwrap());
        let all = vec![
            failure(ErrorCode::MachineUnreachable, "n1"),
            failure(ErrorCode::RegistryUnreachable, "n2"),
            failure(ErrorCode::RegistryLoginFailed, "n3"),
        ];
        let failure = worst("no", all);
        assert_eq!(failure.code, ErrorCode::RegistryLoginFailed);
        assert_eq!(failure.causes.len(), 3);
        assert_eq!(failure.causes[0], "n3: x [REGISTRY_LOGIN_FAILED]");
    }
}
