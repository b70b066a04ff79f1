//! Our package in a node that has no network: it installs, and a purge leaves nothing.

use anyhow::{Result, ensure};

use crate::package::purge;
use crate::scenario::Ctx;

/// The harness installed it already.
pub(super) fn installs_and_purges(ctx: &mut Ctx) -> Result<()> {
    ctx.lab.each(|node| {
        ensure!(node.sh("dpkg-query -W -f '${db:Status-Status}' ployz")? == "installed");
        ensure!(node.sh("dpkg --audit")?.is_empty());
        purge(node)
    })?;
    Ok(())
}
