//! Before a request is carried out: the store and the machines it needs are waited for, if they were there a moment ago, and
//! the caller sees that. Nothing is refused here: what is still missing afterwards, the request itself says.

use crate::lifecycle::Daemon;
use crate::network::context::Network;
use crate::progress::Say;
use futures_util::future::join_all;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::Request;
use ployz_host::clock;
use ployz_nats::rpc::{self, NoAnswer, connected};
use ployz_nats::store::Store;
use std::time::Duration;
use tokio::time::Instant;

/// What a request needs of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Store,
    /// The store, and every member over it.
    Members,
}

/// Waits for what a request needs.
pub(super) async fn wait(daemon: &Daemon, request: &Request, say: Say<'_>) {
    let Some(mesh) = daemon.current() else { return };
    let needs = match (needs(request), request) {
        (_, Request::MeshDestroy { network, .. }) if mesh.network().name != *network => Needs::Nothing,
        (needs, _) => needs,
    };
    if needs == Needs::Nothing {
        return;
    }
    let Some(store) = store(&mesh, say).await else { return };
    if needs == Needs::Members {
        members(&mesh, &store, say).await;
    }
}

fn needs(request: &Request) -> Needs {
    match request {
        Request::Deploy(_)
        | Request::DeployPreview(_)
        | Request::ServiceList(_)
        | Request::ServiceInspect(_)
        | Request::ServiceLogs(_)
        | Request::ServiceRemove(_)
        | Request::ImagePush(_)
        | Request::ImagePushPreview(_)
        | Request::MeshDestroy { local: false, .. } => Needs::Members,
        Request::CertificateImport(_)
        | Request::CertificateList
        | Request::CertificateRemove(_)
        | Request::DeployAttach(_)
        | Request::InviteCreate { .. }
        | Request::InviteList { .. }
        | Request::InviteRevoke { .. } => Needs::Store,
        Request::Status
        | Request::Doctor
        | Request::Explain { .. }
        | Request::MeshList
        | Request::MeshStatus { .. }
        | Request::MeshCreate { .. }
        | Request::MeshInit { .. }
        | Request::MeshStart { .. }
        | Request::MeshStop { .. }
        | Request::MeshJoin { .. }
        | Request::MeshReady
        | Request::MeshDestroy { local: true, .. }
        | Request::MeshSelfRecord
        | Request::MachineList => Needs::Nothing,
    }
}

/// The store, as soon as it answers; `None` when it has been away for longer than a moment.
async fn store(mesh: &Network, say: Say<'_>) -> Option<Store> {
    let until = Instant::now() + STORE_TIMEOUT;
    let mut said = false;
    while !is_long_away(mesh) {
        let store = mesh.store.borrow().clone();
        if let Some(store) = store
            && matches!(tokio::time::timeout(PING_TIMEOUT, store.ping()).await, Ok(Ok(())))
        {
            return Some(store);
        }
        if Instant::now() >= until {
            break;
        }
        if !said {
            say("waiting for the store, which is disconnected");
            said = true;
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    None
}

fn is_long_away(mesh: &Network) -> bool {
    let since = mesh.sync.borrow().since;
    since.is_some_and(|since| clock::now().saturating_sub(since) > STORE_TIMEOUT.as_secs())
}

/// Waits for members that are not connected although they were a moment ago.
async fn members(mesh: &Network, store: &Store, say: Say<'_>) {
    let members: Vec<MachineId> =
        mesh.peers.borrow().machines.iter().map(|machine| machine.id.clone()).collect();
    let absent = join_all(members.iter().map(|machine| async move { is_coming(store, machine).await }));
    let absent: Vec<&MachineId> =
        members.iter().zip(absent.await).filter_map(|(machine, coming)| coming.then_some(machine)).collect();
    if absent.is_empty() {
        return;
    }
    let names: Vec<&str> = absent.iter().map(|machine| machine.as_str()).collect();
    say(&format!("waiting for {} to connect to the store again", names.join(", ")));
    join_all(absent.into_iter().map(|machine| async move {
        let goes_on = |waited| store.presence().should_wait(machine, waited);
        let _ = connected(Duration::ZERO, || rpc::ping(store, machine, PING_TIMEOUT), goes_on).await;
    }))
    .await;
}

/// Whether a member is not connected and worth waiting for.
async fn is_coming(store: &Store, machine: &MachineId) -> bool {
    match rpc::ping(store, machine, PING_TIMEOUT).await {
        Err(NoAnswer::NotConnected) => store.presence().should_wait(machine, Duration::ZERO).await,
        _ => false,
    }
}

/// How long the store is waited for. A founder's restart is over within a few seconds.
const STORE_TIMEOUT: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_DELAY: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_command_to_other_machines_waits_for_them() {
        let of = |request: serde_json::Value| needs(&serde_json::from_value(request).unwrap());
        let service = json!({"namespace": "shop", "service": "web"});
        let with = |command: &str, rest: &serde_json::Value| {
            let mut request = rest.clone();
            request["command"] = command.into();
            of(request)
        };
        for command in ["service-inspect", "service-remove"] {
            assert_eq!(with(command, &service), Needs::Members, "{command}");
        }
        let manifest = json!({"manifest": {"version": 1, "namespace": "shop"}});
        for command in ["deploy", "deploy-preview"] {
            assert_eq!(with(command, &manifest), Needs::Members, "{command}");
        }
        for command in ["image-push", "image-push-preview"] {
            assert_eq!(with(command, &json!({"image": "web:1"})), Needs::Members, "{command}");
        }
        let destroy = |local: bool| with("mesh-destroy", &json!({"network": "prod", "local": local}));
        assert_eq!((destroy(false), destroy(true)), (Needs::Members, Needs::Nothing));
        let import = json!({"chain": "", "key": ""});
        assert_eq!(with("certificate-import", &import), Needs::Store);
        assert_eq!(with("invite-create", &json!({"ttl_secs": 60})), Needs::Store);
        assert_eq!(of(json!({"command": "status"})), Needs::Nothing);
    }
}
