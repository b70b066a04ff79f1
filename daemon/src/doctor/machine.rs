//! The daemon, its configuration and the programs that run.

use super::context::Ground;
use crate::args::Args;
use crate::network::context::Shared;
use clap::Parser;
use ployz_core::config::BadConfig;
use ployz_core::wire::v1::doctor::Check;
use std::path::Path;

/// Said by the daemon itself.
pub(super) fn daemon_runs() -> Check {
    let pid = std::process::id();
    match std::fs::read_link("/proc/self/exe") {
        Ok(program) if is_replaced(&program) => Check::warn(
            "daemon",
            format!("ployzd {} runs (pid {pid}), another one is installed", env!("CARGO_PKG_VERSION")),
            "`systemctl restart ployzd`, which stops nothing else",
        ),
        _ => Check::ok("daemon", format!("ployzd {} runs (pid {pid})", env!("CARGO_PKG_VERSION"))),
    }
}

/// Said without it.
pub(super) fn daemon_is_away(refused: bool) -> Check {
    let advice = if refused {
        "fix the configuration, then `systemctl restart ployzd`; services keep running meanwhile"
    } else {
        "`systemctl status ployzd`, `journalctl -u ployzd -n 50`; services keep running meanwhile"
    };
    Check::fail("daemon", "ployzd does not answer; the checks below read the machine directly", advice)
}

/// The file as the next start would read it.
pub(super) fn config_file(shared: &Shared) -> Option<Check> {
    let args = Args::try_parse().ok()?;
    Some(match args.configuration() {
        Err(error) => bad_config(&error),
        Ok((config, _)) if config != shared.around.config => Check::warn(
            "config",
            "the configuration was changed since ployzd started",
            "`ployzd check-config`, then `systemctl restart ployzd`, which stops nothing else",
        ),
        Ok(_) => Check::ok("config", "valid"),
    })
}

/// A configuration that is refused.
pub(super) fn bad_config(error: &BadConfig) -> Check {
    Check::fail("config", error.to_string(), "fix it; `ployzd check-config` shows whether it is valid")
}

/// Programs of the data plane whose file was replaced since they were started.
pub(super) fn programs(ground: &Ground<'_>) -> Vec<Check> {
    let Some(running) = &ground.network else { return Vec::new() };
    let live = &running.live;
    let sidecar =
        |seen: Option<&ployz_core::live::SidecarLive>| seen.and_then(|s| s.unit.as_ref().map(|u| u.pid));
    let pids = [
        ("ployz-wireguard", live.tunnel.present().map(|unit| unit.pid)),
        ("ployz-nats", live.nats.present().map(|nats| nats.unit.pid)),
        ("ployz-gateway", sidecar(live.gateway.present())),
        ("ployz-dns", sidecar(live.dns.present())),
    ];
    let old: Vec<&str> = pids
        .into_iter()
        .filter_map(|(name, pid)| {
            let program = std::fs::read_link(format!("/proc/{}/exe", pid?)).ok()?;
            is_replaced(&program).then_some(name)
        })
        .collect();
    vec![judge_programs(&old)]
}

fn judge_programs(old: &[&str]) -> Check {
    if old.is_empty() {
        return Check::ok("programs", "all running programs are the installed versions");
    }
    let seen = format!("older than the installed version: {}", old.join(", "));
    let advice = "`systemctl restart` each when convenient: gateway and DNS restart without an \
                  interruption, ployz-nats and ployz-wireguard with a short one";
    Check::warn("programs", seen, advice)
}

/// The kernel's mark of a file that is not there any more under this name (proc(5)).
fn is_replaced(program: &Path) -> bool {
    program.to_string_lossy().ends_with(" (deleted)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;

    #[test]
    fn older_programs_are_named() {
        assert_eq!(judge_programs(&[]).level, Level::Ok);
        let check = judge_programs(&["ployz-nats", "ployz-dns"]);
        assert!(check.level == Level::Warn && check.seen.contains("ployz-nats, ployz-dns"), "{check:?}");
        assert!(
            is_replaced(Path::new("/usr/bin/ployzd (deleted)")) && !is_replaced(Path::new("/usr/bin/ployzd"))
        );
    }
}
