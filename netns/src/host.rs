//! Counters of the host that run out (connections, neighbours, open files) and what the machine is known by. `None`: this
//! kernel, or this namespace, does not say.

use ployz_core::host::{HostMark, Usage};
use std::path::Path;

/// Connections that are tracked.
pub fn conntrack() -> Option<Usage> {
    let of = |what: &str| number(&format!("/proc/sys/net/netfilter/nf_conntrack_{what}"));
    Some(Usage { used: of("count")?, limit: of("max")? })
}

/// Entries of a neighbour table: those of all namespaces together, which is what its limit is for.
pub fn neighbours(v6: bool) -> Option<Usage> {
    let (table, family) = if v6 { ("ndisc_cache", "ipv6") } else { ("arp_cache", "ipv4") };
    let stat = std::fs::read_to_string(format!("/proc/net/stat/{table}")).ok()?;
    let entries = stat.lines().nth(1)?.split_whitespace().next()?;
    let limit = number(&format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"))?;
    Some(Usage { used: u64::from_str_radix(entries, 16).ok()?, limit })
}

/// Open files of the whole machine (proc_sys_fs(5): in use, 0, the most there may be).
pub fn files() -> Option<Usage> {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [used, _, limit] = numbers[..] else { return None };
    Some(Usage { used, limit })
}

/// Open files of one process.
pub fn files_of(pid: u32) -> Option<Usage> {
    let process = Path::new("/proc").join(pid.to_string());
    let used = std::fs::read_dir(process.join("fd")).ok()?.count();
    let limits = std::fs::read_to_string(process.join("limits")).ok()?;
    let soft =
        limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    Some(Usage { used: u64::try_from(used).ok()?, limit: soft.parse().unwrap_or(u64::MAX) })
}

/// Whether the host forwards IPv4.
pub fn forwards() -> Option<bool> {
    number("/proc/sys/net/ipv4/ip_forward").map(|value| value == 1)
}

/// What this machine is known by. In a container the firmware is its host's, and says nothing of it.
pub fn mark() -> HostMark {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine_id = read("/etc/machine-id").or_else(|| read("/var/lib/dbus/machine-id"));
    let contained = CONTAINED.iter().any(|path| Path::new(path).exists());
    let uuid = if contained { None } else { read("/sys/class/dmi/id/product_uuid") };
    HostMark::new(machine_id.as_deref(), uuid.as_deref())
}

/// What container managers leave for those inside (systemd's Container Interface, podman, Docker).
const CONTAINED: [&str; 3] = ["/run/systemd/container", "/run/.containerenv", "/.dockerenv"];

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_open_files_and_a_limit() {
        let usage = files_of(std::process::id()).unwrap();
        assert!(usage.used > 0 && usage.used < usage.limit, "{usage:?}");
        assert_eq!(files_of(0), None, "there is no process 0");
        let all = files().unwrap();
        assert!(all.used > 0 && all.limit >= all.used, "{all:?}");
    }
}
