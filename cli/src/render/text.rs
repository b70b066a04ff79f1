//! Words, units and tables shared by the renderers.

use jiff::Timestamp;
use std::fmt::Display;
use std::io::{self, Write};

/// Text of others made safe to print on one line: control characters, which could drive a terminal, become `?`.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c })
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `yes` or `no`.
pub(crate) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The value, or `-`.
pub(crate) fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Values with commas in between, or `-`.
pub(crate) fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

/// Bytes in binary units, for example `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10) as usize;
    let scaled = count as f64 / f64::from(10 * power as u32).exp2();
    format!("{scaled:.1} {}", UNITS[power - 1])
}

/// Seconds as the two largest units, for example `2h 5m`.
pub(crate) fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// Unix seconds as `2026-07-01 12:00:00 UTC`; what lies after the year 9999 (another machine's record may say so) as `@SECONDS`.
pub(crate) fn time(unix_seconds: u64) -> String {
    let known = i64::try_from(unix_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    known
        .map_or_else(|| format!("@{unix_seconds}"), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Lines `label: value`, values in one column.
pub(crate) fn labelled(rows: &[(&str, String)], out: &mut dyn Write) -> io::Result<()> {
    let width = rows.iter().map(|(label, _)| label.len() + 1).max().unwrap_or(0);
    rows.iter()
        .try_for_each(|(label, value)| writeln!(out, "{:<width$}  {}", format!("{label}:"), clean(value)))
}

/// A table with a header, columns two spaces apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let head = header.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(|row| clean_row(row))).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in &all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// One tab-separated row.
pub(crate) fn row(cells: &[String], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", clean_row(cells).join("\t"))
}

fn clean_row(cells: &[String]) -> Vec<String> {
    cells.iter().map(|cell| clean(cell)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_calendars() {
        for (seconds, want) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_782_907_200, "2026-07-01 12:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_207_200, "9999-12-30 22:00:00 UTC"),
            (u64::MAX, "@18446744073709551615"),
        ] {
            assert_eq!(time(seconds), want);
        }
    }

    #[test]
    fn units_change_at_their_borders() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "16.0 EiB")];
        for (count, want) in cases {
            assert_eq!(bytes(count), want);
        }
        for (seconds, want) in [(0, "0s"), (59, "59s"), (60, "1m 0s"), (7500, "2h 5m"), (100_000, "1d 3h")] {
            assert_eq!(duration(seconds), want);
        }
    }

    #[test]
    fn nothing_of_others_drives_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\tc\nd\u{9b}"), "a?[2Jb c d?");
    }
}
