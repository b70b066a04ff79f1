//! Which records of members this machine goes by, and what it says of itself. What it does not believe it names: `doctor` shows it.

use crate::network::context::Network;
use crate::state::NetworkFile;
use ployz_core::mesh::belief::{self, Doubt, Grounds};
use ployz_core::wire::v1::record::{InviteRecord, MachineMembership, PROTOCOL};
use std::collections::{BTreeMap, BTreeSet};

/// The members to go by, of those that the store has.
pub(super) fn believed(
    mesh: &Network,
    network: &NetworkFile,
    seen: &BTreeMap<String, MachineMembership>,
    unreadable: &BTreeSet<String>,
) -> Vec<MachineMembership> {
    let known = mesh.peers.borrow().machines.clone();
    let grounds =
        Grounds { prefix: network.prefix(), plan: &network.plan, own: &network.machine, known: &known };
    let (members, mut doubts) = belief::believe(&grounds, seen);
    doubts.extend(unreadable.iter().map(|key| Doubt { key: key.clone(), why: "it cannot be read" }));
    mesh.shared.doubts.send_if_modified(|before| {
        let changed = before.as_ref() != Some(&doubts);
        for doubt in doubts.iter().filter(|doubt| !before.iter().flatten().any(|known| known == *doubt)) {
            tracing::warn!(target: "audit", key = doubt.key, why = doubt.why, "a member's record is not believed");
        }
        *before = Some(doubts);
        changed
    });
    members
}

/// Whether this machine's own record in the store is another's work: written over, or made by an issuer that did not know all of it.
/// Where it can be reached is not looked at: a copy of this machine's state would write against it for ever.
pub(super) fn is_own_stale(
    mesh: &Network,
    seen: &BTreeMap<String, MachineMembership>,
    unreadable: &BTreeSet<String>,
) -> bool {
    let machine = mesh.network().machine;
    let key = machine.id.as_str();
    let differs =
        |stored: &MachineMembership| !belief::is_same(&machine, stored) || stored.protocol < PROTOCOL;
    unreadable.contains(key) || seen.get(key).is_some_and(differs)
}

/// What this machine's record should be: what it is by itself, and, where the store has a record of it, what operators made of it.
pub(super) fn own(own: &MachineMembership, stored: Option<&MachineMembership>) -> MachineMembership {
    let mine = MachineMembership { protocol: PROTOCOL, ..own.clone() };
    match stored.filter(|stored| belief::is_same(own, stored)) {
        None => mine,
        Some(stored) => MachineMembership {
            lifecycle: stored.lifecycle,
            region_role: stored.region_role,
            labels: stored.labels.clone(),
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            ..mine
        },
    }
}

/// Whether the machine that an invite lets in, if any, is one of its own: not a member under another name, nor with a member's slice.
pub(super) fn may_join(network: &NetworkFile, members: &[MachineMembership], invite: &InviteRecord) -> bool {
    use ployz_core::wire::v1::record::InviteState::{Consumed, Redeemed};
    let (Redeemed { joiner } | Consumed { joiner, .. }) = &invite.state else { return true };
    joiner.fits(network.prefix(), &network.plan) && !belief::is_taken(joiner, members)
}
