//! What was found: configuration as read back from the kernel and the supervisor, statistics kept apart.

pub mod container;
pub mod firewall;
pub mod link;
pub mod nats;
pub mod netns;
pub mod sidecar;
pub mod unit;
pub mod wireguard;

pub use container::{ContainerLive, ContainerState};
pub use firewall::{FirewallLive, TableLive};
pub use link::{EndLive, LinkLive};
pub use nats::NatsLive;
pub use netns::{NetnsLive, NsId};
pub use sidecar::{SidecarLive, SocketLive};
pub use unit::{ActiveState, UnitLive};
pub use wireguard::{PeerLive, PeerStats, WireguardLive};

use crate::adopt::Seen;

/// Everything that was found on one node, each part inspected with a deadline of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLive {
    /// The network namespace.
    pub netns: Seen<NetnsLive>,
    /// The userspace tunnel process.
    pub tunnel: Seen<UnitLive>,
    /// The WireGuard device `wg0` in the namespace, with its peers.
    pub wireguard: Seen<WireguardLive>,
    /// veth pair, bridge, routes, sysctls.
    pub link: Seen<LinkLive>,
    /// Table `inet ployz` of the host and of the namespace.
    pub firewall: Seen<FirewallLive>,
    /// The store: unit `ployz-nats` and what its monitoring port says.
    pub nats: Seen<NatsLive>,
    /// The gateway: its unit and its sockets.
    pub gateway: Seen<SidecarLive>,
    /// The DNS server.
    pub dns: Seen<SidecarLive>,
}

impl NodeLive {
    /// Whether some part could not be inspected: another look may find it.
    pub fn has_unknown(&self) -> bool {
        fn unknown<T>(seen: &Seen<T>) -> bool {
            matches!(seen, Seen::Unknown(_))
        }
        unknown(&self.netns)
            || unknown(&self.tunnel)
            || unknown(&self.wireguard)
            || unknown(&self.link)
            || unknown(&self.firewall)
            || unknown(&self.nats)
            || unknown(&self.gateway)
            || unknown(&self.dns)
    }

    /// This, with what a second look knows of the parts that the first could not tell.
    pub fn or(self, second: Self) -> Self {
        fn or<T>(first: Seen<T>, second: Seen<T>) -> Seen<T> {
            if matches!(first, Seen::Unknown(_)) { second } else { first }
        }
        Self {
            netns: or(self.netns, second.netns),
            tunnel: or(self.tunnel, second.tunnel),
            wireguard: or(self.wireguard, second.wireguard),
            link: or(self.link, second.link),
            firewall: or(self.firewall, second.firewall),
            nats: or(self.nats, second.nats),
            gateway: or(self.gateway, second.gateway),
            dns: or(self.dns, second.dns),
        }
    }
}
