//! What the tunnel stands on in the host: its UDP port and the MTU of the underlay.

use crate::node::sockets::{self, Bound};
use ployz_core::spec::wireguard::tunnel_mtu;
use ployz_core::wire::v1::doctor::Check;
use std::net::SocketAddr;

/// What a tunnel that is up stands on and others may take away, for a look every few seconds: the processes that have the
/// port are not looked for, which would be reading all of `/proc`.
pub async fn footing(tunnel: u32, endpoints: &[SocketAddr], port: u16, at_start: u32) -> [Check; 2] {
    let bound = Check::ok("udp-port", format!("UDP {port} is bound"));
    [unbound(port, &sockets::udp(port)).unwrap_or(bound), mtu(endpoints, tunnel, at_start).await]
}

/// The check that fails when the port is not bound.
pub fn unbound(port: u16, bound: &[Bound]) -> Option<Check> {
    let advice = "no peer can reach this machine: `ployzctl explain wireguard`";
    let seen = format!("nothing is listening on UDP {port} in the host namespace");
    bound.is_empty().then(|| Check::fail("udp-port", seen, advice))
}

/// The underlay's may have changed since ployzd started.
pub async fn mtu(offered: &[SocketAddr], tunnel: u32, at_start: u32) -> Check {
    let seen = ployz_netns::underlay::observe().await;
    let underlay = seen.map_or(at_start, |seen| ployz_netns::underlay::smallest_mtu(&seen, offered));
    judge_mtu(underlay, tunnel)
}

/// Whether the tunnel fits into the underlay.
pub fn judge_mtu(underlay: u32, tunnel: u32) -> Check {
    let seen = format!("underlay {underlay}, tunnel {tunnel}");
    if tunnel > tunnel_mtu(underlay) {
        let advice =
            "large packets are dropped: `systemctl restart ployzd` adjusts the tunnel's MTU to the underlay";
        return Check::fail("mtu", seen, advice);
    }
    Check::ok("mtu", seen)
}
