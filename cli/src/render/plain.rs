//! For scripts: `key: value` lines and tab-separated rows, keys as in the JSON, numbers without units, `-` for none.
//!
//! A row that is one of several kinds begins with its kind (`component`, `control_plane`, `peer`, `reason`).

mod images;
mod services;

use super::Mode;
use super::logs::Lines;
use super::text::{clean, or_dash, row};
use ployz_core::wire::v1::api::{
    Explain, InviteRow, MeshReady, MeshStatus, NetworkSummary, Payload, PeerStatus, Status,
};
use ployz_core::wire::v1::certificate::CertificateRow;
use ployz_core::wire::v1::doctor::Doctor;
use ployz_core::wire::v1::record::MachineMembership;
use std::io::{self, Write};

/// Writes a payload.
pub(crate) fn write(payload: &Payload, out: &mut dyn Write) -> io::Result<()> {
    match payload {
        Payload::Status(status) => write_status(status, out),
        Payload::Doctor(found) => write_doctor(found, out),
        Payload::Explain(explain) => write_explain(explain, out),
        Payload::MeshList { networks } => write_networks(networks, out),
        Payload::MeshStatus(status) => write_mesh(status, out),
        Payload::MeshReady(ready) => write_ready(ready, out),
        Payload::MeshSelfRecord { record } => write_record(record, out),
        Payload::MachineList { rows } => rows.iter().try_for_each(|record| write_machine(record, out)),
        Payload::MachineInviteCreate { token, .. } => writeln!(out, "{}", clean(token)),
        Payload::MachineInviteList { invites } => {
            invites.iter().try_for_each(|invite| write_invite(invite, out))
        }
        Payload::CertificateList { certificates } => {
            certificates.iter().try_for_each(|found| write_certificate(found, out))
        }
        Payload::Deploy(report) => services::report(report, out),
        Payload::DeployPreview(found) => services::preview(&found.preview, out),
        Payload::ServiceList(found) => services::services(found, out),
        Payload::ServiceInspect(found) => services::detail(found, out),
        Payload::ServiceLogs(logs) => Lines::new(Mode::Plain).write(&logs.lines, out),
        Payload::ImagePush(report) | Payload::ImagePushPreview(report) => images::report(report, out),
    }
}

fn write_doctor(found: &Doctor, out: &mut dyn Write) -> io::Result<()> {
    pairs(&[("daemon_answers", found.daemon_answers.to_string())], out)?;
    found.checks.iter().try_for_each(|check| {
        let advice = or_dash(check.advice.as_ref());
        row(&["check".into(), check.check.clone(), check.level.to_string(), check.seen.clone(), advice], out)
    })
}

fn write_certificate(found: &CertificateRow, out: &mut dyn Write) -> io::Result<()> {
    let facts = &found.facts;
    let columns = [
        found.name.clone(),
        facts.not_after.to_string(),
        facts.fingerprint.clone(),
        facts.names.join(","),
        found.machine.to_string(),
        found.imported_at.to_string(),
    ];
    row(&columns, out)
}

fn write_status(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    pairs(
        &[
            ("version", status.version.clone()),
            ("pid", status.pid.to_string()),
            ("started_at", status.started_at.to_string()),
            ("runtime", status.runtime.clone()),
            ("service_mode", status.service_mode.clone()),
            ("network", or_dash(status.network.as_ref())),
            ("machine_id", or_dash(status.machine_id.as_ref())),
            ("overlay_ip", or_dash(status.overlay_ip)),
            ("phase", status.phase.to_string()),
        ],
        out,
    )?;
    for part in &status.components {
        let why = part.reasons.iter().chain(&part.error).cloned().collect::<Vec<_>>().join("; ");
        let name = part.component.to_string();
        row(
            &["component".into(), name, part.verdict.clone(), part.outcome.clone(), dash_if_empty(why)],
            out,
        )?;
    }
    status.control_plane.iter().try_for_each(|part| {
        let (since, error) = (or_dash(part.stale_since_unix_secs), or_dash(part.error.as_ref()));
        row(&["control_plane".into(), part.component.clone(), part.healthy.to_string(), since, error], out)
    })
}

