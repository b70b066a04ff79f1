//! What may become of an invite. Every transition is a function of the stored record, so the caller can apply it
//! with a compare-and-set and simply try again when it lost.

use crate::key::PublicKey;
use crate::wire::v1::record::{InviteRecord, InviteState, MachineMembership};

/// Why an invite cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Past its time.
    #[error("the invite has expired")]
    Expired,
    /// Another machine used it, or this one is a member already.
    #[error("the invite was already used")]
    Consumed,
    /// Taken back.
    #[error("the invite was revoked")]
    Revoked,
    /// Confirmed before it was redeemed, or by another machine.
    #[error("the invite was not redeemed by this machine")]
    NotRedeemed,
}

/// What to do after a transition was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Store this record.
    Write(InviteState),
    /// It was done before by the same machine: answer again, write nothing.
    Already(InviteState),
}

impl InviteRecord {
    /// Whether the one-time tunnel is kept: while the token can be used, and for a moment after it was used or taken
    /// back, so that a joiner that presents it just too late gets the reason.
    pub fn is_heard(&self, now: u64) -> bool {
        let until = match self.state {
            InviteState::Active | InviteState::Redeemed { .. } => self.ends(),
            InviteState::Consumed { at, .. } | InviteState::Revoked { at } => {
                self.ends().min(at.saturating_add(CLOSED_LINGER_SECS))
            }
            InviteState::Expired => return false,
        };
        now < until
    }

    /// When it can no longer be redeemed, Unix seconds: a record that claims a longer life than an invite may have ends with
    /// the longest.
    pub fn ends(&self) -> u64 {
        self.expires_at.min(self.created_at.saturating_add(LIFETIME_MAX_SECS))
    }

    /// When a machine that redeemed it in time must be done.
    fn closes(&self) -> u64 {
        self.ends().saturating_add(CONFIRM_GRACE_SECS)
    }

    /// Nothing depends on it any more: neither a join in progress nor a refusal that has to be delivered.
    pub fn is_over(&self, now: u64) -> bool {
        self.joiner().is_none() && !self.is_heard(now) && self.lapse(now).is_none()
    }

    /// The machine that is being let in, if any.
    pub fn joiner(&self) -> Option<&MachineMembership> {
        match &self.state {
            InviteState::Redeemed { joiner } => Some(joiner),
            _ => None,
        }
    }

    /// A machine presents the token. The same machine may do so again until it is a member (its answer may have
    /// been lost); another one may not.
    pub fn redeem(
        &self,
        key: &PublicKey,
        now: u64,
        joiner: impl FnOnce() -> MachineMembership,
    ) -> Result<Next, Refusal> {
        match &self.state {
            InviteState::Revoked { .. } => Err(Refusal::Revoked),
            InviteState::Consumed { .. } => Err(Refusal::Consumed),
            InviteState::Expired => Err(Refusal::Expired),
            InviteState::Redeemed { joiner } if joiner.public_key != *key => Err(Refusal::Consumed),
            _ if now >= self.ends() => Err(Refusal::Expired),
            InviteState::Redeemed { .. } => Ok(Next::Already(self.state.clone())),
            InviteState::Active => Ok(Next::Write(InviteState::Redeemed { joiner: Box::new(joiner()) })),
        }
    }

    /// The machine runs with its own key: it becomes a member. Asking again is not an error.
    pub fn confirm(&self, key: &PublicKey, now: u64) -> Result<Next, Refusal> {
        match &self.state {
            InviteState::Consumed { joiner, .. } if joiner.public_key == *key => {
                Ok(Next::Already(self.state.clone()))
            }
            InviteState::Consumed { .. } => Err(Refusal::Consumed),
            InviteState::Revoked { .. } => Err(Refusal::Revoked),
            InviteState::Expired => Err(Refusal::Expired),
            InviteState::Redeemed { joiner } if joiner.public_key == *key => {
                if now >= self.closes() {
                    return Err(Refusal::Expired);
                }
                Ok(Next::Write(InviteState::Consumed { joiner: joiner.clone(), at: now }))
            }
            InviteState::Redeemed { .. } | InviteState::Active => Err(Refusal::NotRedeemed),
        }
    }

    /// An operator takes it back. What is finished stays finished.
    pub fn revoke(&self, now: u64) -> Result<Next, Refusal> {
        match &self.state {
            InviteState::Consumed { .. } => Err(Refusal::Consumed),
            InviteState::Revoked { .. } => Ok(Next::Already(self.state.clone())),
            _ => Ok(Next::Write(InviteState::Revoked { at: now })),
        }
    }

    /// Time has passed: `Some` when the record must be closed and what was reserved given back.
    pub fn lapse(&self, now: u64) -> Option<InviteState> {
        let until = match self.state {
            InviteState::Active => self.ends(),
            InviteState::Redeemed { .. } => self.closes(),
            _ => return None,
        };
        (now >= until).then_some(InviteState::Expired)
    }

    /// `active`, `redeemed`, `consumed`, `revoked` or `expired`, as an operator sees it now.
    pub fn status(&self, now: u64) -> &'static str {
        match self.state {
            _ if self.lapse(now).is_some() => "expired",
            InviteState::Active => "active",
            InviteState::Redeemed { .. } => "redeemed",
            InviteState::Consumed { .. } => "consumed",
            InviteState::Revoked { .. } => "revoked",
            InviteState::Expired => "expired",
        }
    }
}

/// Seconds an invite may be good for: 30 days. `machine invite create` gives a week at most.
pub const LIFETIME_MAX_SECS: u64 = 30 * 86_400;

