//! When a node has booted: systemd says "running", and nothing else counts.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::node::Node;
use super::poll::{OutOfTime, poll};

/// The emulator's fault, not the node's: QEMU 10.0.2 now and then loses the end of a timer interrupt of the second emulated
/// processor (vector 236 stays in service in its APIC) and that never wakes again. Seen in 3 of 80 boots with two processors, which
/// is why a node has one; the kernel may then tell of an RCU stall.
#[derive(Debug)]
pub(super) struct Hung;

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an emulated processor hung at boot")
    }
}

impl std::error::Error for Hung {}

/// Waits until systemd runs everything it should; `said` is how long the console's text was before the boot.
pub(super) fn wait(node: &Node, said: u64) -> Result<()> {
    let (limit, start) = (node.lane().boot_limit(), Instant::now());
    let what = format!("systemd of {} to say that it runs", node.name());
    let state = poll(limit, &what, || {
        if !node.is_up() {
            return Ok(Some("died".to_owned()));
        }
        if !node.entered() {
            return Ok(None);
        }
        // An overloaded host makes the kernel speak of stalls as well, but then the machine comes up.
        if start.elapsed() > STALLED && console_since(node, said).contains("detected stalls") {
            return Ok(Some(HUNG.to_owned()));
        }
        let output = node.run_for(limit, "systemctl is-system-running --wait")?;
        match output.stdout.trim() {
            state @ ("running" | "degraded" | "maintenance") => Ok(Some(state.to_owned())),
            _ => Err(anyhow!("{}", output.describe())),
        }
    });
    let state = match state {
        Ok(state) if state == "running" => return Ok(()),
        Ok(state) if state == HUNG => return Err(Hung.into()),
        Ok(state) => state,
        Err(error) if error.is::<OutOfTime>() => return Err(error),
        Err(error) => format!("{error:#}"),
    };
    let failed = node.run("systemctl --failed --no-legend").map(|output| output.stdout).unwrap_or_default();
    let console = console_since(node, said);
    let lines: Vec<_> = console.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    bail!("{}: {state}\n--- failed units\n{failed}\n--- console\n{tail}", node.name())
}

fn console_since(node: &Node, said: u64) -> String {
    let all = fs::read(node.console()).unwrap_or_default();
    let from = usize::try_from(said).unwrap_or(usize::MAX).min(all.len());
    String::from_utf8_lossy(&all[from..]).into_owned()
}

const HUNG: &str = "hung";
const STALLED: Duration = Duration::from_secs(90);
