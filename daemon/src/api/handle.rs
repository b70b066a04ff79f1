//! From a request to its envelope.

use crate::api::needs;
use crate::certificates;
use crate::deploy;
use crate::deploy::agent::commands;
use crate::doctor;
use crate::failure::{Failure, Result};
use crate::image;
use crate::lifecycle::{Daemon, Rooms};
use crate::membership::issue;
use crate::network::context::Network;
use crate::network::ready;
use crate::node::environment::NETNS;
use crate::node::reconcile::Reconciler;
use crate::progress::Say;
use crate::state::{NetworkFile, Stored};
use ployz_core::adopt::Component;
use ployz_core::id::NetworkName;
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::wire::v1::api::{
    Asked, ComponentStatus, ControlPlaneStatus, Envelope, ErrorCode, Explain, MeshStatus, NetworkSummary,
    Payload, PeerStatus, Phase, Request, RunningOperation, Status,
};
use ployz_core::wire::v1::api_deploy::{DeployReport, DeployState};
use ployz_core::wire::v1::image::ImagePushReport;
use ployz_core::wire::v1::record::MachineMembership;
use ployz_host::clock;
use ployz_netns::{namespace, wireguard};
use std::net::IpAddr;
use std::sync::Arc;

/// Carries a request out.
pub(super) async fn run(daemon: &Arc<Daemon>, request: Request, say: Say<'_>) -> Envelope {
    let asked = Asked::of(&request);
    needs::wait(daemon, &request, say).await;
    match Box::pin(dispatch(daemon, request, say)).await {
        Ok(envelope) => envelope,
        Err(failure) => {
            tracing::info!(code = %failure.code, error = %failure, "request refused");
            failure.envelope(asked)
        }
    }
}

