//! Images for scripts.

use super::super::text::{or_dash, row};
use super::pairs;
use ployz_core::wire::v1::image::{ImagePushReport, ImagePushRow};
use std::io::{self, Write};

pub(super) fn report(report: &ImagePushReport, out: &mut dyn Write) -> io::Result<()> {
    pairs(
        &[
            ("image", report.image.to_string()),
            ("id", report.id.to_string()),
            ("size", report.size.to_string()),
        ],
        out,
    )?;
    report.machines.iter().try_for_each(|machine| write_row(machine, out))
}

fn write_row(machine: &ImagePushRow, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        "machine".into(),
        machine.machine.to_string(),
        machine.state.to_string(),
        or_dash(machine.bytes),
        or_dash(machine.took_ms),
        or_dash(machine.failure.as_ref().map(|failure| &failure.code)),
        or_dash(machine.failure.as_ref().map(|failure| &failure.message)),
    ];
    row(&cells, out)
}
