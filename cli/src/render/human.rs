//! For people: labels, tables, units. Free to change between versions; scripts use `--plain` or `--json`.

mod images;
mod services;

use super::Mode;
use super::logs::{Lines, missing};
use super::text::{bytes, clean, duration, labelled, list, or_dash, table, time, yes_no};
use ployz_core::wire::v1::api::{
    ComponentStatus, ContainerStatus, ControlPlaneStatus, Explain, ExplainContainers, InviteRow, MeshReady,
    MeshStatus, NetworkSummary, Payload, PeerStatus, Status,
};
use ployz_core::wire::v1::certificate::CertificateRow;
use ployz_core::wire::v1::doctor::Doctor;
use ployz_core::wire::v1::record::MachineMembership;
use std::io::{self, Write};

/// Writes a payload; what only explains it goes to `notes`.
pub(crate) fn write(payload: &Payload, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    match payload {
        Payload::Status(status) => write_status(status, out),
        Payload::Doctor(found) => write_doctor(found, out),
        Payload::Explain(explain) => write_explain(explain, out),
        Payload::MeshList { networks } => write_networks(networks, out),
        Payload::MeshStatus(status) => write_mesh(status, out),
        Payload::MeshReady(ready) => write_ready(ready, out),
        Payload::MeshSelfRecord { record } => write_record(record, out),
        Payload::MachineList { rows } => write_machines(rows, out),
        Payload::MachineInviteCreate { token, invite_id, expires_at, warnings } => {
            warnings.iter().try_for_each(|warning| writeln!(notes, "warning: {}", clean(warning)))?;
            writeln!(notes, "Invite {invite_id} admits one machine, once, until {}.", time(*expires_at))?;
            writeln!(notes, "Run `ployzctl mesh join --token-stdin` there and paste this token:")?;
            notes.flush()?;
            writeln!(out, "{}", clean(token))
        }
        Payload::MachineInviteList { invites } => write_invites(invites, out),
        Payload::CertificateList { certificates } => write_certificates(certificates, out),
        Payload::Deploy(report) => services::report(report, out, notes),
        Payload::DeployPreview(found) => services::preview(&found.preview, out),
        Payload::ServiceList(found) => services::services(found, out, notes),
        Payload::ServiceInspect(found) => services::detail(found, out, notes),
        Payload::ServiceLogs(logs) => {
            notes.write_all(missing(&logs.missing).as_bytes())?;
            Lines::new(Mode::Human).write(&logs.lines, out)
        }
        Payload::ImagePush(report) => images::report(report, out),
        Payload::ImagePushPreview(report) => images::preview(report, out),
    }
}

/// What a failed operation had done before it failed.
pub(crate) fn steps(payload: &Payload, notes: &mut dyn Write) -> io::Result<()> {
    match payload {
        Payload::Deploy(report) => services::steps(report, notes),
        Payload::ImagePush(report) => images::steps(report, notes),
        _ => Ok(()),
    }
}

fn write_certificates(certificates: &[CertificateRow], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = certificates
        .iter()
        .map(|row| {
            let names = clean(&row.facts.names.join(", "));
            vec![names, time(row.facts.not_after), row.facts.fingerprint.clone(), row.machine.to_string()]
        })
        .collect();
    table(&["NAMES", "VALID UNTIL", "SHA-256", "IMPORTED AT"], &rows, out)
}

fn write_status(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let daemon = format!("ployzd {} (pid {}), since {}", status.version, status.pid, time(status.started_at));
    let rows = [
        ("daemon", daemon),
        ("runtime", format!("{} / {}", status.runtime, status.service_mode)),
        ("network", or_dash(status.network.as_ref())),
        ("machine", or_dash(status.machine_id.as_ref())),
        ("overlay ip", or_dash(status.overlay_ip)),
        ("phase", status.phase.to_string()),
    ];
    labelled(&rows, out)?;
    if !status.components.is_empty() {
        writeln!(out)?;
        let rows: Vec<Vec<String>> = status.components.iter().map(component_row).collect();
        table(&["COMPONENT", "VERDICT", "OUTCOME", "WHY"], &rows, out)?;
    }
    if !status.control_plane.is_empty() {
        writeln!(out)?;
        let rows: Vec<Vec<String>> = status.control_plane.iter().map(control_plane_row).collect();
        table(&["DEPENDENCY", "HEALTHY", "STALE SINCE", "ERROR"], &rows, out)?;
    }
    Ok(())
}

