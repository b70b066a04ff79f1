//! From what was found in the host to what an operator reads. Each check names what is wrong and what to do about it;
//! what could not be read is not judged.

use super::{Free, Room, Usage, Way};
use crate::id::MachineId;
use crate::spec::Rule;
use crate::spec::link::HOST_END;
use crate::spec::rule::{LOCAL_PRIORITY, LOCAL_TABLE, MAIN_PRIORITY, MAIN_TABLE};
use crate::wire::v1::doctor::Check;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::Path;

/// Whether the kernel has IPv6. Switched off for single links it is switched on for ours.
pub fn ipv6(kernel_has_it: bool) -> Check {
    if kernel_has_it {
        return Check::ok("ipv6", "enabled in the kernel and on Ployz's links");
    }
    Check::fail(
        "ipv6",
        "the kernel runs without IPv6, and the overlay is IPv6",
        "take ipv6.disable=1 off the kernel's command line; net.ipv6.conf.all.disable_ipv6=1 is not a problem",
    )
}

/// Rules of others that are asked before ours.
pub fn policy_rules(foreign: &[Rule], ranges: &[IpNet]) -> Check {
    let before: Vec<String> = foreign
        .iter()
        .filter(|rule| ranges.iter().any(|range| rule.comes_before_ours(range)))
        .map(|rule| format!("`{rule}`"))
        .collect();
    if before.is_empty() {
        let seen =
            format!("Ployz's rules ({LOCAL_PRIORITY} and {MAIN_PRIORITY}) precede all others that matter");
        return Check::ok("policy-rules", seen);
    }
    Check::warn(
        "policy-rules",
        format!(
            "rules of other programs precede Ployz's ({LOCAL_PRIORITY} and {MAIN_PRIORITY}): {}",
            before.join(", ")
        ),
        "give them a priority above 76, or exclude the overlay's ranges; `ip rule`, `ip -6 rule`",
    )
}

/// The way to the overlay, as the kernel would take it.
pub fn overlay_route(ways: &[(IpNet, Way)]) -> Check {
    let lost: Vec<String> = ways
        .iter()
        .filter(|(_, way)| !matches!(way, Way::By { link, .. } if link == HOST_END))
        .map(|(range, way)| format!("packets to {range} {way}"))
        .collect();
    if lost.is_empty() {
        return Check::ok("overlay-route", format!("packets to the overlay leave by {HOST_END}"));
    }
    Check::fail(
        "overlay-route",
        lost.join("; "),
        "another rule or a narrower route takes them (another VPN's?): `ip rule`, `ip -6 rule`, `ip route show table all`",
    )
}

/// The way to the peers' endpoints. A table of its own is another VPN's, and may well be meant.
pub fn underlay_route(ways: &[(MachineId, SocketAddr, Way)]) -> Check {
    let odd: Vec<String> = ways
        .iter()
        .filter(|(.., way)| !matches!(way, Way::By { table: MAIN_TABLE | LOCAL_TABLE, .. }))
        .map(|(peer, at, way)| format!("packets to {peer} at {at} {way}"))
        .collect();
    if odd.is_empty() {
        return Check::ok("underlay-route", "packets to the peers' endpoints leave by the main table");
    }
    Check::warn(
        "underlay-route",
        odd.join("; "),
        "if that is another VPN that does not reach the peers, exclude their addresses from it: `ip rule`, `ip route get`",
    )
}

/// Forwarding of the host's other links, which its workloads need once there are any.
pub fn forwarding(host_forwards: bool, workloads: usize) -> Check {
    if host_forwards || workloads == 0 {
        return Check::ok("forwarding", "set as the workloads need it");
    }
    Check::warn(
        "forwarding",
        format!(
            "net.ipv4.ip_forward is 0 and {workloads} workloads are attached: they reach the overlay but nothing outside it"
        ),
        "`sysctl -w net.ipv4.ip_forward=1`, and remove what sets it to 0 from /etc/sysctl.d; Docker sets it to 1 when it starts",
    )
}

/// How near something is to its end.
pub fn usage(check: &str, what: &str, usage: Usage, advice: &str) -> Check {
    let Usage { used, limit } = usage;
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    let seen = format!("{used} of {limit} {what}");
    match percent {
        0..80 => Check::ok(check, seen),
        80..97 => Check::warn(check, seen, advice),
        _ => Check::fail(check, seen, advice),
    }
}

/// Room at a path, in bytes and in inodes: a file system that is out of either takes no file.
pub fn room(check: &str, path: &Path, room: Room) -> Check {
    let Room { bytes, inodes } = room;
    let at = path.display();
    let of_bytes =
        format!("{} MiB free of {} MiB ({} %)", bytes.free >> 20, bytes.size >> 20, bytes.percent());
    if is_full(inodes, FEW_INODES) {
        let seen = format!("{} inodes free of {} at {at}, {of_bytes}", inodes.free, inodes.size);
        let advice = "remove small files: no file can be created although bytes are free; `du --inodes -xs /*` shows where they are";
        return Check::fail(check, seen, advice);
    }
    let seen = format!("{of_bytes} at {at}");
    let advice = "free space: the store and deploys stop when none is left; `docker system df` shows what Docker holds";
    if bytes.free < FULL && bytes.percent() < SMALL_SHARE {
        Check::fail(check, seen, advice)
    } else if bytes.free < SHORT && bytes.percent() < 10 {
        Check::warn(check, seen, advice)
    } else if inodes.size > 0 && inodes.percent() < 5 && inodes.free < SHORT_INODES {
        let seen = format!(
            "{} inodes free of {} ({} %) at {at}, {of_bytes}",
            inodes.free,
            inodes.size,
            inodes.percent()
        );
        Check::warn(check, seen, "small files take the inodes: `du --inodes -xs /*` shows where they are")
    } else {
        Check::ok(check, seen)
    }
}

