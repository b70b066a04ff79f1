//! `--json`: the whole envelope, indented.

use crate::client::Answer;
use ployz_core::wire::v1::api::Envelope;
use std::io::{self, Write};

pub(crate) fn write(answer: &Answer, out: &mut dyn Write) -> io::Result<()> {
    let text = match &answer.foreign {
        Some(whole) => serde_json::to_string_pretty(whole),
        None => serde_json::to_string_pretty(&answer.envelope),
    };
    writeln!(out, "{}", text.expect("an envelope serializes"))
}

/// An envelope that no daemon sent.
pub(crate) fn write_envelope(envelope: &Envelope, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(envelope).expect("an envelope serializes"))
}