fn component_row(status: &ComponentStatus) -> Vec<String> {
    let why = status.reasons.iter().chain(&status.error).cloned().collect::<Vec<_>>().join("; ");
    vec![status.component.to_string(), status.verdict.clone(), status.outcome.clone(), why]
}

fn control_plane_row(status: &ControlPlaneStatus) -> Vec<String> {
    let since = status.stale_since_unix_secs.map(time);
    vec![
        status.component.clone(),
        yes_no(status.healthy).into(),
        or_dash(since),
        status.error.clone().unwrap_or_default(),
    ]
}

fn write_doctor(found: &Doctor, out: &mut dyn Write) -> io::Result<()> {
    let width = found.checks.iter().map(|check| check.check.chars().count()).max().unwrap_or(0);
    for check in &found.checks {
        writeln!(out, "{:<4}  {:<width$}  {}", check.level, clean(&check.check), clean(&check.seen))?;
        if let Some(advice) = &check.advice {
            writeln!(out, "{:<4}  {:<width$}  -> {}", "", "", clean(advice))?;
        }
    }
    writeln!(out, "\n{}", found.summary())
}

fn write_explain(explain: &Explain, out: &mut dyn Write) -> io::Result<()> {
    if explain.runs.is_empty() && explain.containers.is_none() {
        return writeln!(out, "no reconciliation since ployzd started");
    }
    for (index, run) in explain.runs.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}  {}  ({} ms)", time(run.at), clean(&run.trigger), run.took_ms)?;
        run.lines.iter().try_for_each(|line| writeln!(out, "{}", clean(line)))?;
        run.operations.iter().try_for_each(|operation| writeln!(out, "  {}", clean(operation)))?;
    }
    match &explain.containers {
        Some(containers) if explain.runs.is_empty() => write_containers(containers, out),
        Some(containers) => {
            writeln!(out)?;
            write_containers(containers, out)
        }
        None => Ok(()),
    }
}

fn write_containers(containers: &ExplainContainers, out: &mut dyn Write) -> io::Result<()> {
    if let Some(why) = &containers.unknown {
        return writeln!(out, "cannot list containers: {}", clean(why));
    }
    if containers.rows.is_empty() {
        return writeln!(out, "no service containers");
    }
    let row = |row: &ContainerStatus| {
        vec![clean(&row.container), clean(&row.verdict), clean(&row.reasons.join("; "))]
    };
    let rows: Vec<Vec<String>> = containers.rows.iter().map(row).collect();
    table(&["CONTAINER", "VERDICT", "WHY"], &rows, out)
}

fn write_networks(networks: &[NetworkSummary], out: &mut dyn Write) -> io::Result<()> {
    if networks.is_empty() {
        return writeln!(out, "no networks found");
    }
    networks.iter().try_for_each(|network| {
        let mark = if network.active { " (current)" } else { "" };
        writeln!(out, "{}: {}{mark}", network.name, clean(&network.state))
    })
}

fn write_mesh(status: &MeshStatus, out: &mut dyn Write) -> io::Result<()> {
    let rows = [
        ("network", status.network.to_string()),
        ("overlay ip", status.overlay_ip.to_string()),
        ("lifecycle", status.lifecycle.clone()),
        ("subnet", format!("{} of {}", status.subnet, status.cluster_cidr)),
        ("service ip", status.service_ip.to_string()),
    ];
    let running = status.running.iter().map(|operation| {
        let (component, what) = (operation.component, clean(&operation.operation));
        ("running", format!("{component}: {what} (since {})", time(operation.since)))
    });
    labelled(&rows.into_iter().chain(running).collect::<Vec<_>>(), out)?;
    writeln!(out)?;
    if status.peers.is_empty() {
        return writeln!(out, "no peers");
    }
    let rows: Vec<Vec<String>> = status.peers.iter().map(peer_row).collect();
    let header =
        ["PEER", "OVERLAY IP", "SUBNET", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "RTT", "REACHABLE"];
    table(&header, &rows, out)?;
    write_candidates(&status.peers, out)
}

