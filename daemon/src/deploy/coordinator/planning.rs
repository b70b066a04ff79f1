//! From what is wanted to a plan, and whether it still is one of what was previewed.

use crate::deploy::coordinator::observe::Survey;
use crate::failure::{Failure, Result};
use ployz_core::deploy::{DeployPlan, Scope, plan};
use ployz_core::id::{DeployId, MachineId};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::Preview;
use ployz_core::wire::v1::manifest::Manifest;

/// What is deployed, and by whom.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub manifest: &'a Manifest,
    pub scope: &'a Scope,
    pub deploy: &'a DeployId,
    /// The machine that coordinates.
    pub own: &'a MachineId,
}

pub(super) fn planned(wish: Wish<'_>, survey: &Survey) -> Result<DeployPlan> {
    let mut draw = || u64::from_le_bytes(ployz_host::random::bytes());
    plan(wish.manifest, wish.scope, &survey.world(), wish.deploy, &mut draw)
        .map_err(|error| Failure::new(error.code(), error.to_string()))
}

pub(super) fn unchanged_baseline(expected: Option<&DeployId>, preview: &Preview) -> Result<()> {
    match expected {
        Some(expected) if preview.baseline.as_ref() != Some(expected) => {
            let now = preview.baseline.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let message =
                format!("the preview was made from deploy {expected}, but {now} has been committed since");
            Err(Failure::new(ErrorCode::BaselineChanged, message))
        }
        _ => Ok(()),
    }
}

pub(super) fn lost(deploy: &DeployId) -> Failure {
    Failure::new(ErrorCode::DeployInterrupted, format!("the lock of deploy {deploy} was lost"))
}