async fn dispatch(daemon: &Arc<Daemon>, request: Request, say: Say<'_>) -> Result<Envelope> {
    let done = |message: String, payload: Option<Payload>| Ok(Envelope::ok(message, payload));
    match request {
        Request::Status => done("status".into(), Some(Payload::Status(status(daemon).await))),
        Request::Explain { component, containers } => {
            let explained = explain(daemon, component, containers).await;
            done("explain".into(), Some(Payload::Explain(explained)))
        }
        Request::Doctor => Ok(doctor::examine(&daemon.shared).await),
        Request::MeshList => {
            let networks = list(daemon)?;
            let message = if networks.is_empty() {
                "no networks found".into()
            } else {
                format!("{} networks", networks.len())
            };
            done(message, Some(Payload::MeshList { networks }))
        }
        Request::MeshStatus { network } => mesh_status(daemon, &daemon.meant(network)?).await,
        Request::MeshCreate { network } => {
            let file = daemon.create(&network).await?;
            done(
                format!("network {network} created; `ployzctl mesh start {network}` starts it"),
                Some(brief(&file, "stopped")),
            )
        }
        Request::MeshInit { network } => {
            let file = daemon.init(&network, say).await?;
            done(format!("network {network} is running"), Some(now(daemon, &file).await))
        }
        Request::MeshStart { network, restored } => {
            let network = daemon.meant(network)?;
            let file = daemon.start(&network, restored, say).await?;
            done(format!("network {network} is running"), Some(now(daemon, &file).await))
        }
        Request::MeshStop { force } => {
            done(format!("network {} is stopped", daemon.stop(force).await?), None)
        }
        Request::MeshJoin { token } => {
            let file = daemon.join(&token, say).await?;
            let hidden = if file.machine.endpoints.is_empty() { HIDDEN } else { "" };
            let message = format!("joined network {} as {}{hidden}", file.name, file.machine.id);
            done(message, Some(now(daemon, &file).await))
        }
        Request::MeshReady => {
            let ready = ready::check(&*daemon.running()?);
            let message = if ready.ready { "ready" } else { "not ready" };
            done(message.into(), Some(Payload::MeshReady(ready)))
        }
        Request::MeshDestroy { network, local } => {
            daemon.destroy(&network, local, say).await?;
            done(format!("network {network} is destroyed"), None)
        }
        Request::MeshSelfRecord => {
            let record = Box::new(daemon.running()?.network().machine);
            done(record.id.to_string(), Some(Payload::MeshSelfRecord { record }))
        }
        Request::MachineList => {
            let mut rows = daemon.running()?.peers.borrow().machines.clone();
            rows.sort_by(|a, b| a.id.cmp(&b.id));
            done(format!("{} machines", rows.len()), Some(Payload::MachineList { rows }))
        }
        Request::InviteCreate { ttl_secs, endpoints, network } => {
            let made = daemon.invite(ttl_secs, &endpoints, network).await?;
            let issue::Made { token, invite_id, expires_at, warnings } = made;
            let token = token.to_string();
            done(
                format!("invite {invite_id} created"),
                Some(Payload::MachineInviteCreate { token, invite_id, expires_at, warnings }),
            )
        }
        Request::InviteList { network } => {
            let invites = daemon.invites(network).await?;
            done(format!("{} invites", invites.len()), Some(Payload::MachineInviteList { invites }))
        }
        Request::InviteRevoke { invite, network } => {
            daemon.revoke_invite(&invite, network).await?;
            done(format!("invite {invite} is revoked"), None)
        }
        Request::CertificateImport(import) => {
            let row = certificates::import(&*daemon.running()?, import).await?;
            done(
                format!("certificate {} imported; every gateway with HTTPS serves it", row.name),
                Some(Payload::CertificateList { certificates: vec![row] }),
            )
        }
        Request::CertificateList => {
            let certificates = certificates::list(&*daemon.running()?).await?;
            done(
                format!("{} certificates", certificates.len()),
                Some(Payload::CertificateList { certificates }),
            )
        }
        Request::CertificateRemove(request) => {
            certificates::remove(&*daemon.running()?, &request.name).await?;
            done(format!("certificate {} is removed", request.name), None)
        }
        // `attend` has these: they are followed, and outlive their caller.
        Request::Deploy(_) | Request::ServiceRemove(_) | Request::DeployAttach(_) => {
            Err(Failure::new(ErrorCode::InvalidRequest, "deploys use the streaming call"))
        }
        Request::DeployPreview(request) => {
            let preview = deploy::coordinator::requests::preview(&*daemon.running()?, &request).await?;
            done("preview".into(), Some(Payload::DeployPreview(Box::new(preview))))
        }
        Request::ServiceList(request) => {
            let list =
                deploy::coordinator::services::list_all(&*daemon.running()?, request.namespace.as_ref())
                    .await?;
            done(format!("{} services", list.services.len()), Some(Payload::ServiceList(list)))
        }
        Request::ServiceInspect(request) => {
            let detail = deploy::coordinator::services::inspect(&*daemon.running()?, &request).await?;
            done(request.service.to_string(), Some(Payload::ServiceInspect(Box::new(detail))))
        }
        Request::ServiceLogs(request) => {
            let logs = deploy::coordinator::services::logs(&*daemon.running()?, &request).await?;
            done(format!("{} lines", logs.lines.len()), Some(Payload::ServiceLogs(logs)))
        }
        Request::ImagePush(request) => {
            let report = image::push::push(&daemon.rooms()?.images, &request, say).await?;
            done(pushed(&report), Some(Payload::ImagePush(report)))
        }
        Request::ImagePushPreview(request) => {
            let report = image::push::preview(&daemon.rooms()?.images, &request).await?;
            done("preview".into(), Some(Payload::ImagePushPreview(report)))
        }
    }
}

fn pushed(report: &ImagePushReport) -> String {
    match report.machines.as_slice() {
        [] => format!("image {}: there is no other machine to send it to", report.image),
        [one] => format!("image {} is on {}", report.image, one.machine),
        all => format!("image {} is on all {} machines", report.image, all.len()),
    }
}

