//! Lines of a service: behind the instance's name for people, as tab-separated rows for scripts, as one JSON object each
//! where they never end.

use super::Mode;
use super::text::{clean, row};
use ployz_core::wire::v1::api_deploy::{ServiceLogLine, ServiceLogMissing};
use std::io::{self, Write};

/// Writes lines; remembers how wide the names were, so that later ones stand below the earlier.
pub(crate) struct Lines {
    mode: Mode,
    width: usize,
}

impl Lines {
    /// Nothing written yet.
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, width: 0 }
    }

    /// Writes these.
    pub(crate) fn write(&mut self, lines: &[ServiceLogLine], out: &mut dyn Write) -> io::Result<()> {
        let widest = lines.iter().map(|line| line.instance.as_str().len()).max().unwrap_or(0);
        self.width = self.width.max(widest);
        lines.iter().try_for_each(|line| match self.mode {
            Mode::Human => {
                let text = clean(&without_colours(&line.line.text));
                let shown = format!("{:<width$} | {text}", line.instance, width = self.width);
                writeln!(out, "{}", shown.trim_end())
            }
            Mode::Plain => plain(line, out),
            Mode::Json => {
                let text = serde_json::to_string(line).expect("a line is plain data");
                writeln!(out, "{text}")
            }
        })
    }
}

/// A line for each instance whose log is not there.
pub(crate) fn missing(instances: &[ServiceLogMissing]) -> String {
    let line =
        |one: &ServiceLogMissing| format!("warning: no lines of {}: {}\n", one.instance, clean(&one.why));
    instances.iter().map(line).collect()
}

fn plain(line: &ServiceLogLine, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        line.line.at.to_string(),
        line.instance.to_string(),
        line.machine.to_string(),
        line.line.stream.to_string(),
        without_colours(&line.line.text),
    ];
    row(&cells, out)
}

/// Without what sets colours (ECMA-48 SGR, `ESC [ ... m`): cleaned, it would stand between the words.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let parameters = piece.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | ':'));
        match parameters.strip_prefix('m') {
            Some(rest) => kept += rest,
            None => {
                kept += "\u{1b}[";
                kept += piece;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_other_sequences_stay_to_be_cleaned() {
        for (text, want) in [
            ("\u{1b}[32mok\u{1b}[0m done", "ok done"),
            ("\u{1b}[1;38:5:1mred\u{1b}[m", "red"),
            ("a\u{1b}[2Jb", "a?[2Jb"),
            ("\u{1b}[", "?["),
            ("plain", "plain"),
        ] {
            assert_eq!(clean(&without_colours(text)), want);
        }
    }
}
