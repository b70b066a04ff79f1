//! How fresh what is served is, for `status`: the gateway's routes, the DNS server's names, and Docker.

use super::name::{self, TXT};
use crate::network::context::Network;
use crate::node::supervisor::Supervisor;
use crate::state::NetworkFile;
use ployz_core::adopt::sidecar;
use ployz_core::spec::UnitName;
use ployz_core::spec::container::ZONE;
use ployz_core::spec::sidecar::is_tcp_purpose;
use ployz_core::wire::v1::api::ControlPlaneStatus;
use ployz_engine::watch::Engine;
use std::net::{IpAddr, SocketAddr};

/// A line each; the gateway's only where there is somebody whom it tells.
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
    let error = sidecar::note_of(&mesh.spec().gateway, live, |purpose| !is_tcp_purpose(purpose))?;
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
        Some(live) => sidecar::note_of(&gateway, live, is_tcp_purpose),
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
    let said = systemd.status_text(&UnitName::GATEWAY).await;
    Some(row("gateway routes", said.unwrap_or_else(|| SILENT.into())))
}

async fn dns(file: &NetworkFile) -> ControlPlaneStatus {
    let server = SocketAddr::new(IpAddr::V4(file.subnet().service()), super::served::DNS_PORT);
    let reply = name::ask(server, &format!("_status.{ZONE}"), TXT).await;
    let said = reply.map(|reply| reply.texts.into_iter().next().unwrap_or_else(|| SILENT.into()));
    row("dns names", said.unwrap_or_else(|why| format!("{} does not answer: {why}", server.ip())))
}

fn docker(engine: &Engine) -> ControlPlaneStatus {
    let (healthy, stale_since_unix_secs, error) = match engine {
        Engine::Live(_) => (true, None, None),
        Engine::Unasked => (false, None, Some("not asked yet".to_owned())),
        Engine::Away { since, why } => (false, Some(*since), Some(why.clone())),
    };
    ControlPlaneStatus { component: "docker".into(), healthy, stale_since_unix_secs, error }
}

/// From a server's own words, which say `live`, or since when it has not been.
fn row(component: &str, said: String) -> ControlPlaneStatus {
    let healthy = said.contains("live");
    let stale_since_unix_secs = since(&said);
    let error = (!healthy).then_some(said);
    ControlPlaneStatus { component: component.to_owned(), healthy, stale_since_unix_secs, error }
}

fn since(said: &str) -> Option<u64> {
    let (_, after) = said.split_once("since")?;
    after.trim_start_matches([' ', '=']).split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A process that does not run says nothing, and neither does one that has just begun.
const SILENT: &str = "it does not run, or does not say";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_servers_words_are_understood() {
        for live in ["3 routes, followed live", "freshness=live"] {
            assert_eq!(row("x", live.into()).error, None);
            assert!(row("x", live.into()).healthy);
        }
        for old in
            ["3 routes as last known, NATS away since 1782907200", "freshness=last-good since=1782907200"]
        {
            let row = row("x", old.into());
            assert_eq!((row.healthy, row.stale_since_unix_secs), (false, Some(1_782_907_200)), "{old}");
            assert_eq!(row.error.as_deref(), Some(old));
        }
        let empty = row("x", "freshness=empty".into());
        assert_eq!((empty.healthy, empty.stale_since_unix_secs), (false, None));
        let away = row("x", "10.101.0.2 does not answer: Connection refused (os error 111)".into());
        assert_eq!((away.healthy, away.stale_since_unix_secs), (false, None));
    }
}
