//! What is believed of the members' records: every member may write what it likes into the store, so what a machine *is* was
//! settled when it was admitted and never changes under its name (decision 0022). What cannot be believed costs only its
//! writer: the record that was believed before stands, and who looks is told.

use crate::address::{AddressPlan, OverlayPrefix};
use crate::mesh::admission::is_small;
use crate::wire::v1::record::{MachineMembership, StorageParticipation};
use std::collections::BTreeMap;
use std::fmt;

/// What the records are judged by.
pub struct Grounds<'a> {
    /// Of the network.
    pub prefix: OverlayPrefix,
    /// Of the network.
    pub plan: &'a AddressPlan,
    /// This machine, as it knows itself.
    pub own: &'a MachineMembership,
    /// The members believed so far.
    pub known: &'a [MachineMembership],
}

/// A record that is not believed as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The key it is under.
    pub key: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The members to go by, by name, and what was not believed.
pub fn believe(
    grounds: &Grounds<'_>,
    seen: &BTreeMap<String, MachineMembership>,
) -> (Vec<MachineMembership>, Vec<Doubt>) {
    let known: BTreeMap<&str, &MachineMembership> = grounds
        .known
        .iter()
        .filter(|known| known.id != grounds.own.id)
        .chain(std::iter::once(grounds.own))
        .map(|known| (known.id.as_str(), known))
        .collect();
    let (mut believed, mut doubts) = (Vec::<MachineMembership>::new(), Vec::new());
    // Who is known comes first, then who was there first: a newcomer takes nothing from either.
    let mut order: Vec<_> = seen.iter().collect();
    order.sort_by_key(|(key, record)| {
        (!known.contains_key(key.as_str()), record.created_at, record.id.clone())
    });
    for (key, record) in order {
        let before = known.get(key.as_str()).copied();
        let wrong = wrong(grounds, key, record, before, &believed);
        if let Some(why) = wrong {
            doubts.push(Doubt { key: key.clone(), why });
        }
        match (wrong, before) {
            (None, before) => believed.push(MachineMembership {
                protocol: record.protocol.max(before.map_or(0, |before| before.protocol)),
                ..record.clone()
            }),
            (Some(_), Some(before)) => believed.push(before.clone()),
            (Some(_), None) => {}
        }
    }
    believed.sort_by(|a, b| a.id.cmp(&b.id));
    (believed, doubts)
}

/// What is wrong with a record.
fn wrong(
    grounds: &Grounds<'_>,
    key: &str,
    record: &MachineMembership,
    before: Option<&MachineMembership>,
    believed: &[MachineMembership],
) -> Option<&'static str> {
    if record.id.as_str() != key {
        return Some("it names another machine than its key");
    }
    if !record.fits(grounds.prefix, grounds.plan) {
        return Some("its addresses do not follow from its key and the network's plan");
    }
    if !is_small(record) {
        return Some("it is too large");
    }
    match before {
        Some(before) if !is_same(before, record) => Some("it gives a known machine another identity"),
        Some(_) => None,
        None => {
            let holder = StorageParticipation::Authority;
            let taken = |other: &MachineMembership| {
                other.public_key == record.public_key
                    || other.subnet == record.subnet
                    || other.nats_key == record.nats_key
                    || other.verify_key == record.verify_key
                    || (other.storage == holder && record.storage == holder)
            };
            let mut others = believed.iter().chain(grounds.known).chain(std::iter::once(grounds.own));
            others.any(taken).then_some("it claims another machine's key, subnet or store")
        }
    }
}

/// Whether two records are of one machine: what was settled when it was admitted.
pub fn is_same(a: &MachineMembership, b: &MachineMembership) -> bool {
    let of = |machine: &MachineMembership| {
        (
            machine.id.clone(),
            machine.public_key,
            machine.overlay_ip,
            machine.subnet,
            machine.nats_key.clone(),
            machine.verify_key.clone(),
            machine.storage,
        )
    };
    of(a) == of(b)
}

