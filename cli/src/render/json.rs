//! `--json`: the whole envelope, indented.

use crate::client::Answer;
use std::io::{self, Write};

pub(crate) fn write(answer: &Answer, out: &mut dyn Write) -> io::Result<()> {
    let text = match &answer.foreign {
        Some(whole) => serde_json::to_string_pretty(whole),
        None => serde_json::to_string_pretty(&answer.envelope),
    };
    writeln!(out, "{}", text.expect("an envelope is plain data"))
}
