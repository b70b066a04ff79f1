//! Deploys and services for scripts.

use super::super::text::{or_dash, row};
use super::{dash_if_empty, joined, pairs};
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api_deploy::{DeployReport, InstanceRow, ServiceDetail, ServiceList, ServiceRow};
use ployz_core::wire::v1::deploy::{Operation, Placed, Preview, ServiceChange, SlotChange};
use ployz_core::wire::v1::manifest::Mode;
use std::io::{self, Write};

pub(super) fn preview(preview: &Preview, out: &mut dyn Write) -> io::Result<()> {
    pairs(
        &[
            ("namespace", preview.namespace.to_string()),
            ("manifest_hash", preview.manifest_hash.clone()),
            ("baseline", or_dash(preview.baseline.as_ref())),
            ("participants", joined(preview.participants.iter().map(ToString::to_string))),
            ("changes", (!preview.is_empty()).to_string()),
        ],
        out,
    )?;
    preview.services.iter().try_for_each(|change| write_change(change, out))?;
    preview.strays.iter().try_for_each(|stray| {
        let Placed { machine, instance } = &stray.placed;
        row(&["stray".into(), stray.service.to_string(), machine.to_string(), instance.to_string()], out)
    })?;
    preview.pulls.iter().try_for_each(|pull| {
        let on = joined(pull.on.iter().map(ToString::to_string));
        row(&["pull".into(), pull.image.to_string(), pull.digest.to_string(), on], out)
    })?;
    preview.operations.iter().try_for_each(|operation| write_operation(operation, out))?;
    preview.warnings.iter().try_for_each(|warning| row(&["warning".into(), warning.clone()], out))
}

fn write_change(change: &ServiceChange, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        "service".into(),
        change.service.to_string(),
        change.action.to_string(),
        or_dash(change.current_revision.as_ref()),
        or_dash(change.next_revision.as_ref()),
    ];
    row(&cells, out)?;
    change.slots.iter().try_for_each(|slot| write_slot(change, slot, out))
}

fn write_slot(change: &ServiceChange, slot: &SlotChange, out: &mut dyn Write) -> io::Result<()> {
    let machine = |placed: &Option<Placed>| or_dash(placed.as_ref().map(|placed| &placed.machine));
    let instance = |placed: &Option<Placed>| or_dash(placed.as_ref().map(|placed| &placed.instance));
    let cells = [
        "slot".into(),
        change.service.to_string(),
        slot.slot.to_string(),
        slot.action.to_string(),
        machine(&slot.current),
        instance(&slot.current),
        machine(&slot.next),
        instance(&slot.next),
    ];
    row(&cells, out)
}

/// A machine's operations name instances, the store's services; each cause stands at its target's place.
fn write_operation(operation: &Operation, out: &mut dyn Write) -> io::Result<()> {
    let targets = operation.targets.iter().map(|target| match &target.instance {
        Some(instance) => instance.to_string(),
        None => target.service.to_string(),
    });
    let causes: Vec<String> = operation.targets.iter().map(|target| target.cause.clone()).collect();
    let cells = [
        "operation".into(),
        operation.step.to_string(),
        operation.phase.to_string(),
        or_dash(operation.machine.as_ref()),
        operation.command.to_string(),
        or_dash(operation.wave),
        joined(targets),
        dash_if_empty(causes.join(", ")),
    ];
    row(&cells, out)
}

pub(super) fn report(report: &DeployReport, out: &mut dyn Write) -> io::Result<()> {
    pairs(&[("deploy_id", or_dash(report.deploy_id.as_ref())), ("state", report.state.to_string())], out)?;
    preview(&report.preview, out)?;
    report
        .events
        .iter()
        .try_for_each(|event| row(&["event".into(), event.step.to_string(), event.message.clone()], out))?;
    report.failures.iter().try_for_each(|failure| {
        let (machine, service) = (or_dash(failure.machine.as_ref()), or_dash(failure.service.as_ref()));
        row(&["failure".into(), failure.code.clone(), machine, service, failure.message.clone()], out)
    })
}

pub(super) fn services(found: &ServiceList, out: &mut dyn Write) -> io::Result<()> {
    found.services.iter().try_for_each(|service| write_service(service, out))?;
    unreachable(&found.unreachable, out)
}

fn write_service(service: &ServiceRow, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        "service".into(),
        service.namespace.to_string(),
        service.service.to_string(),
        service.image.to_string(),
        service.ready.to_string(),
        service.wanted.to_string(),
        service.mode.clone(),
        service.revision.clone(),
        service.deploy.to_string(),
        or_dash(service.phase),
        dash_if_empty(service.routes.join(",")),
    ];
    row(&cells, out)
}

pub(super) fn detail(found: &ServiceDetail, out: &mut dyn Write) -> io::Result<()> {
    let (committed, service) = (&found.committed, &found.committed.service);
    let (mode, replicas) = match service.placement.mode {
        Mode::Replicated { replicas } => ("replicated", Some(replicas)),
        Mode::Global => ("global", None),
    };
    pairs(
        &[
            ("namespace", found.namespace.to_string()),
            ("service", service.name.to_string()),
            ("deploy", committed.deploy.to_string()),
            ("revision", committed.revision.clone()),
            ("image", service.image.to_string()),
            ("mode", mode.into()),
            ("replicas", or_dash(replicas)),
            (
                "routes",
                dash_if_empty(service.routes.iter().map(|route| route.key()).collect::<Vec<_>>().join(",")),
            ),
        ],
        out,
    )?;
    found.instances.iter().try_for_each(|instance| write_instance(instance, out))?;
    unreachable(&found.unreachable, out)
}

fn write_instance(instance: &InstanceRow, out: &mut dyn Write) -> io::Result<()> {
    let seen = &instance.seen;
    let cells = [
        "instance".into(),
        seen.instance.to_string(),
        instance.machine.to_string(),
        seen.slot.to_string(),
        instance.current.to_string(),
        or_dash(seen.address),
        <&str>::from(&seen.state).to_owned(),
        seen.verdict.clone(),
        seen.revision.clone(),
        seen.deploy.to_string(),
        or_dash(seen.started_at),
        dash_if_empty(seen.reasons.join("; ")),
    ];
    row(&cells, out)
}

fn unreachable(machines: &[MachineId], out: &mut dyn Write) -> io::Result<()> {
    machines.iter().try_for_each(|machine| row(&["unreachable".into(), machine.to_string()], out))
}