fn write_explain(explain: &Explain, out: &mut dyn Write) -> io::Result<()> {
    for run in &explain.runs {
        row(&[run.at.to_string(), run.trigger.clone(), run.took_ms.to_string()], out)?;
        run.lines.iter().try_for_each(|line| writeln!(out, "{}", clean(line)))?;
        run.operations.iter().try_for_each(|operation| writeln!(out, "  {}", clean(operation)))?;
    }
    let Some(containers) = &explain.containers else { return Ok(()) };
    if let Some(why) = &containers.unknown {
        return row(&["container".into(), "-".into(), "hold".into(), why.clone()], out);
    }
    containers.rows.iter().try_for_each(|found| {
        let why = found.reasons.join("; ");
        row(&["container".into(), found.container.clone(), found.verdict.clone(), why], out)
    })
}

fn write_networks(networks: &[NetworkSummary], out: &mut dyn Write) -> io::Result<()> {
    if networks.is_empty() {
        return writeln!(out, "no networks found");
    }
    networks.iter().try_for_each(|network| writeln!(out, "{}: {}", network.name, clean(&network.state)))
}

fn write_mesh(status: &MeshStatus, out: &mut dyn Write) -> io::Result<()> {
    pairs(
        &[
            ("network", status.network.to_string()),
            ("overlay_ip", status.overlay_ip.to_string()),
            ("lifecycle", status.lifecycle.clone()),
            ("subnet", status.subnet.clone()),
            ("service_ip", status.service_ip.to_string()),
            ("cluster_cidr", status.cluster_cidr.clone()),
        ],
        out,
    )?;
    status.running.iter().try_for_each(|operation| {
        let (component, since) = (operation.component.to_string(), operation.since.to_string());
        row(&["running".into(), component, operation.operation.clone(), since], out)
    })?;
    status.peers.iter().try_for_each(|peer| write_peer(peer, out))
}

fn write_peer(peer: &PeerStatus, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        "peer".into(),
        peer.id.to_string(),
        peer.overlay_ip.to_string(),
        peer.subnet.clone(),
        or_dash(peer.endpoint),
        or_dash(peer.handshake_age_secs),
        peer.rx_bytes.to_string(),
        peer.tx_bytes.to_string(),
        or_dash(peer.rtt_ms),
        peer.reachable.to_string(),
    ];
    row(&cells, out)
}

fn write_ready(ready: &MeshReady, out: &mut dyn Write) -> io::Result<()> {
    pairs(
        &[
            ("ready", ready.ready.to_string()),
            ("phase", ready.phase.to_string()),
            ("store_healthy", ready.store_healthy.to_string()),
            ("sync_connected", ready.sync_connected.to_string()),
            ("workload_subnet_present", ready.workload_subnet_present.to_string()),
        ],
        out,
    )?;
    ready.reasons.iter().try_for_each(|reason| writeln!(out, "reason: {}", clean(reason)))
}

fn write_record(record: &MachineMembership, out: &mut dyn Write) -> io::Result<()> {
    let labels = record.labels.iter().map(|(key, value)| format!("{key}={value}"));
    pairs(
        &[
            ("id", record.id.to_string()),
            ("overlay_ip", record.overlay_ip.to_string()),
            ("public_key", record.public_key.to_string()),
            ("endpoints", joined(record.endpoints.iter().map(ToString::to_string))),
            ("subnet", record.subnet.to_string()),
            ("lifecycle", record.lifecycle.to_string()),
            ("storage", record.storage.to_string()),
            ("region_role", record.region_role.to_string()),
            ("region", or_dash(record.topology.region.as_ref())),
            ("availability_zone", or_dash(record.topology.availability_zone.as_ref())),
            ("labels", joined(labels)),
            ("created_at", record.created_at.to_string()),
            ("updated_at", record.updated_at.to_string()),
        ],
        out,
    )
}

fn write_machine(record: &MachineMembership, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        record.id.to_string(),
        record.lifecycle.to_string(),
        record.storage.to_string(),
        or_dash(record.topology.region.as_ref()),
        record.region_role.to_string(),
        record.overlay_ip.to_string(),
        record.subnet.to_string(),
        record.created_at.to_string(),
    ];
    row(&cells, out)
}

fn write_invite(invite: &InviteRow, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        invite.invite_id.to_string(),
        invite.status.clone(),
        invite.expires_at.to_string(),
        invite.issuer.to_string(),
        or_dash(invite.consumed_by.as_ref()),
    ];
    row(&cells, out)
}

fn pairs(rows: &[(&str, String)], out: &mut dyn Write) -> io::Result<()> {
    rows.iter().try_for_each(|(key, value)| writeln!(out, "{key}: {}", clean(value)))
}

fn joined(values: impl Iterator<Item = String>) -> String {
    dash_if_empty(values.collect::<Vec<_>>().join(" "))
}

fn dash_if_empty(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}
