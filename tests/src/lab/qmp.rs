//! QEMU's monitor: one connection per command sequence, JSON lines over a Unix socket (docs/interop/qmp-spec of QEMU).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(crate) struct Qmp {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Qmp {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket).with_context(|| format!("monitor {}", socket.display()))?;
        writer.set_read_timeout(Some(Duration::from_secs(120)))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut qmp = Self { writer, reader };
        qmp.line().context("the monitor's greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it answers; events in between are passed over.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{line}").with_context(|| command.to_owned())?;
        loop {
            let answer = self.line().with_context(|| command.to_owned())?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// A command of the human monitor, which answers with text: empty when it worked.
    pub(crate) fn human(&mut self, line: &str) -> Result<()> {
        match self.execute("human-monitor-command", json!({ "command-line": line }))? {
            Value::String(text) if !text.trim().is_empty() => bail!("{line}: {}", text.trim()),
            _ => Ok(()),
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}
