//! Docker: whether it is there and answers, its network on the bridge, and what is known to get in its way.

use super::context::Ground;
use crate::node::host;
use ployz_core::adopt::Verdict;
use ployz_core::wire::v1::doctor::Check;
use ployz_engine::docker::{Docker, SOCKET};
use ployz_engine::network::{self, NetworkSpec};
use std::path::Path;
use tokio::net::UnixStream;

pub(super) async fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    match &ground.network {
        None => checks.push(without_network().await),
        Some(running) => match Docker::connect(Path::new(SOCKET), &running.file.id).await {
            Err(error) => checks.push(judge_away(&ployz_core::text::chain(&error), is_installed())),
            Ok(docker) => {
                checks.push(judge_version(docker.version()));
                let wanted = NetworkSpec {
                    network: running.file.id.clone(),
                    subnet: running.file.subnet(),
                    mtu: running.spec.link.mtu,
                };
                checks.push(network_of(&docker, &wanted).await);
                if let Ok(Some(root)) = docker.root().await {
                    checks.push(host::room("docker-disk", &root));
                }
            }
        },
    }
    checks.extend(firewalld());
    checks
}

async fn without_network() -> Check {
    match UnixStream::connect(SOCKET).await {
        Ok(_) => Check::ok("docker", format!("listens at {SOCKET}")),
        Err(error) => judge_away(&error.to_string(), is_installed()),
    }
}

fn judge_away(why: &str, installed: bool) -> Check {
    if installed {
        let advice = "`systemctl start docker`; running containers are not affected, deploys are refused";
        return Check::fail("docker", why, advice);
    }
    let advice = "install Docker Engine (`apt-get install docker.io`) to run services here";
    Check::warn("docker", "not installed: this machine is in the mesh but runs no services", advice)
}

fn is_installed() -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join("dockerd").exists())
}

/// What was tried: 20.10, 26.1 and 28.5 (decision 0005).
fn judge_version(version: &str) -> Check {
    let seen = format!("Docker {version} answers");
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < (20, 10) => {
            Check::warn("docker", seen, "older than 20.10, which is not supported: upgrade it")
        }
        _ => Check::ok("docker", seen),
    }
}

async fn network_of(docker: &Docker, wanted: &NetworkSpec) -> Check {
    let verdict = network::inspect(docker).await.map(|seen| network::decide(wanted, &seen));
    match verdict {
        Ok(Verdict::Adopt) => Check::ok("docker-network", "as it should be"),
        Ok(Verdict::Create) => {
            Check::fail("docker-network", "missing", "ployzd creates it: `journalctl -u ployzd -n 50`")
        }
        Ok(verdict) => {
            let advice =
                "remove the containers on it and then `docker network rm ployz0`; ployzd recreates it";
            Check::fail("docker-network", verdict.why(), advice)
        }
        Err(error) => Check::warn("docker-network", ployz_core::text::chain(&error), "run doctor again"),
    }
}

/// Known to drop half-seen connections on the bridge, and to flush what others put into the packet filter.
fn firewalld() -> Option<Check> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let named = |name: &str| name.trim() == "firewalld";
    let runs = processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| named(&comm));
    runs.then(|| {
        let advice = "put ployz0 and ployz-veth into its zone `trusted`, open the WireGuard port (UDP) and the gateway's, \
                      and restart Docker after every `firewall-cmd --reload`";
        Check::warn("firewalld", "firewalld is running: it drops and flushes rules it does not know", advice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;

    #[test]
    fn an_engine_that_is_stopped_is_worse_than_none() {
        assert_eq!(judge_away("refused", true).level, Level::Fail);
        assert_eq!(judge_away("refused", false).level, Level::Warn);
    }

    #[test]
    fn versions_that_were_never_tried_are_told() {
        let level = |version| judge_version(version).level;
        assert_eq!(
            (level("20.10.24+dfsg1"), level("28.5.1"), level("dev")),
            (Level::Ok, Level::Ok, Level::Ok)
        );
        assert_eq!((level("19.03.15"), level("20.9")), (Level::Warn, Level::Warn));
    }
}