/// How a deploy ended, in one line.
pub(super) fn outcome(report: &DeployReport) -> String {
    let namespace = &report.preview.namespace;
    match (&report.deploy_id, report.state) {
        (Some(deploy), DeployState::CleanupPending) => {
            let why = report.failures.first().map(ToString::to_string).unwrap_or_default();
            format!(
                "namespace {namespace}: deploy {deploy} is committed; old instances are still being removed: {why}"
            )
        }
        (Some(deploy), state) => format!("namespace {namespace}: deploy {deploy} is {state}"),
        (None, _) => format!("namespace {namespace}: nothing to do"),
    }
}

async fn status(daemon: &Daemon) -> Status {
    let rooms = daemon.rooms().ok();
    let mesh = rooms.as_ref().map(|rooms| rooms.network.clone());
    let file = mesh.as_ref().map(|mesh| mesh.network());
    let control_plane = match &rooms {
        Some(rooms) => control_plane(rooms).await,
        None => daemon.held_reason().map(|(_, why)| held(why)).into_iter().collect(),
    };
    let last = daemon.shared.reconciler.history().pop();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started_at: daemon.started_at,
        runtime: "host".into(),
        service_mode: daemon.shared.reconciler.supervisor().service_mode().into(),
        network: file.as_ref().map(|file| file.name.clone()).or(daemon.held_reason().map(|(name, _)| name)),
        machine_id: file.as_ref().map(|file| file.machine.id.clone()),
        overlay_ip: file.as_ref().map(|file| file.machine.overlay_ip),
        phase: mesh.as_ref().map_or(Phase::Stopped, |mesh| *mesh.phase.borrow()),
        components: if mesh.is_some() {
            last.map(|run| run.components).unwrap_or_default()
        } else {
            Vec::new()
        },
        control_plane,
    }
}

/// A network that does not run because its state is another machine's.
fn held(why: String) -> ControlPlaneStatus {
    let error = Some(format!("{why}; {}", ErrorCode::IdentityHeld.hint()));
    ControlPlaneStatus { component: "identity".into(), healthy: false, stale_since_unix_secs: None, error }
}

async fn control_plane(Rooms { network: mesh, deploys, .. }: &Rooms) -> Vec<ControlPlaneStatus> {
    let health = mesh.sync.borrow().clone();
    let store = ControlPlaneStatus {
        component: "store".into(),
        healthy: health.healthy,
        stale_since_unix_secs: health.since,
        error: health.error,
    };
    let identities = mesh.shared.identities.borrow().clone();
    let identities = identities.into_iter().map(|check| ControlPlaneStatus {
        component: check.check,
        healthy: false,
        stale_since_unix_secs: None,
        error: Some(check.seen),
    });
    let engine = deploys.workloads.borrow().engine.clone();
    std::iter::once(store).chain(doctor::fresh::rows(mesh, &engine).await).chain(identities).collect()
}

async fn explain(daemon: &Daemon, component: Option<Component>, only_containers: bool) -> Explain {
    let mut runs = if only_containers { Vec::new() } else { daemon.shared.reconciler.history() };
    if let Some(component) = component {
        for run in &mut runs {
            run.components.retain(|status: &ComponentStatus| status.component == component);
            let is_of = |line: &String| line.split_whitespace().next() == Some(component.as_str());
            run.lines.retain(is_of);
            run.operations.retain(is_of);
        }
        runs.retain(|run| !run.components.is_empty());
    }
    let containers = match daemon.rooms().ok().filter(|_| component.is_none()) {
        Some(rooms) => Some(commands::explain(&rooms.deploys).await),
        None => None,
    };
    Explain { runs, containers }
}

fn list(daemon: &Daemon) -> Result<Vec<NetworkSummary>> {
    let current = daemon.current().map(|mesh| (mesh.network().name, *mesh.phase.borrow()));
    let names = daemon.shared.disk.networks()?;
    let rows = names.into_iter().map(|name| match &current {
        Some((active, phase)) if *active == name => {
            NetworkSummary { name, state: phase.to_string(), active: true }
        }
        _ => NetworkSummary { name, state: "stopped".into(), active: false },
    });
    Ok(rows.collect())
}

