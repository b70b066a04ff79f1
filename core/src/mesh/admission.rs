//! Whether an issuer's answer is what its token promised. The answer decides a directory, addresses and whose keys are
//! believed on the joining machine, and the issuer wrote both: nothing in it is taken on trust.

use crate::address::{AddressPlan, OverlayPrefix};
use crate::id::{NetworkId, NetworkName};
use crate::wire::v1::join::{RedeemRequest, RedeemResponse};
use crate::wire::v1::record::{MachineMembership, StorageParticipation};
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// What the joining machine knows before it asks.
#[derive(Debug, Clone, Copy)]
pub struct Promised<'a> {
    /// The network, by the token.
    pub network: &'a NetworkId,
    /// Its name, by the token: the directory on this machine.
    pub name: &'a NetworkName,
    /// Its addresses, by the token.
    pub plan: &'a AddressPlan,
    /// Where the token is redeemed.
    pub issuer: Ipv6Addr,
}

/// Why an answer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another network than the token's.
    #[error("the issuer's answer is for another network: its {0} is not the token's")]
    Network(&'static str),
    /// Another machine's membership.
    #[error("the issuer's answer is for another machine: its {0} is not what this machine sent")]
    Machine(&'static str),
    /// A list of members that cannot be.
    #[error("the issuer's member list is invalid: {0}")]
    Members(String),
}

impl Promised<'_> {
    /// Judges an answer; gives the member that holds the store.
    pub fn judge<'a>(
        &self,
        asked: &RedeemRequest,
        answer: &'a RedeemResponse,
    ) -> Result<&'a MachineMembership, Refused> {
        for (same, what) in [
            (answer.network_id == *self.network, "id"),
            (answer.network_name == *self.name, "name"),
            (answer.plan == *self.plan, "address plan"),
        ] {
            same.then_some(()).ok_or(Refused::Network(what))?;
        }
        let own = &answer.membership;
        for (same, what) in [
            (own.public_key == asked.public_key, "key"),
            (own.nats_key == asked.nats_key, "NATS key"),
            (own.verify_key == asked.verify_key, "signing key"),
            (own.fits(OverlayPrefix::of(self.network), self.plan), "address"),
            (is_small(own), "size"),
        ] {
            same.then_some(()).ok_or(Refused::Machine(what))?;
        }
        self.members(own, &answer.machines)
    }

    /// Judges the members; gives the one that holds the store.
    pub fn members<'a>(
        &self,
        own: &MachineMembership,
        machines: &'a [MachineMembership],
    ) -> Result<&'a MachineMembership, Refused> {
        let bad = |why: String| Err(Refused::Members(why));
        if machines.len() > self.plan.capacity() {
            return bad(format!(
                "{} members exceed the network's {} subnets",
                machines.len(),
                self.plan.capacity()
            ));
        }
        let prefix = OverlayPrefix::of(self.network);
        // Before it is confirmed this machine is not in the list, but its name and node subnet are taken.
        let listed = machines.iter().any(|machine| machine.public_key == own.public_key);
        let all = machines.iter().chain((!listed).then_some(own));
        let (mut ids, mut keys, mut users, mut slices) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for machine in all {
            let id = &machine.id;
            if !machine.fits(prefix, self.plan) {
                return bad(format!("{id} claims addresses that are not its own"));
            }
            if !is_small(machine) {
                return bad(format!("the record of {id} is too large"));
            }
            let first = ids.insert(id)
                && keys.insert(*machine.public_key.as_bytes())
                && users.insert(&machine.nats_key)
                && slices.insert(machine.subnet);
            if !first {
                return bad(format!("{id} has another's name, key or subnet"));
            }
            let same =
                machine.public_key != own.public_key || (*id == own.id && machine.subnet == own.subnet);
            if !same {
                return bad("this machine's own record differs from its membership".into());
            }
        }
        if !machines.iter().any(|machine| machine.overlay_ip == self.issuer) {
            return bad("the issuer is not in it".into());
        }
        let mut holders =
            machines.iter().filter(|machine| machine.storage == StorageParticipation::Authority);
        match (holders.next(), holders.next()) {
            (Some(holder), None) if holder.public_key != own.public_key => Ok(holder),
            _ => bad("it does not name the machine that holds the store".into()),
        }
    }
}

/// Whether a record is one that a machine of ours would write.
pub fn is_small(machine: &MachineMembership) -> bool {
    let short = |text: &str| text.len() <= MOST_TEXT;
    let topology = [&machine.topology.region, &machine.topology.availability_zone];
    machine.endpoints.len() <= MOST_ENDPOINTS
        && machine.labels.len() <= MOST_LABELS
        && machine.labels.iter().all(|(name, value)| short(name) && short(value))
        && topology.into_iter().flatten().all(|text| short(text))
        && short(&machine.nats_key)
        && short(&machine.verify_key)
}

