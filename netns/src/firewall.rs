//! Our nftables tables, through the `nft` program: one transaction a table, nobody else's rules named.

use crate::error::{Context, Error, Result};
use crate::namespace;
use ployz_core::adopt::Seen;
use ployz_core::live::{FirewallLive, TableLive};
use ployz_core::spec::firewall::{TABLE, Table};
use ployz_core::spec::{FirewallSpec, Side};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What is there. When `netns` names no namespace only the host's table is looked at.
pub async fn inspect(netns: &Path) -> Seen<FirewallLive> {
    let netns = netns.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let inside = match namespace::id_of(&netns)? {
            Some(_) => namespace::inside(&netns, list)??,
            None => None,
        };
        Ok::<_, Error>(FirewallLive { host: list()?, netns: inside })
    });
    match found.await {
        Ok(Ok(live)) if live.host.is_none() && live.netns.is_none() => Seen::Absent,
        Ok(Ok(live)) => Seen::Present(live),
        Ok(Err(error)) => Seen::Unknown(ployz_core::text::chain(&error)),
        Err(error) => Seen::Unknown(error.to_string()),
    }
}

/// Replaces the table of one side in one transaction.
pub async fn load(spec: &FirewallSpec, side: Side, netns: &Path) -> Result<()> {
    let (netns, host, inside) = (netns.to_owned(), spec.host.script(), spec.netns.script());
    blocking(move || match side {
        Side::Host => run_script(&host),
        Side::Netns => namespace::inside(&netns, || run_script(&inside))?,
    })
    .await
}

/// Removes our table from the host namespace; the other one ends with its namespace.
pub async fn remove() -> Result<()> {
    blocking(|| if list()?.is_some() { run_script(&Table::removal()) } else { Ok(()) }).await
}

async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other).doing("run", "nft")?
}

/// `None` when there is no table of ours. Runs `nft` in the namespace of the calling thread.
fn list() -> Result<Option<TableLive>> {
    let output = nft(&["--stateless", "list", "table", "inet", TABLE], None)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    match (output.status.success(), complaint.contains("No such file or directory")) {
        (true, _) => Ok(Some(TableLive::parse(&text))),
        (false, true) => Ok(None),
        (false, false) => Err(failed("list table", &complaint)),
    }
}

fn run_script(script: &str) -> Result<()> {
    let output = nft(&["-f", "-"], Some(script))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed("load table", &String::from_utf8_lossy(&output.stderr)))
    }
}

fn nft(arguments: &[&str], input: Option<&str>) -> Result<Output> {
    let program = program();
    let mut child = Command::new(&program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing("run", program.display().to_string())?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(text.as_bytes()).doing("write to", "nft")?;
    }
    child.wait_with_output().doing("wait for", "nft")
}

/// `nft` lives in `/usr/sbin`, which is not on every daemon's PATH.
fn program() -> PathBuf {
    let known = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].map(PathBuf::from);
    known.into_iter().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from("nft"))
}

fn failed(operation: &'static str, complaint: &str) -> Error {
    let detail = complaint.lines().next().unwrap_or("nft failed without an error message").trim().to_owned();
    Error::Program { operation, subject: format!("inet {TABLE}"), detail }
}
