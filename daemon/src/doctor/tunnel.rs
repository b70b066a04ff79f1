//! The tunnel and what it stands on: WireGuard, its UDP port, the MTU, and every peer with its clock.

use super::clock_of_peer::{self, Asked};
use super::context::{Ground, Running};
use crate::node::footing::{mtu, unbound};
use crate::node::sockets::{self};
use futures_util::future::join_all;
use ployz_core::spec::TunnelBackend;
use ployz_core::wire::v1::doctor::Check;
use ployz_host::clock;
use std::net::SocketAddr;

pub(super) async fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let Some(running) = &ground.network else { return checks };
    checks.push(backend(running));
    checks.push(port(running.spec.wireguard.listen_port));
    let live = running.live.wireguard.present().map(|device| device.mtu);
    let tunnel = live.unwrap_or(running.spec.wireguard.mtu);
    checks.push(mtu(&running.file.machine.endpoints, tunnel, ground.shared.around.underlay_mtu).await);
    checks.push(judge_endpoints(&running.file.machine.endpoints));
    checks.extend(peers(running).await);
    checks
}

fn backend(running: &Running) -> Check {
    match running.spec.wireguard.backend {
        TunnelBackend::Kernel => Check::ok("wireguard-backend", "the kernel's"),
        TunnelBackend::Userspace => Check::ok(
            "wireguard-backend",
            "userspace (ployz-wireguard): works, but uses more CPU than the kernel's",
        ),
    }
}

fn port(port: u16) -> Check {
    let bound = sockets::udp(port);
    if let Some(check) = unbound(port, &bound) {
        return check;
    }
    let by: Vec<String> = sockets::holders(&bound).iter().map(ToString::to_string).collect();
    let by = by.join(", ");
    let by = if by.is_empty() { "the kernel".to_owned() } else { by };
    Check::ok("udp-port", format!("UDP {port} is bound by {by}; firewalls must allow it"))
}

fn judge_endpoints(endpoints: &[SocketAddr]) -> Check {
    if endpoints.is_empty() {
        let advice = "set one that peers can dial: advertise_endpoints in config.toml, then `systemctl restart ployzd`";
        return Check::warn("endpoints", "this machine has no address to offer to its peers", advice);
    }
    let offered = endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Check::ok("endpoints", format!("peers are offered {offered}"))
}

async fn peers(running: &Running) -> Vec<Check> {
    let own = &running.file.machine.id;
    let others: Vec<_> = running.peers.machines.iter().filter(|machine| machine.id != *own).collect();
    let asked = join_all(others.iter().map(|machine| clock_of_peer::ask(machine.overlay_ip))).await;
    let device = running.live.wireguard.present();
    let now = clock::now();
    let mut checks = Vec::new();
    for (machine, asked) in others.iter().zip(asked) {
        let stats = device.and_then(|device| device.peers.get(&machine.public_key)).map(|peer| &peer.stats);
        let age = stats.and_then(|stats| stats.last_handshake).map(|at| now.saturating_sub(at));
        let endpoint =
            stats.and_then(|stats| stats.endpoint).map_or("no endpoint".into(), |at| at.to_string());
        checks.push(judge_peer(machine.id.as_str(), &endpoint, age, &asked));
        if let Asked::Clock(skew) = asked {
            checks.push(judge_clock(machine.id.as_str(), skew));
        }
    }
    checks
}

fn judge_peer(id: &str, endpoint: &str, handshake: Option<u64>, asked: &Asked) -> Check {
    let name = format!("peer {id}");
    let handshake = handshake.map_or("no handshake yet".into(), |age| format!("handshake {age} s ago"));
    match asked {
        Asked::Clock(_) => Check::ok(name, format!("answers; {handshake}, {endpoint}")),
        Asked::Reached => Check::warn(
            name,
            format!("the machine answers, its ployzd does not; {handshake}, {endpoint}"),
            format!("`systemctl status ployzd` on {id}; deploys wait for it, services keep running"),
        ),
        Asked::Lost(why) => Check::fail(
            name,
            format!("does not answer over the overlay ({why}); {handshake}, {endpoint}"),
            format!("is {id} up, and do firewalls allow its WireGuard port (UDP)? `ployzctl mesh status`"),
        ),
    }
}

/// Deploys give each other 20 s (deadlines are wall clock times).
fn judge_clock(id: &str, skew: i64) -> Check {
    let name = format!("clock {id}");
    let advice = "synchronise the clocks (chrony, systemd-timesyncd): deadlines of deploys and invites are wall clock times";
    match skew.abs() {
        0..=2 => Check::ok(name, "in sync, to about a second"),
        3..=10 => Check::warn(name, format!("{skew:+} s against this machine"), advice),
        _ => Check::fail(name, format!("{skew:+} s against this machine"), advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::footing::{footing, judge_mtu};
    use ployz_core::spec::wireguard::tunnel_mtu;
    use ployz_core::wire::v1::doctor::Level;

    #[test]
    fn a_tunnel_larger_than_the_underlay_carries_fails() {
        assert_eq!(judge_mtu(1500, tunnel_mtu(1500)).level, Level::Ok);
        assert_eq!(judge_mtu(1400, tunnel_mtu(1500)).level, Level::Fail);
    }

    #[tokio::test]
    async fn a_port_that_is_gone_is_named_by_the_look_and_by_doctor_alike() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = socket.local_addr().unwrap().port();
        let look = async || footing(1280, &[], number, 1500).await[0].clone();
        assert_eq!(look().await.level, Level::Ok);
        drop(socket);
        let gone = look().await;
        assert_eq!((gone.level, &gone), (Level::Fail, &port(number)));
    }

    #[test]
    fn a_machine_without_its_daemon_is_no_machine_that_is_away() {
        let level = |asked| judge_peer("n2", "-", Some(3), &asked).level;
        assert_eq!(level(Asked::Clock(0)), Level::Ok);
        assert_eq!(level(Asked::Reached), Level::Warn);
        assert_eq!(level(Asked::Lost("timed out".into())), Level::Fail);
    }

    #[test]
    fn clocks_apart_are_told_with_their_sign() {
        assert_eq!(judge_clock("n2", -2).level, Level::Ok);
        assert_eq!(judge_clock("n2", 5).level, Level::Warn);
        let check = judge_clock("n2", -30);
        assert!(check.level == Level::Fail && check.seen.starts_with("-30 s"), "{check:?}");
    }
}