async fn mesh_status(daemon: &Daemon, name: &NetworkName) -> Result<Envelope> {
    let missing =
        || Failure::new(ErrorCode::NetworkNotFound, format!("there is no network {name} on this machine"));
    let file = daemon.shared.disk.network(name)?.ok_or_else(missing)?;
    let mesh = daemon.current().filter(|mesh| mesh.network().name == *name);
    let status = match mesh {
        Some(mesh) => running_status(&mesh).await,
        None => {
            let lifecycle =
                if matches!(file.lifecycle, Stored::Joining { .. }) { "joining" } else { "stopped" };
            let known = daemon.shared.disk.peers(name)?.machines;
            let peers = known.iter().filter(|machine| machine.id != file.machine.id).map(last_known);
            // Until a start has reconciled once the network does not count as running.
            let active = daemon.shared.disk.active()?.as_ref() == Some(name);
            let running = active.then(|| slow_operation(&daemon.shared.reconciler)).flatten();
            MeshStatus { peers: peers.collect(), running, ..file_status(&file, lifecycle) }
        }
    };
    Ok(Envelope::ok(format!("network {name} is {}", status.lifecycle), Some(Payload::MeshStatus(status))))
}

/// The running network and its peers, as they are now.
pub async fn running_status(mesh: &Network) -> MeshStatus {
    let file = mesh.network();
    let device = wireguard::inspect(WG_DEVICE, &namespace::path(NETNS)).await;
    let (now, wall) = (mesh.millis(), clock::now());
    let machines = mesh.peers.borrow().machines.clone();
    let peers = machines.iter().filter(|machine| machine.id != file.machine.id).map(|machine| {
        let stats = device
            .present()
            .and_then(|d| d.peers.get(&machine.public_key))
            .map(|p| p.stats.clone())
            .unwrap_or_default();
        let path = mesh.path(&machine.public_key);
        PeerStatus {
            id: machine.id.clone(),
            public_key: machine.public_key,
            overlay_ip: machine.overlay_ip,
            subnet: machine.subnet.to_string(),
            endpoint: stats.endpoint,
            candidates: machine.endpoints.clone(),
            handshake_age_secs: stats.last_handshake.map(|at| wall.saturating_sub(at)),
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rtt_ms: path.rtt_micros().map(|micros| micros as f64 / 1000.0),
            reachable: path.reachable(now),
        }
    });
    let running = slow_operation(&mesh.shared.reconciler);
    MeshStatus { peers: peers.collect(), running, ..file_status(&file, &mesh.phase.borrow().to_string()) }
}

fn slow_operation(reconciler: &Reconciler) -> Option<RunningOperation> {
    let running = reconciler.running().borrow().clone();
    running.filter(|operation| operation.is_slow(clock::now()))
}

/// A member of a network that does not run here, as the disk has it.
fn last_known(machine: &MachineMembership) -> PeerStatus {
    PeerStatus {
        id: machine.id.clone(),
        public_key: machine.public_key,
        overlay_ip: machine.overlay_ip,
        subnet: machine.subnet.to_string(),
        endpoint: None,
        candidates: machine.endpoints.clone(),
        handshake_age_secs: None,
        rx_bytes: 0,
        tx_bytes: 0,
        rtt_ms: None,
        reachable: false,
    }
}

fn file_status(file: &NetworkFile, lifecycle: &str) -> MeshStatus {
    MeshStatus {
        network: file.name.clone(),
        overlay_ip: file.machine.overlay_ip,
        lifecycle: lifecycle.to_owned(),
        subnet: file.subnet().to_string(),
        service_ip: IpAddr::V4(file.subnet().service()),
        cluster_cidr: file.plan.cluster_cidr.to_string(),
        peers: Vec::new(),
        running: None,
    }
}

/// The network as it is after an operation.
async fn now(daemon: &Daemon, file: &NetworkFile) -> Payload {
    match daemon.current() {
        Some(mesh) => Payload::MeshStatus(running_status(&mesh).await),
        None => brief(file, "stopped"),
    }
}

fn brief(file: &NetworkFile, lifecycle: &str) -> Payload {
    Payload::MeshStatus(file_status(file, lifecycle))
}

const HIDDEN: &str = "; it has no address that others can dial, so only machines it dials itself can reach \
it (set advertise_endpoints in config.toml)";