fn is_full(inodes: Free, few: u64) -> bool {
    inodes.size > 0 && inodes.free < few
}

const SHORT: u64 = 5 << 30;
const FULL: u64 = 200 << 20;
/// In percent: a small file system that is nearly empty is not full.
const SMALL_SHARE: u64 = 25;
const FEW_INODES: u64 = 200;
const SHORT_INODES: u64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::rule::Action;
    use crate::wire::v1::doctor::Level;

    fn level_of(free: u64, size: u64, inodes: (u64, u64)) -> Level {
        let bytes = Free { free: free << 20, size: size << 20 };
        room("disk", Path::new("/x"), Room { bytes, inodes: Free { free: inodes.0, size: inodes.1 } }).level
    }

    #[test]
    fn a_full_disk_fails_and_a_small_share_of_a_large_one_does_not() {
        let level = |free, size| level_of(free, size, (0, 0));
        assert_eq!(level(100, 100_000), Level::Fail);
        assert_eq!(level(1_000, 100_000), Level::Warn);
        assert_eq!(level(1_000, 4_000), Level::Ok);
        assert_eq!(level(50_000, 1_000_000), Level::Ok);
        assert_eq!(level(90, 100), Level::Ok, "small, and nearly empty");
        assert_eq!(level(10, 100), Level::Fail);
        assert_eq!(level(0, 0), Level::Fail);
    }

    #[test]
    fn a_disk_out_of_inodes_fails_however_many_bytes_are_free() {
        assert_eq!(level_of(50_000, 50_500, (0, 65_536)), Level::Fail);
        assert_eq!(level_of(50_000, 50_500, (199, 65_536)), Level::Fail);
        assert_eq!(level_of(50_000, 50_500, (1_000, 65_536)), Level::Warn);
        assert_eq!(level_of(50_000, 50_500, (60_000, 65_536)), Level::Ok);
        assert_eq!(level_of(50_000, 50_500, (0, 0)), Level::Ok, "btrfs makes them as it needs them");
        let bytes = Free { free: 50_000 << 20, size: 50_500 << 20 };
        let check = room("disk", Path::new("/x"), Room { bytes, inodes: Free { free: 3, size: 65_536 } });
        assert!(check.seen.starts_with("3 inodes free of 65536 at /x"), "{}", check.seen);
    }

    #[test]
    fn whoever_takes_the_overlays_packets_is_named() {
        let range: IpNet = "10.101.0.0/16".parse().unwrap();
        let by = |link: &str, table| Way::By { link: link.into(), table };
        assert_eq!(overlay_route(&[(range, by(HOST_END, MAIN_TABLE))]).level, Level::Ok);
        let taken = overlay_route(&[(range, by("tun0", 52))]);
        assert_eq!(
            (taken.level, taken.seen.as_str()),
            (Level::Fail, "packets to 10.101.0.0/16 leave by tun0 (table 52)")
        );
        assert_eq!(overlay_route(&[(range, Way::None("Network is unreachable".into()))]).level, Level::Fail);
        let rule = |priority| Rule {
            priority,
            v6: false,
            to: None,
            only: Vec::new(),
            marked: false,
            action: Action::Lookup(52),
        };
        assert_eq!(policy_rules(&[rule(5270)], &[range]).level, Level::Ok);
        let before = policy_rules(&[rule(10), rule(5270)], &[range]);
        assert!(
            before.level == Level::Warn && before.seen.ends_with("`10: to 0.0.0.0/0 lookup 52`"),
            "{}",
            before.seen
        );
    }

    #[test]
    fn a_table_of_another_vpn_on_the_way_to_a_peer_is_worth_a_look() {
        let way = |table| {
            (
                "n2".parse().unwrap(),
                "192.0.2.2:51820".parse().unwrap(),
                Way::By { link: "tun0".into(), table },
            )
        };
        assert_eq!(underlay_route(&[way(MAIN_TABLE)]).level, Level::Ok);
        let check = underlay_route(&[way(MAIN_TABLE), way(52)]);
        assert_eq!(check.level, Level::Warn);
        assert_eq!(check.seen, "packets to n2 at 192.0.2.2:51820 leave by tun0 (table 52)");
    }

    #[test]
    fn what_is_nearly_used_up_is_named_before_it_is() {
        let level = |used, limit| usage("descriptors", "files", Usage { used, limit }, "-").level;
        assert_eq!([level(79, 100), level(80, 100), level(97, 100)], [Level::Ok, Level::Warn, Level::Fail]);
        assert_eq!(level(5, u64::MAX), Level::Ok);
        assert_eq!(level(0, 0), Level::Ok);
    }

    #[test]
    fn forwarding_matters_to_workloads_alone() {
        assert_eq!(forwarding(false, 0).level, Level::Ok);
        assert_eq!(forwarding(true, 3).level, Level::Ok);
        assert_eq!(forwarding(false, 3).level, Level::Warn);
    }
}
