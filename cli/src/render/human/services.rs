//! Deploys and services for people.

use super::super::text::{clean, labelled, list, or_dash, table, time, yes_no};
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api_deploy::{DeployReport, InstanceRow, ServiceDetail, ServiceList, ServiceRow};
use ployz_core::wire::v1::deploy::{Action, Preview, ReadinessState, ServiceChange};
use ployz_core::wire::v1::manifest::{Check, HttpCheck, Mode, Port, Route, Scheme, Service};
use std::collections::BTreeSet;
use std::io::{self, Write};

/// The preview in its own words, which the daemon's journal has too.
pub(super) fn preview(preview: &Preview, out: &mut dyn Write) -> io::Result<()> {
    preview.to_string().lines().try_for_each(|line| writeln!(out, "{}", clean(line)))
}

/// Each service as it is now, below the daemon's own sentence; what is in the way goes to `notes`.
pub(super) fn report(report: &DeployReport, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = report.preview.services.iter().map(change_row).collect();
    if !rows.is_empty() {
        table(&["SERVICE", "ACTION", "REVISION", "INSTANCES", "MACHINES"], &rows, out)?;
    }
    out.flush()?;
    report.preview.warnings.iter().try_for_each(|warning| writeln!(notes, "warning: {}", clean(warning)))?;
    report.failures.iter().try_for_each(|failure| writeln!(notes, "warning: {}", clean(&failure.to_string())))
}

/// How far a deploy came.
pub(super) fn steps(report: &DeployReport, out: &mut dyn Write) -> io::Result<()> {
    report.events.iter().try_for_each(|event| writeln!(out, "{:<9}  {}", event.step, clean(&event.message)))
}

fn change_row(change: &ServiceChange) -> Vec<String> {
    let after: Vec<_> = change.slots.iter().filter_map(|slot| slot.next.as_ref()).collect();
    let machines: BTreeSet<&MachineId> = after.iter().map(|placed| &placed.machine).collect();
    let revision = match change.action {
        Action::Remove => None,
        _ => change.next_revision.as_deref().map(short),
    };
    vec![
        change.service.to_string(),
        change.action.to_string(),
        or_dash(revision),
        after.len().to_string(),
        list(machines),
    ]
}

pub(super) fn services(found: &ServiceList, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    if found.services.is_empty() {
        writeln!(out, "no services found")?;
    } else {
        let header = ["NAMESPACE", "SERVICE", "IMAGE", "READY", "MODE", "ROUTES", "DEPLOY"];
        let rows: Vec<Vec<String>> = found.services.iter().map(service_row).collect();
        table(&header, &rows, out)?;
    }
    out.flush()?;
    silent(&found.unreachable, notes)
}

fn service_row(row: &ServiceRow) -> Vec<String> {
    let deploy = match row.phase {
        Some(phase) => format!("{} ({phase})", row.deploy),
        None => row.deploy.to_string(),
    };
    vec![
        row.namespace.to_string(),
        row.service.to_string(),
        row.image.to_string(),
        format!("{}/{}", row.ready, row.wanted),
        row.mode.clone(),
        list(&row.routes),
        deploy,
    ]
}

pub(super) fn detail(found: &ServiceDetail, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    let (committed, service) = (&found.committed, &found.committed.service);
    let mut rows = vec![
        ("service", format!("{}/{}", found.namespace, service.name)),
        ("deploy", committed.deploy.to_string()),
        ("revision", committed.revision.clone()),
        ("image", service.image.to_string()),
    ];
    rows.extend(wanted(service));
    labelled(&rows, out)?;
    writeln!(out)?;
    if found.instances.is_empty() {
        writeln!(out, "no instances")?;
    } else {
        let header = ["INSTANCE", "MACHINE", "SLOT", "CURRENT", "ADDRESS", "STATE", "CONTAINER", "STARTED"];
        let rows: Vec<Vec<String>> = found.instances.iter().map(instance_row).collect();
        table(&header, &rows, out)?;
        found.instances.iter().try_for_each(|row| why(row, out))?;
    }
    out.flush()?;
    silent(&found.unreachable, notes)
}

