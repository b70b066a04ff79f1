//! What passes an underlay: tcpdump on its bridge, which hears every frame between the nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::host::{self, Input, Running};
use super::net::Net;
use super::poll;

/// A running capture. Dropping it ends it.
pub struct Capture {
    running: Option<Running>,
    file: PathBuf,
}

/// A finished capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The pcap file; it goes with the lab.
    pub file: PathBuf,
    /// One line per packet: `tcpdump -nn -tttt`.
    pub lines: Vec<String>,
}

impl Capture {
    pub(crate) fn start(net: &Arc<Net>, k: usize, dir: &Path) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if k == 0 || k > net.underlays() {
            bail!("there is no underlay {k}");
        }
        let file = dir.join(format!("u{k}-{}.pcap", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = net.command("tcpdump");
        command.args([
            "-i",
            &format!("u{k}"),
            "-nn",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-Z",
            "root",
            "-w",
        ]);
        let running = Running::start(command.arg(&file), Input::Nothing)?;
        poll(Duration::from_secs(10), "tcpdump to listen", || {
            if running.stderr().contains("listening on") {
                Ok(Some(()))
            } else {
                bail!("{}", running.stderr())
            }
        })?;
        Ok(Self { running: Some(running), file })
    }

    /// Ends the capture and reads it.
    pub fn stop(mut self) -> Result<Captured> {
        let mut running = self.running.take().context("already stopped")?;
        running.kill(Signal::SIGINT);
        let output = running.finish(Duration::from_secs(10)).context("end tcpdump")?;
        if !output.ok() {
            bail!("tcpdump: {}", output.describe());
        }
        let mut captured = Captured { file: self.file.clone(), lines: Vec::new() };
        captured.lines = captured.read(&["-tttt"])?.lines().map(str::to_owned).collect();
        Ok(captured)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            running.kill(Signal::SIGKILL);
        }
    }
}

impl Captured {
    /// The packets as `tcpdump` shows them with these arguments, such as `["-A", "udp port 51820"]`.
    pub fn read(&self, args: &[&str]) -> Result<String> {
        host::sh(Command::new("tcpdump").arg("-nn").arg("-r").arg(&self.file).args(args))
    }

    /// Whether these bytes went over the wire anywhere inside one packet.
    pub fn contains(&self, bytes: &[u8]) -> Result<bool> {
        let all = fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        Ok(!bytes.is_empty() && all.windows(bytes.len()).any(|window| window == bytes))
    }
}
