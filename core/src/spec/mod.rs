//! What we want: one value a component, complete enough to create it and to tell whether a live one is right.

pub mod container;
pub mod firewall;
pub mod link;
pub mod nats;
pub mod netns;
pub mod rule;
pub mod sidecar;
pub mod unit;
pub mod wireguard;

pub use container::{ContainerOwner, ContainerSpec};
pub use firewall::FirewallSpec;
pub use link::{LinkSpec, Mac, RouteSpec, RouteVia, Side};
pub use nats::{NatsRole, NatsSpec};
pub use netns::NetnsSpec;
pub use rule::Rule;
pub use sidecar::{Listen, RouteSockets, SidecarSpec, SocketSpec};
pub use unit::{UnitName, UnitSpec};
pub use wireguard::{PeerSpec, WireguardSpec};

use serde::Serialize;

/// Who runs the tunnel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display, strum::IntoStaticStr, strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum TunnelBackend {
    /// The kernel's WireGuard, over netlink.
    Kernel,
    /// `ployz-wireguard`, a process of its own, where the kernel has none.
    Userspace,
}

/// Everything one node's data plane should be. Built from disk alone, so a start needs no control plane.
#[derive(Clone)]
pub struct NodeSpec {
    /// The network namespace.
    pub netns: NetnsSpec,
    /// The userspace tunnel process, when the backend asks for one.
    pub tunnel: Option<UnitSpec>,
    /// The WireGuard device `wg0` with its addresses and peers.
    pub wireguard: WireguardSpec,
    /// veth pair, bridge, addresses, routes, sysctls.
    pub link: LinkSpec,
    /// Our table in the host and in the namespace.
    pub firewall: FirewallSpec,
    /// The store: NATS JetStream on the bootstrap node, a leaf node elsewhere.
    pub nats: NatsSpec,
    /// The gateway with its sockets in the host.
    pub gateway: SidecarSpec,
    /// The DNS server.
    pub dns: SidecarSpec,
}

impl TunnelBackend {
    /// As an operator writes it in the configuration.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