/// Whether a machine that is let in now would be another one than it says: its keys or its subnet are a member's.
pub fn is_taken(joiner: &MachineMembership, members: &[MachineMembership]) -> bool {
    members.iter().any(|member| {
        !is_same(member, joiner)
            && (member.id == joiner.id
                || member.public_key == joiner.public_key
                || member.subnet == joiner.subnet
                || member.nats_key == joiner.nats_key
                || member.verify_key == joiner.verify_key)
    })
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NetworkId;
    use crate::key::PublicKey;
    use crate::wire::v1::record::{Lifecycle, RegionRole};

    fn prefix() -> OverlayPrefix {
        OverlayPrefix::of(&NetworkId::from_bytes([7; 16]))
    }

    fn plan() -> AddressPlan {
        AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap()
    }

    fn machine(n: u8) -> MachineMembership {
        let public_key = PublicKey::from_bytes([n; 32]);
        MachineMembership {
            id: format!("n{n}").parse().unwrap(),
            public_key,
            overlay_ip: prefix().address(&public_key),
            subnet: plan().slice(usize::from(n)).unwrap(),
            endpoints: Vec::new(),
            nats_key: format!("U{n}"),
            verify_key: format!("v{n}"),
            lifecycle: Lifecycle::Active,
            storage: if n == 1 { StorageParticipation::Authority } else { StorageParticipation::Candidate },
            region_role: RegionRole::Compute,
            topology: Default::default(),
            labels: Default::default(),
            protocol: 1,
            created_at: 100 + u64::from(n),
            updated_at: 0,
        }
    }

    /// What n1, which knows n1 to n3, believes of a store that has these.
    fn believed(records: &[(&str, MachineMembership)]) -> (Vec<MachineMembership>, Vec<String>) {
        let (plan, own, known) = (plan(), machine(1), [machine(1), machine(2), machine(3)]);
        let grounds = Grounds { prefix: prefix(), plan: &plan, own: &own, known: &known };
        let seen = records.iter().map(|(key, record)| ((*key).to_owned(), record.clone())).collect();
        let (believed, doubts) = believe(&grounds, &seen);
        (believed, doubts.iter().map(|doubt| doubt.key.clone()).collect())
    }

    #[test]
    fn what_a_machine_may_say_of_itself_is_believed() {
        let mut moved = machine(2);
        moved.endpoints = vec!["192.0.2.1:51820".parse().unwrap()];
        moved.lifecycle = Lifecycle::Draining;
        let (members, doubts) = believed(&[("n1", machine(1)), ("n2", moved.clone()), ("n4", machine(4))]);
        assert_eq!((members, doubts), (vec![machine(1), moved, machine(4)], vec![]));
    }

    #[test]
    fn a_known_machine_keeps_its_identity() {
        let taken_over = [
            |m: &mut MachineMembership| m.verify_key = "v9".into(),
            |m: &mut MachineMembership| m.nats_key = "U9".into(),
            |m: &mut MachineMembership| m.subnet = plan().slice(9).unwrap(),
            |m: &mut MachineMembership| {
                m.public_key = PublicKey::from_bytes([9; 32]);
                m.overlay_ip = prefix().address(&m.public_key);
            },
            |m: &mut MachineMembership| m.overlay_ip = machine(3).overlay_ip,
            |m: &mut MachineMembership| {
                m.storage = match m.storage {
                    StorageParticipation::Authority => StorageParticipation::Candidate,
                    StorageParticipation::Candidate => StorageParticipation::Authority,
                }
            },
        ];
        for change in taken_over {
            for victim in [1, 2] {
                let mut record = machine(victim);
                change(&mut record);
                let key = format!("n{victim}");
                let (members, doubts) = believed(&[(&key, record)]);
                assert_eq!((members, doubts), (vec![machine(victim)], vec![key]));
            }
        }
    }

    #[test]
    fn a_machine_that_signs_is_never_one_that_does_not() {
        let mut downgraded = machine(2);
        downgraded.protocol = 0;
        assert_eq!(believed(&[("n2", downgraded)]).0, vec![machine(2)]);
    }

    #[test]
    fn a_newcomer_takes_no_members_key_or_subnet() {
        let claims = [
            |m: &mut MachineMembership| m.subnet = machine(3).subnet,
            |m: &mut MachineMembership| m.nats_key = machine(3).nats_key,
            |m: &mut MachineMembership| m.verify_key = machine(1).verify_key,
            |m: &mut MachineMembership| {
                m.public_key = machine(3).public_key;
                m.overlay_ip = machine(3).overlay_ip;
            },
            |m: &mut MachineMembership| m.id = "n3".parse().unwrap(),
            |m: &mut MachineMembership| m.storage = StorageParticipation::Authority,
            |m: &mut MachineMembership| {
                m.labels = (0..1000).map(|n| (n.to_string(), String::new())).collect()
            },
        ];
        for claim in claims {
            let mut ghost = machine(9);
            ghost.created_at = 0;
            claim(&mut ghost);
            // n3's own record may be gone from the picture for a moment: its slice is still its own.
            for with in [true, false] {
                let mut records = vec![("n1", machine(1)), ("n9", ghost.clone())];
                records.extend(with.then(|| ("n3", machine(3))));
                let (members, doubts) = believed(&records);
                assert_eq!(doubts, ["n9"]);
                assert!(!members.iter().any(|member| member.public_key == machine(9).public_key));
            }
        }
        // Of two newcomers the one that was there first.
        let mut second = machine(5);
        second.subnet = machine(4).subnet;
        let (members, doubts) = believed(&[("n4", machine(4)), ("n5", second)]);
        assert_eq!((members, doubts), (vec![machine(4)], vec!["n5".to_owned()]));
    }

    #[test]
    fn who_left_is_not_kept() {
        assert_eq!(believed(&[("n1", machine(1)), ("n3", machine(3))]).0, vec![machine(1), machine(3)]);
    }
}
