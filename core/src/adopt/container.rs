//! The verdict on one workload container. It is reported and nothing more: a container is made and removed by deploys,
//! restarted by Docker, and recreated by nobody.

use crate::adopt::identity::{made_by_version, other_version};
use crate::adopt::{Cause, Drift, Verdict};
use crate::live::{ContainerLive, ContainerState};
use crate::spec::ContainerSpec;

/// Whether a container is what it should be, for [`crate::adopt::decide::decide`].
pub fn container(spec: &ContainerSpec, live: &ContainerLive) -> Verdict {
    let name = spec.name();
    let (Some(owner), Some(fingerprint)) = (live.owner(), live.fingerprint()) else {
        return Verdict::Hold(format!("not ours: container {name} lacks our labels"));
    };
    if owner.network != spec.owner.network {
        return Verdict::Hold(format!("not ours: container {name} is of network {}", owner.network));
    }
    let mut drift = spec.identity().drift(&live.identity(spec));
    // As for units: another version's hash says nothing, one of our own that differs with equal fields means that
    // something which cannot be read back was changed.
    let ours = spec.identity().fingerprint();
    if drift.is_empty() && other_version(fingerprint).is_none() && fingerprint != ours {
        let short = |hash: &str| hash.chars().take(11).collect::<String>();
        drift.push(Drift::new("fingerprint", &short(fingerprint), &short(&ours)));
    }
    if !drift.is_empty() {
        return Verdict::Recreate(Cause::Drift(drift));
    }
    match state(live.state) {
        None => Verdict::Adopt,
        Some(why) => Verdict::Hold(why),
    }
}

/// What there is to say of a container that is adopted all the same.
pub fn note(live: &ContainerLive) -> Option<String> {
    live.fingerprint().and_then(other_version).map(made_by_version)
}

fn state(state: ContainerState) -> Option<String> {
    match state {
        ContainerState::Running => None,
        ContainerState::Created => Some("was never started".into()),
        ContainerState::Paused => Some("is paused".into()),
        ContainerState::Changing => Some("is between states; Docker is at work".into()),
        ContainerState::Exited(code) => Some(format!("is stopped (exit code {code}); Docker leaves it so")),
        ContainerState::Dead => Some("is dead: Docker could not stop or remove it".into()),
    }
}
