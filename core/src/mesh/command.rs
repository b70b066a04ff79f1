//! Who may ask which command of a machine, and that each is taken once. The rules are a table; the receiver of a command looks
//! here and nowhere else.

use crate::id::MachineId;
use crate::wire::v1::envelope::MAX_VALID_SECS;
use std::collections::{BTreeMap, BTreeSet};

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Every member.
    Member,
    /// The member that holds the lock of the command's namespace for the command's deploy, as the store says.
    LockHolder,
    /// The bootstrap node, which holds the store.
    Bootstrap,
}

/// What holds for one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The command, as its subject ends.
    pub command: &'static str,
    /// Who may ask.
    pub who: Who,
    /// Whether it changes something here: then it is taken once, and is a line of the audit log.
    pub changes: bool,
}

const fn rule(command: &'static str, who: Who, changes: bool) -> Rule {
    Rule { command, who, changes }
}

/// All commands there are.
pub const RULES: &[Rule] = &[
    rule("ping", Who::Member, false),
    rule("deploy.probe", Who::Member, false),
    rule("deploy.start", Who::LockHolder, true),
    rule("deploy.readiness", Who::Member, false),
    rule("deploy.stop", Who::LockHolder, true),
    rule("deploy.restore", Who::LockHolder, true),
    rule("deploy.drain", Who::LockHolder, true),
    rule("deploy.remove", Who::LockHolder, true),
    rule("deploy.list", Who::Member, false),
    rule("deploy.logs", Who::Member, false),
    rule("image.look", Who::Member, false),
    rule("image.name", Who::Member, true),
    rule("image.fetch", Who::Member, true),
    rule("pull.ask", Who::Member, false),
    // Begun by the first and looked at by the same command again, so each is a sending of its own.
    rule("pull.fetch", Who::Member, true),
    rule("pull.give", Who::Member, true),
    rule("pull.name", Who::Member, true),
    rule("mesh.prepare_destroy", Who::Bootstrap, false),
    rule("mesh.execute_destroy", Who::Bootstrap, true),
];

/// The rule of a command; `None` = there is no such command.
pub fn find(command: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.command == command)
}

/// The envelopes that were taken, for as long as they are valid. What one sender sends takes only its own room.
#[derive(Debug, Default)]
pub struct Nonces {
    taken: BTreeMap<MachineId, BTreeSet<(u64, String)>>,
}

impl Nonces {
    /// Notes one; false when it was taken before, or when its sender has so many that none can be told from those before.
    pub fn take(&mut self, sender: &MachineId, nonce: &str, not_after: u64, now: u64) -> bool {
        self.taken.retain(|_, taken| {
            while taken.first().is_some_and(|(until, _)| *until < now) {
                taken.pop_first();
            }
            !taken.is_empty()
        });
        let taken = self.taken.entry(sender.clone()).or_default();
        taken.len() < MAX_NONCES && taken.insert((not_after, nonce.to_owned()))
    }
}

/// Of one sender: fifty changes a second for as long as an envelope is valid.
const MAX_NONCES: usize = 50 * MAX_VALID_SECS as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_taken_once_while_it_is_valid_and_forgotten_after() {
        let (mut nonces, n2, n3) = (Nonces::default(), "n2".parse().unwrap(), "n3".parse().unwrap());
        assert!(nonces.take(&n2, "a", 100, 10));
        assert!(!nonces.take(&n2, "a", 100, 100));
        assert!(nonces.take(&n2, "b", 100, 100));
        assert!(nonces.take(&n3, "a", 100, 100), "another sender's");
        assert!(nonces.take(&n3, "c", 200, 101));
        assert_eq!(nonces.taken.len(), 1, "what is over takes no room");
    }

    #[test]
    fn a_sender_that_floods_keeps_only_itself_out() {
        let (mut nonces, n2, n3) = (Nonces::default(), "n2".parse().unwrap(), "n3".parse().unwrap());
        for n in 0..MAX_NONCES {
            assert!(nonces.take(&n2, &n.to_string(), 100, 10));
        }
        assert!(!nonces.take(&n2, "one more", 100, 10));
        assert!(nonces.take(&n3, "one", 100, 10));
        assert!(nonces.take(&n2, "later", 200, 101));
    }

    #[test]
    fn what_changes_a_machine_is_not_every_members_without_a_reason() {
        // An image's command names what is verified before it is used; nothing else is open to all.
        for rule in RULES.iter().filter(|rule| rule.changes && rule.who == Who::Member) {
            assert!(
                rule.command.starts_with("image.") || rule.command.starts_with("pull."),
                "{}",
                rule.command
            );
        }
    }
}
