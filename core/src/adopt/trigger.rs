//! What starts a reconciliation. Code matches on the variant; the words are for the log, `explain` and its JSON alone.

use crate::spec::Side;
use std::fmt;

/// The reason of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// ployzd started and takes up the network that should be running.
    Startup,
    /// An operator started the network.
    NetworkStart,
    /// A machine joins: its one-time tunnel.
    Join,
    /// An invite was issued or revoked: its peer is to be part of the tunnel.
    Invite,
    /// The resync: no event for a while.
    PeriodicResync,
    /// Members or invites changed.
    MembersChanged,
    /// The cluster's routes ask for other TCP ports.
    TcpRoutesChanged,
    /// A port that another program had may be free.
    PortFreed,
    /// The store's connection broke.
    StoreAway,
    /// Kernel events are subscribed to: what happened before is found by one run.
    Subscribed,
    /// The kernel says that something changed.
    KernelEvent(KernelEvent),
}

/// What changed in the kernel, and in which namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelEvent {
    /// Links, addresses, routes, policy rules or sysctls of links.
    Links(Side),
    /// nftables.
    Firewall(Side),
}

impl Trigger {
    /// Its words, which stay: tests and operators look for `daemon start` in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "daemon start",
            Self::NetworkStart => "mesh start",
            Self::Join => "join",
            Self::Invite => "invite",
            Self::PeriodicResync => "periodic resync",
            Self::MembersChanged => "members changed",
            Self::TcpRoutesChanged => "TCP routes changed",
            Self::PortFreed => "a port may be free",
            Self::StoreAway => "store is away",
            Self::Subscribed => "watching",
            Self::KernelEvent(event) => event.as_str(),
        }
    }

    /// Whether more of the same kind may follow at once, so that a run waits a moment and serves them all.
    pub fn comes_in_bursts(self) -> bool {
        !matches!(self, Self::PeriodicResync)
    }
}

impl KernelEvent {
    /// Its words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Links(Side::Host) => "links changed",
            Self::Links(Side::Netns) => "links in the namespace changed",
            Self::Firewall(Side::Host) => "firewall changed",
            Self::Firewall(Side::Netns) => "firewall in the namespace changed",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts and tests read these in the journal and in `explain --json`.
    #[test]
    fn words_of_triggers_stay() {
        let events =
            [Side::Host, Side::Netns].map(|side| [KernelEvent::Links(side), KernelEvent::Firewall(side)]);
        let words: Vec<&str> = [
            Trigger::Startup,
            Trigger::NetworkStart,
            Trigger::Join,
            Trigger::Invite,
            Trigger::PeriodicResync,
            Trigger::MembersChanged,
        ]
        .into_iter()
        .chain(events.into_iter().flatten().map(Trigger::KernelEvent))
        .map(Trigger::as_str)
        .collect();
        assert_eq!(
            words,
            [
                "daemon start",
                "mesh start",
                "join",
                "invite",
                "periodic resync",
                "members changed",
                "links changed",
                "firewall changed",
                "links in the namespace changed",
                "firewall in the namespace changed",
            ]
        );
    }
}
