//! Judges the commands of other machines before a room hears of them: who asks, whether it may, whether it did before. What is
//! refused, and what changes something here, is in the audit log.

use crate::network::context::Network;
use parking_lot::Mutex;
use ployz_core::id::MachineId;
use ployz_core::mesh::command::{self, Nonces, Who};
use ployz_core::wire::v1::envelope::{self, Expected, Refusal};
use ployz_core::wire::v1::record::MachineMembership;
use ployz_host::clock;
use ployz_nats::rpc::{Incoming, Sender};

/// The sender of a command that this machine takes.
///
/// # Errors
/// Why it is refused.
pub fn judge(mesh: &Network, incoming: &Incoming<'_>) -> Result<Sender, Refusal> {
    let network = mesh.network();
    let known = |machine: &MachineId| {
        if *machine == network.machine.id {
            return Some(network.machine.clone());
        }
        mesh.peers.borrow().machines.iter().find(|member| member.id == *machine).cloned()
    };
    let expected = Expected {
        network: &network.id,
        machine: &network.machine.id,
        command: incoming.command,
        payload: incoming.payload,
        now: clock::now(),
    };
    let judged = decide(&expected, incoming, &network.founder.id, known, &mesh.commands.nonces);
    match &judged {
        Ok((sender, true)) => {
            let (command, signed) = (incoming.command, sender.signed);
            tracing::info!(target: "audit", command, sender = %sender.machine, signed, "command of another machine");
        }
        Ok((_, false)) => {}
        Err(refusal) => {
            let claimed = incoming.inbox.clone().filter(|machine| known(machine).is_some());
            let first = mesh.commands.refused(claimed, incoming.command, refusal);
            // Its record may be on its way; made-up senders are not looked for again and again.
            if first && matches!(refusal, Refusal::UnknownSender(_)) {
                mesh.late_news.notify_one();
            }
        }
    }
    judged.map(|(sender, _)| sender)
}