/// What was asked for. Values of variables may be secrets: `--json` has them.
fn wanted(service: &Service) -> Vec<(&'static str, String)> {
    let placement = &service.placement;
    let mode: &str = placement.mode.into();
    let count = match placement.mode {
        Mode::Replicated { replicas } => format!("{mode}, {replicas}"),
        Mode::Global => mode.to_owned(),
    };
    let on = list(&placement.machines);
    let labels = list(placement.labels.iter().map(|(key, value)| format!("{key}={value}")));
    let resources = &service.resources;
    let limits = [
        resources.cpus.map(|cpus| format!("{} cpus", f64::from(cpus.as_millis()) / 1000.0)),
        resources.memory.map(|memory| format!("{memory} memory")),
    ];
    let pull = (!service.pull.is_default()).then_some(service.pull);
    let rows = [
        ("pull", or_dash(pull)),
        ("command", words(&service.command)),
        ("env", list(service.env.keys())),
        ("ports", list(service.ports.iter().map(port))),
        ("routes", list(service.routes.iter().map(route))),
        ("placement", count),
        ("only on", on),
        ("only with", labels),
        (
            "readiness",
            service.readiness.as_ref().map_or_else(|| "none: must run for 3s".into(), |r| check(&r.check)),
        ),
        ("rollout", format!("{}, {} at a time", service.rollout.order, service.rollout.parallelism)),
        ("limits", list(limits.into_iter().flatten())),
        ("restart", service.restart.to_string()),
        ("stop grace", service.stop_grace_period.to_string()),
    ];
    rows.into_iter().filter(|(_, value)| value != "-").collect()
}

fn port(port: &Port) -> String {
    match port.publish {
        Some(host) => format!("{}/{} ({}, published at {host})", port.port, port.protocol, port.name),
        None => format!("{}/{} ({})", port.port, port.protocol, port.name),
    }
}

fn route(route: &Route) -> String {
    let port = match route {
        Route::Http(route) => route.port,
        Route::Tcp(route) => route.port,
    };
    format!("{} -> {port}", route.key())
}

fn check(check: &Check) -> String {
    match check {
        Check::Http(check) => http_check(check),
        Check::Tcp { port } => format!("connection to {port}"),
        Check::Exec { command } => words(command),
    }
}

/// Values of headers are left out: they may be passwords.
fn http_check(check: &HttpCheck) -> String {
    let mut text = format!("{} {} at {}", check.method, check.path, check.port);
    if check.scheme == Scheme::Https {
        text += " over TLS";
    }
    if let Some(host) = &check.host {
        text += &format!(", host {host}");
    }
    if !check.headers.is_empty() {
        let names: Vec<&str> = check.headers.keys().map(|name| name.as_str()).collect();
        text += &format!(", headers {}", names.join(" "));
    }
    if !check.statuses.are_usual() {
        text += &format!(", answered {}", check.statuses);
    }
    text
}

/// Arguments in one line, or `-`; one that would look like two, or like none, stands in quotes.
fn words(arguments: &[String]) -> String {
    let quoted = |word: &String| match word.is_empty() || word.contains(|c: char| c.is_whitespace()) {
        true => format!("{word:?}"),
        false => word.clone(),
    };
    or_dash((!arguments.is_empty()).then(|| arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")))
}

fn instance_row(row: &InstanceRow) -> Vec<String> {
    let seen = &row.seen;
    vec![
        seen.instance.to_string(),
        row.machine.to_string(),
        seen.slot.to_string(),
        yes_no(row.current).into(),
        or_dash(seen.address),
        <&str>::from(&seen.state).to_owned(),
        seen.verdict.clone(),
        or_dash(seen.started_at.map(time)),
    ]
}

/// What is not as it should be, below the table: it can be long.
fn why(row: &InstanceRow, out: &mut dyn Write) -> io::Result<()> {
    let state = match &row.seen.state {
        ReadinessState::Starting { last: Some(last) } => Some(last),
        ReadinessState::Failed { why } => Some(why),
        _ => None,
    };
    let mut reasons = state.into_iter().chain(&row.seen.reasons);
    reasons.try_for_each(|reason| writeln!(out, "{}: {}", row.seen.instance, clean(reason)))
}

/// Nothing is known of their instances, which is not the same as that there are none.
fn silent(machines: &[MachineId], notes: &mut dyn Write) -> io::Result<()> {
    machines.iter().try_for_each(|machine| {
        writeln!(notes, "warning: {machine} does not answer: the state of its instances is unknown")
    })
}

/// Version and eight digits of a fingerprint.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(11).collect()
}