/// What a peer offers matters once it is not reachable where it was.
fn write_candidates(peers: &[PeerStatus], out: &mut dyn Write) -> io::Result<()> {
    let mut lost = peers.iter().filter(|peer| !peer.reachable).peekable();
    if lost.peek().is_some() {
        writeln!(out)?;
    }
    lost.try_for_each(|peer| {
        writeln!(out, "{} may also be reachable at: {}", peer.id, list(&peer.candidates))
    })
}

fn peer_row(peer: &PeerStatus) -> Vec<String> {
    vec![
        peer.id.to_string(),
        peer.overlay_ip.to_string(),
        peer.subnet.clone(),
        or_dash(peer.endpoint),
        peer.handshake_age_secs.map_or_else(|| "never".into(), |age| format!("{} ago", duration(age))),
        bytes(peer.rx_bytes),
        bytes(peer.tx_bytes),
        or_dash(peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms"))),
        yes_no(peer.reachable).into(),
    ]
}

fn write_ready(ready: &MeshReady, out: &mut dyn Write) -> io::Result<()> {
    let rows = [
        ("ready", yes_no(ready.ready).to_owned()),
        ("phase", ready.phase.to_string()),
        ("store healthy", yes_no(ready.store_healthy).into()),
        ("sync connected", yes_no(ready.sync_connected).into()),
        ("workload subnet present", yes_no(ready.workload_subnet_present).into()),
    ];
    labelled(&rows, out)?;
    ready.reasons.iter().try_for_each(|reason| writeln!(out, "  {}", clean(reason)))
}

fn write_record(record: &MachineMembership, out: &mut dyn Write) -> io::Result<()> {
    let labels = record.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let rows = [
        ("id", record.id.to_string()),
        ("overlay ip", record.overlay_ip.to_string()),
        ("public key", record.public_key.to_string()),
        ("endpoints", list(&record.endpoints)),
        ("subnet", record.subnet.to_string()),
        ("lifecycle", record.lifecycle.to_string()),
        ("storage", record.storage.to_string()),
        ("region role", record.region_role.to_string()),
        ("region", or_dash(record.topology.region.as_ref())),
        ("availability zone", or_dash(record.topology.availability_zone.as_ref())),
        ("labels", list(labels)),
        ("created", time(record.created_at)),
        ("updated", time(record.updated_at)),
    ];
    labelled(&rows, out)
}

fn write_machines(rows: &[MachineMembership], out: &mut dyn Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no machines found");
    }
    let header =
        ["MACHINE", "LIFECYCLE", "STORAGE", "REGION", "REGION ROLE", "OVERLAY IP", "SUBNET", "CREATED"];
    let rows: Vec<Vec<String>> = rows.iter().map(machine_row).collect();
    table(&header, &rows, out)
}

fn machine_row(record: &MachineMembership) -> Vec<String> {
    vec![
        record.id.to_string(),
        record.lifecycle.to_string(),
        record.storage.to_string(),
        or_dash(record.topology.region.as_ref()),
        record.region_role.to_string(),
        record.overlay_ip.to_string(),
        record.subnet.to_string(),
        time(record.created_at),
    ]
}

fn write_invites(invites: &[InviteRow], out: &mut dyn Write) -> io::Result<()> {
    if invites.is_empty() {
        return writeln!(out, "no invites found");
    }
    let row = |invite: &InviteRow| {
        vec![
            invite.invite_id.to_string(),
            invite.status.clone(),
            time(invite.expires_at),
            invite.issuer.to_string(),
            or_dash(invite.consumed_by.as_ref()),
        ]
    };
    let rows: Vec<Vec<String>> = invites.iter().map(row).collect();
    table(&["INVITE", "STATUS", "EXPIRES", "ISSUED BY", "USED BY"], &rows, out)
}