/// The sender, and whether the command changes something here.
fn decide(
    expected: &Expected<'_>,
    incoming: &Incoming<'_>,
    bootstrap: &MachineId,
    known: impl Fn(&MachineId) -> Option<MachineMembership>,
    nonces: &Mutex<Nonces>,
) -> Result<(Sender, bool), Refusal> {
    let rule = command::find(expected.command).ok_or(Refusal::UnknownCommand)?;
    let sender = match incoming.envelope {
        Some(header) => {
            let key = |machine: &MachineId| known(machine).map(|member| member.verify_key);
            let sealed = envelope::open(header, expected, key)?;
            if rule.changes
                && !nonces.lock().take(&sealed.from, &sealed.nonce, sealed.not_after, expected.now)
            {
                return Err(Refusal::Replayed);
            }
            Sender { machine: sealed.from, signed: true }
        }
        // Only of a machine whose version signs nothing, and never for what destroys.
        None => {
            let member = incoming.inbox.as_ref().and_then(&known).filter(|member| member.protocol == 0);
            let member = member.filter(|_| rule.who != Who::Bootstrap).ok_or(Refusal::Unsigned)?;
            Sender { machine: member.id, signed: false }
        }
    };
    if rule.who == Who::Bootstrap && sender.machine != *bootstrap {
        let why = "only the bootstrap node destroys the network";
        return Err(Refusal::NotAllowed { sender: sender.machine, why });
    }
    Ok((sender, rule.changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::address::{AddressPlan, OverlayPrefix};
    use ployz_core::id::NetworkId;
    use ployz_core::key::PublicKey;
    use ployz_core::wire::v1::envelope::Signer;
    use ployz_core::wire::v1::record::{Lifecycle, RegionRole, StorageParticipation};
    use ployz_core::wire::v1::token::verifying_key_text;

    const NOW: u64 = 1_800_000_000;
    const PAYLOAD: &[u8] = b"{}";
    /// The version of n4 does not sign.
    const OLD: u8 = 4;

    fn key(n: u8) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[n; 32])
    }

    fn known(machine: &MachineId) -> Option<MachineMembership> {
        let n: u8 = machine.as_str().strip_prefix('n')?.parse().ok().filter(|n| (1..=4).contains(n))?;
        let public_key = PublicKey::from_bytes([n; 32]);
        Some(MachineMembership {
            id: machine.clone(),
            public_key,
            overlay_ip: OverlayPrefix::of(&NetworkId::from_bytes([7; 16])).address(&public_key),
            subnet: AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24)
                .unwrap()
                .slice(usize::from(n))
                .unwrap(),
            endpoints: Vec::new(),
            nats_key: String::new(),
            verify_key: verifying_key_text(&key(n).verifying_key()),
            lifecycle: Lifecycle::Active,
            storage: StorageParticipation::Candidate,
            region_role: RegionRole::Compute,
            topology: Default::default(),
            labels: Default::default(),
            protocol: u32::from(n != OLD),
            created_at: 0,
            updated_at: 0,
        })
    }

    struct Gatekeeper(Mutex<Nonces>);

    impl Gatekeeper {
        /// What n3, in a network that n1 founded, says to a command with the answer to an inbox of `inbox`.
        fn asked(
            &self,
            header: Option<String>,
            command: &str,
            inbox: &str,
        ) -> Result<(String, bool), Refusal> {
            let (network, n3) = (NetworkId::from_bytes([7; 16]), "n3".parse().unwrap());
            let inbox = inbox.parse().ok();
            let incoming = Incoming { command, payload: PAYLOAD, envelope: header.as_deref(), inbox };
            let expected = Expected { network: &network, machine: &n3, command, payload: PAYLOAD, now: NOW };
            let decided = decide(&expected, &incoming, &"n1".parse().unwrap(), known, &self.0)?;
            assert_eq!(decided.1, command::find(command).unwrap().changes);
            Ok((decided.0.machine.to_string(), decided.0.signed))
        }
    }

    fn signed(n: u8, command: &str, nonce: u8) -> Option<String> {
        let signer = Signer::new(format!("n{n}").parse().unwrap(), key(n));
        let network = NetworkId::from_bytes([7; 16]);
        Some(signer.seal(&network, &"n3".parse().unwrap(), command, PAYLOAD, NOW, [nonce; 16]))
    }

    fn gate() -> Gatekeeper {
        Gatekeeper(Mutex::default())
    }

    #[test]
    fn who_signed_is_the_sender_whatever_inbox_is_named() {
        assert_eq!(gate().asked(signed(2, "deploy.start", 1), "deploy.start", "n4"), Ok(("n2".into(), true)));
        let refused = gate().asked(signed(2, "ping", 1), "deploy.start", "n2");
        assert_eq!(refused, Err(Refusal::Misdirected("command")));
    }

    #[test]
    fn only_the_bootstrap_node_destroys() {
        for command in ["mesh.prepare_destroy", "mesh.execute_destroy"] {
            assert_eq!(gate().asked(signed(1, command, 1), command, "n1"), Ok(("n1".into(), true)));
            let refused = gate().asked(signed(2, command, 1), command, "n1").unwrap_err();
            assert!(matches!(refused, Refusal::NotAllowed { .. }), "{refused}");
            assert_eq!(gate().asked(None, command, "n1"), Err(Refusal::Unsigned));
            assert_eq!(
                gate().asked(None, command, "n4"),
                Err(Refusal::Unsigned),
                "of an older version neither"
            );
        }
    }

    #[test]
    fn without_a_signature_only_machines_of_an_older_version_are_heard() {
        assert_eq!(gate().asked(None, "deploy.start", "n4"), Ok(("n4".into(), false)));
        for inbox in ["n2", "n9", ""] {
            assert_eq!(gate().asked(None, "deploy.start", inbox), Err(Refusal::Unsigned));
        }
        assert_eq!(
            gate().asked(signed(2, "mesh.other", 1), "mesh.other", "n2"),
            Err(Refusal::UnknownCommand)
        );
    }

    #[test]
    fn what_changes_something_is_taken_once() {
        let gate = gate();
        assert!(gate.asked(signed(2, "pull.fetch", 1), "pull.fetch", "n2").is_ok());
        assert_eq!(gate.asked(signed(2, "pull.fetch", 1), "pull.fetch", "n2"), Err(Refusal::Replayed));
        assert!(gate.asked(signed(2, "pull.fetch", 2), "pull.fetch", "n2").is_ok());
        assert!(gate.asked(signed(2, "ping", 1), "ping", "n2").is_ok());
        assert!(gate.asked(signed(2, "ping", 1), "ping", "n2").is_ok(), "a question may come twice");
    }
}