/// A host with many addresses has dozens of candidates.
const MOST_ENDPOINTS: usize = 256;
const MOST_LABELS: usize = 64;
const MOST_TEXT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::InviteId;
    use crate::key::PublicKey;
    use crate::wire::v1::record::{Lifecycle, RegionRole};

    fn network() -> NetworkId {
        NetworkId::from_bytes([2; 16])
    }

    fn plan() -> AddressPlan {
        AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap()
    }

    fn machine(n: u8) -> MachineMembership {
        let public_key = PublicKey::from_bytes([n; 32]);
        let storage = if n == 1 { StorageParticipation::Authority } else { StorageParticipation::Candidate };
        MachineMembership {
            id: format!("n{n}").parse().unwrap(),
            public_key,
            overlay_ip: OverlayPrefix::of(&network()).address(&public_key),
            subnet: plan().slice(usize::from(n)).unwrap(),
            endpoints: Vec::new(),
            nats_key: format!("U{n}"),
            verify_key: format!("v{n}"),
            lifecycle: Lifecycle::Active,
            storage,
            region_role: RegionRole::Compute,
            protocol: 0,
            topology: Default::default(),
            labels: Default::default(),
            created_at: 0,
            updated_at: 0,
        }
    }

    fn asked() -> RedeemRequest {
        let own = machine(3);
        RedeemRequest {
            invite_id: InviteId::from_bytes([1; 8]),
            name: own.id,
            public_key: own.public_key,
            nats_key: own.nats_key,
            verify_key: own.verify_key,
            endpoints: Vec::new(),
            topology: Default::default(),
        }
    }

    fn judge(change: impl FnOnce(&mut RedeemResponse)) -> Result<MachineMembership, Refused> {
        let (network, plan, name) = (network(), plan(), "prod".parse().unwrap());
        let mut answer = RedeemResponse {
            network_id: network.clone(),
            network_name: "prod".parse().unwrap(),
            plan,
            membership: machine(3),
            machines: vec![machine(1), machine(2)],
        };
        change(&mut answer);
        let issuer = machine(2).overlay_ip;
        Promised { network: &network, name: &name, plan: &plan, issuer }.judge(&asked(), &answer).cloned()
    }

    #[test]
    fn an_honest_answer_names_who_holds_the_store() {
        assert_eq!(judge(|_| {}).unwrap().id.as_str(), "n1");
        assert!(judge(|answer| answer.machines.push(machine(3))).is_ok(), "confirmed before");
        assert!(judge(|answer| answer.membership.id = "n3-0303".parse().unwrap()).is_ok(), "renamed");
    }

    #[test]
    fn an_answer_for_another_network_or_machine_is_refused() {
        assert_eq!(
            judge(|answer| answer.network_name = "sec".parse().unwrap()),
            Err(Refused::Network("name"))
        );
        assert_eq!(
            judge(|answer| answer.network_id = NetworkId::from_bytes([3; 16])),
            Err(Refused::Network("id"))
        );
        let other = AddressPlan::new("10.102.0.0/16".parse().unwrap(), 24).unwrap();
        assert_eq!(judge(|answer| answer.plan = other), Err(Refused::Network("address plan")));
        assert_eq!(judge(|answer| answer.membership = machine(4)), Err(Refused::Machine("key")));
        assert_eq!(
            judge(|answer| answer.membership.nats_key = "Ux".into()),
            Err(Refused::Machine("NATS key"))
        );
        assert_eq!(
            judge(|answer| answer.membership.overlay_ip = machine(4).overlay_ip),
            Err(Refused::Machine("address"))
        );
    }

    #[test]
    fn members_that_cannot_all_be_are_refused() {
        let refused = |change: &dyn Fn(&mut RedeemResponse)| {
            let judged = judge(|answer| change(answer));
            assert!(matches!(judged, Err(Refused::Members(_))), "{judged:?}");
        };
        refused(&|answer| answer.machines.push(machine(2)));
        refused(&|answer| answer.machines[1].id = "n1".parse().unwrap());
        refused(&|answer| answer.machines[1].subnet = machine(1).subnet);
        refused(&|answer| answer.machines[1].nats_key = machine(1).nats_key);
        refused(&|answer| answer.membership.id = "n1".parse().unwrap());
        refused(&|answer| answer.membership.subnet = machine(1).subnet);
        refused(&|answer| answer.machines[1].overlay_ip = machine(9).overlay_ip);
        refused(&|answer| answer.machines[1].storage = StorageParticipation::Authority);
        refused(&|answer| answer.machines[0].storage = StorageParticipation::Candidate);
        refused(&|answer| drop(answer.machines.remove(1)));
        refused(&|answer| answer.machines[1].labels = [("a".into(), "b".repeat(300))].into());
        refused(&|answer| answer.machines[1].endpoints = vec!["10.0.0.1:1".parse().unwrap(); 300]);
        refused(&|answer| {
            answer.machines.push(MachineMembership { subnet: plan().slice(9).unwrap(), ..machine(3) });
        });
    }
}
