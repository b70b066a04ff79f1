//! Whether the state on disk is this machine's: it is not where it was copied from another, or where the peers hear another
//! machine under its key.

use crate::failure::Failure;
use crate::state::{Disk, DiskError, HeldFile};
use ployz_core::adopt::Drift;
use ployz_core::id::NetworkName;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::doctor::Check;
use ployz_netns::host;

/// Whether the state that should run here is this machine's.
pub fn check(disk: &Disk, name: &NetworkName, is_up: bool) -> Check {
    let held = match why_held(disk, name) {
        Ok(None) => None,
        Ok(Some(Held::Peers(held))) => Some(held.why),
        Ok(Some(Held::Moved(differs))) => (!is_up).then(|| moved(&differs)),
        Err(error) => {
            return Check::warn("identity", ployz_core::text::chain(&error), "run this as root");
        }
    };
    match held {
        None => Check::ok("identity", "the state belongs to this machine"),
        Some(why) => Check::fail("identity", why, ErrorCode::IdentityHeld.hint()),
    }
}

/// Why it is another machine's.
pub enum Held {
    /// The peers say so.
    Peers(HeldFile),
    /// It was made on a machine that differs so.
    Moved(Vec<Drift>),
}

/// Why a network's identity is another machine's; `None` where it is this one's.
pub fn why_held(disk: &Disk, name: &NetworkName) -> Result<Option<Held>, DiskError> {
    if let Some(held) = disk.held(name)? {
        return Ok(Some(Held::Peers(held)));
    }
    let Some(made_on) = disk.host_mark(name)? else { return Ok(None) };
    let differs = made_on.differs(&host::mark());
    Ok((!differs.is_empty()).then_some(Held::Moved(differs)))
}

/// In words.
pub fn moved(differs: &[Drift]) -> String {
    format!("the state belongs to another machine: {}", list(differs))
}

/// One after another.
pub fn list(differs: &[Drift]) -> String {
    differs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The failure of whatever needs a network that is held.
pub fn held_failure(name: &NetworkName, why: String) -> Failure {
    let message = format!("network {name} is held: its state belongs to another machine");
    Failure::new(ErrorCode::IdentityHeld, message).with(vec![why])
}
