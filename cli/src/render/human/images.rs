//! Images for people.

use super::super::text::{bytes, clean, labelled, table};
use ployz_core::wire::v1::image::{ImagePushReport, ImagePushRow, ImageState};
use std::io::{self, Write};

/// What a push would do.
pub(super) fn preview(report: &ImagePushReport, out: &mut dyn Write) -> io::Result<()> {
    let rows =
        [("image", report.image.to_string()), ("id", report.id.to_string()), ("size", bytes(report.size))];
    labelled(&rows, out)?;
    writeln!(out)?;
    if report.machines.is_empty() {
        return writeln!(out, "no other machine");
    }
    let rows: Vec<Vec<String>> =
        report.machines.iter().map(|row| vec![row.machine.to_string(), would(row)]).collect();
    table(&["MACHINE", "ACTION"], &rows, out)
}

fn would(row: &ImagePushRow) -> String {
    match (&row.failure, row.state) {
        (Some(failure), _) => failure.message.clone(),
        (None, ImageState::Present) => "nothing: has the image".into(),
        (None, ImageState::Unnamed) => "named: has the image under another name".into(),
        (None, ImageState::Missing) => "sent".into(),
        (None, ImageState::Differs) => "sent: the name is another image there".into(),
        (None, state) => state.to_string(),
    }
}

/// What a push did, machine by machine.
pub(super) fn report(report: &ImagePushReport, out: &mut dyn Write) -> io::Result<()> {
    if report.machines.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = report.machines.iter().map(row).collect();
    table(&["MACHINE", "STATE", "SENT", "TOOK"], &rows, out)
}

fn row(row: &ImagePushRow) -> Vec<String> {
    let took = row.took_ms.map_or_else(|| "-".into(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
    let sent = row.bytes.map_or_else(|| "-".into(), bytes);
    vec![row.machine.to_string(), row.state.to_string(), sent, took]
}

/// Who got it, of a push that failed for others.
pub(super) fn steps(report: &ImagePushReport, out: &mut dyn Write) -> io::Result<()> {
    report
        .machines
        .iter()
        .filter(|row| row.failure.is_none())
        .try_for_each(|row| writeln!(out, "{}  {}", clean(row.machine.as_str()), row.state))
}
