//! How fresh what is served is, for `status`: the gateway's routes, the DNS server's names, and Docker.

use super::sidecar::{self, Report, Sidecar};
use crate::network::context::Network;
use crate::node::supervisor::Supervisor;
use crate::state::NetworkFile;
use ployz_core::adopt::sidecar::note_of;
use ployz_core::routing::Freshness;
use ployz_core::spec::sidecar::is_tcp_purpose;
use ployz_core::wire::v1::api::ControlPlaneStatus;
use ployz_engine::watch::Engine;
use std::net::{IpAddr, SocketAddr};

/// A line each; the gateway's only under systemd, which keeps its report.
pub async fn rows(mesh: &Network, engine: &Engine) -> Vec<ControlPlaneStatus> {
    let file = mesh.network();
    let (gateway, dns) = tokio::join!(gateway(mesh.shared.reconciler.supervisor()), dns(&file));
    let docker = docker(engine);
    gateway.into_iter().chain(tcp(mesh)).chain(ipv6(mesh)).chain([dns, docker]).collect()
}

/// What keeps the gateway from IPv6 where it serves both families; nothing where it has it, or is not to.
fn ipv6(mesh: &Network) -> Option<ControlPlaneStatus> {
    let outcome = mesh.outcome.borrow().clone();
    let live = outcome.as_ref().and_then(|outcome| outcome.live.gateway.present())?;
    let error = note_of(&mesh.spec().gateway, live, |purpose| !is_tcp_purpose(purpose))?;
    Some(ControlPlaneStatus {
        component: "gateway ipv6".into(),
        healthy: false,
        stale_since_unix_secs: None,
        error: Some(error),
    })
}

/// Whether the gateway of this machine listens wherever TCP routes ask for it; nothing where none does.
fn tcp(mesh: &Network) -> Option<ControlPlaneStatus> {
    let asked = mesh.asked.borrow().clone();
    let gateway = mesh.spec().gateway;
    let outcome = mesh.outcome.borrow().clone();
    let live = outcome.as_ref().and_then(|outcome| outcome.live.gateway.present());
    let error = match live {
        Some(live) => note_of(&gateway, live, is_tcp_purpose),
        None => Some("the gateway is not there".to_owned()),
    };
    let row = ControlPlaneStatus {
        component: "tcp routes".into(),
        healthy: error.is_none(),
        stale_since_unix_secs: None,
        error,
    };
    (!asked.ports.is_empty()).then_some(row)
}

async fn gateway(supervisor: &Supervisor) -> Option<ControlPlaneStatus> {
    let Supervisor::Systemd(systemd) = supervisor else { return None };
    Some(row("gateway routes", Sidecar::Gateway, &sidecar::gateway(systemd).await))
}

async fn dns(file: &NetworkFile) -> ControlPlaneStatus {
    let server = SocketAddr::new(IpAddr::V4(file.subnet().service()), super::served::DNS_PORT);
    row("dns names", Sidecar::Dns, &sidecar::dns(server).await)
}

fn docker(engine: &Engine) -> ControlPlaneStatus {
    let (healthy, stale_since_unix_secs, error) = match engine {
        Engine::Live(_) => (true, None, None),
        Engine::Unasked => (false, None, Some("not asked yet".to_owned())),
        Engine::Away { since, why } => (false, Some(*since), Some(why.clone())),
    };
    ControlPlaneStatus { component: "docker".into(), healthy, stale_since_unix_secs, error }
}

/// A sidecar's report as a line. What cannot be parsed is another build's: it is shown, and not unhealthy.
fn row(component: &str, of: Sidecar, report: &Report) -> ControlPlaneStatus {
    let (healthy, stale_since_unix_secs, words) = match report {
        Report::Status(status) => match status.freshness {
            Freshness::Live => (true, None, None),
            Freshness::LastGood(since) => (false, Some(since), Some(report.words(of))),
            Freshness::Empty => (false, None, Some(report.words(of))),
        },
        Report::Unknown(_) => (true, None, Some(report.words(of))),
        Report::Silent(_) => (false, None, Some(report.words(of))),
    };
    ControlPlaneStatus { component: component.to_owned(), healthy, stale_since_unix_secs, error: words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::sidecar::SidecarStatus;

    fn judged(report: &Report) -> (bool, Option<u64>, bool) {
        let row = row("x", Sidecar::Gateway, report);
        (row.healthy, row.stale_since_unix_secs, row.error.is_some())
    }

    #[test]
    fn status_row_follows_freshness() {
        let of = |freshness| judged(&Report::Status(SidecarStatus::new(freshness, "0.4.0")));
        assert_eq!(of(Freshness::Live), (true, None, false));
        assert_eq!(of(Freshness::LastGood(1_782_907_200)), (false, Some(1_782_907_200), true));
        assert_eq!(of(Freshness::Empty), (false, None, true));
    }

    #[test]
    fn status_row_of_another_build_is_not_unhealthy() {
        assert_eq!(judged(&Report::Unknown("3 routes, followed live".to_owned())), (true, None, true));
        assert_eq!(judged(&Report::Silent("it does not run".to_owned())), (false, None, true));
    }
}