/// Seconds a closed invite is still answered for.
pub const CLOSED_LINGER_SECS: u64 = 5;

/// Seconds a machine that redeemed in time has to finish.
pub const CONFIRM_GRACE_SECS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::AddressPlan;
    use crate::id::{InviteId, MachineId};
    use crate::wire::v1::record::{Lifecycle, RegionRole, StorageParticipation};
    use proptest::prelude::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn machine(n: u8) -> MachineMembership {
        let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
        MachineMembership {
            id: MachineId::from_hostname(&format!("n{n}")),
            public_key: key(n),
            overlay_ip: "fd00::2".parse().unwrap(),
            subnet: plan.slice(usize::from(n)).unwrap(),
            endpoints: Vec::new(),
            nats_key: "U".into(),
            verify_key: String::new(),
            lifecycle: Lifecycle::Active,
            storage: StorageParticipation::Candidate,
            region_role: RegionRole::Compute,
            protocol: 0,
            topology: Default::default(),
            labels: Default::default(),
            created_at: 0,
            updated_at: 0,
        }
    }

    fn invite() -> InviteRecord {
        InviteRecord {
            id: InviteId::from_bytes([1; 8]),
            issuer: "n1".parse().unwrap(),
            one_time_key: key(99),
            created_at: 0,
            expires_at: 600,
            state: InviteState::Active,
        }
    }

    fn write(record: &mut InviteRecord, next: Result<Next, Refusal>) {
        if let Ok(Next::Write(state)) = next {
            record.state = state;
        }
    }

    #[test]
    fn one_machine_uses_an_invite_once() {
        let mut record = invite();
        let next = record.redeem(&key(2), 10, || machine(2));
        write(&mut record, next);
        assert!(matches!(record.redeem(&key(2), 11, || machine(2)), Ok(Next::Already(_))));
        assert_eq!(record.redeem(&key(3), 11, || machine(3)), Err(Refusal::Consumed));
        assert_eq!(record.confirm(&key(3), 12), Err(Refusal::NotRedeemed));
        let next = record.confirm(&key(2), 12);
        write(&mut record, next);
        assert_eq!(record.status(13), "consumed");
        assert!(matches!(record.confirm(&key(2), 14), Ok(Next::Already(_))));
        assert_eq!(record.redeem(&key(2), 15, || machine(2)), Err(Refusal::Consumed));
        assert_eq!(record.revoke(16), Err(Refusal::Consumed));
    }

    #[test]
    fn expiry_and_revocation_close_it() {
        let mut record = invite();
        assert_eq!(record.redeem(&key(2), 600, || machine(2)), Err(Refusal::Expired));
        assert_eq!(record.lapse(599), None);
        assert_eq!(record.lapse(600), Some(InviteState::Expired));
        let next = record.redeem(&key(2), 599, || machine(2));
        write(&mut record, next);
        assert_eq!(record.lapse(600), None, "a machine that came in time may finish");
        assert_eq!(record.lapse(660), Some(InviteState::Expired));
        let next = record.revoke(601);
        write(&mut record, next);
        assert_eq!(record.confirm(&key(2), 602), Err(Refusal::Revoked));
    }

    #[test]
    fn times_that_others_wrote_never_wrap_around() {
        let joiner = || Box::new(machine(2));
        let states = [
            InviteState::Active,
            InviteState::Redeemed { joiner: joiner() },
            InviteState::Consumed { joiner: joiner(), at: u64::MAX },
            InviteState::Revoked { at: u64::MAX },
            InviteState::Expired,
        ];
        for state in states {
            for (created_at, expires_at) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0), (0, 0)] {
                for now in [0, 1_800_000_000, u64::MAX] {
                    let record = InviteRecord { created_at, expires_at, state: state.clone(), ..invite() };
                    let _ =
                        (record.is_heard(now), record.is_over(now), record.lapse(now), record.status(now));
                    let _ = (record.confirm(&key(2), now), record.redeem(&key(2), now, || machine(2)));
                }
            }
        }
    }

    #[test]
    fn an_invite_is_good_for_thirty_days_at_most() {
        let record = InviteRecord { expires_at: u64::MAX, ..invite() };
        assert!(record.redeem(&key(2), LIFETIME_MAX_SECS - 1, || machine(2)).is_ok());
        assert_eq!(record.redeem(&key(2), LIFETIME_MAX_SECS, || machine(2)), Err(Refusal::Expired));
        assert_eq!(record.lapse(LIFETIME_MAX_SECS), Some(InviteState::Expired));
        assert!(!record.is_heard(LIFETIME_MAX_SECS));
    }

    proptest! {
        /// Whatever happens in whatever order, at most one machine becomes a member.
        #[test]
        fn at_most_one_member(steps in prop::collection::vec((0u8..4, 1u8..4, 0u64..800), 0..40)) {
            let mut record = invite();
            let mut members = std::collections::BTreeSet::new();
            for (what, who, now) in steps {
                let next = match what {
                    0 => record.redeem(&key(who), now, || machine(who)),
                    1 => record.confirm(&key(who), now),
                    2 => record.revoke(now),
                    _ => record.lapse(now).map(Next::Write).ok_or(Refusal::Expired),
                };
                if let Ok(Next::Write(InviteState::Consumed { joiner, .. })) = &next {
                    members.insert(joiner.public_key);
                }
                write(&mut record, next);
            }
            prop_assert!(members.len() <= 1);
        }
    }
}
