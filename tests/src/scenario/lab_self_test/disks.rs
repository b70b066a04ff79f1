//! Disks of virtual machines: what a power cut keeps and what a snapshot brings back.

use anyhow::{Context, Result, ensure};

use crate::scenario::Ctx;

/// Counts with one fsync per number, and says a number only after its fsync.
const COUNTER: &str = "python3 -c '
import os
f = open(\"/srv/count\", \"w\")
for i in range(1000000):
    f.write(\"%d\\n\" % i); f.flush(); os.fsync(f.fileno()); print(i, flush=True)
'";

/// What was fsynced is there after a power cut; what was only written is not.
pub(super) fn power_cut(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    for round in 1..=2 {
        n1.sh("rm -f /srv/*; sync")?;
        let counter = n1.spawn(COUNTER)?;
        ctx.wait(30, "fifty numbers", || Ok((counter.stdout().lines().count() >= 50).then_some(())))?;
        n1.sh("seq 100000 >/srv/unsynced")?;
        n1.power_cut()?;
        let said = last_number(&counter.stdout()).context("nothing was counted")?;
        drop(counter);
        n1.boot()?;
        let found = String::from_utf8_lossy(&n1.get("/srv/count")?).into_owned();
        let found = last_number(&found).context("the file is empty")?;
        ensure!(found >= said, "{said} was said to be on the disk, {found} is the last one there");
        let size = n1.sh("stat -c %s /srv/unsynced 2>/dev/null || echo 0")?;
        ensure!(size == "0", "{size} bytes that were never synced survived: the cut loses nothing");
        ctx.say(format!("round {round}: {said} said, {found} found"));
    }
    Ok(())
}

/// A restored lab is where it was: memory, disks, and the clock of today.
pub(super) fn snapshot(ctx: &mut Ctx) -> Result<()> {
    ctx.lab.each(|node| node.sh("echo before >/srv/state; echo before >/run/state"))?;
    ctx.lab.snapshot("probe")?;
    ctx.lab.each(|node| node.sh("echo after >/srv/state; echo after >/run/state; touch /srv/more; sync"))?;
    ctx.node(2).power_cut()?;
    ctx.lab.restore("probe")?;
    ctx.lab.each(|node| {
        node.sh("[ $(cat /srv/state) = before ] && [ $(cat /run/state) = before ] && [ ! -e /srv/more ]")?;
        let clock: f64 = node.sh("date +%s.%N")?.parse()?;
        let now = std::time::UNIX_EPOCH.elapsed()?.as_secs_f64();
        ensure!((now - clock).abs() < 2.0, "its clock is {:.1} s off", now - clock);
        node.sh("ping -c1 -W5 10.77.0.1")
    })?;
    Ok(())
}

/// The last whole line, as a number.
fn last_number(text: &str) -> Option<u64> {
    text.rsplit_once('\n')?.0.lines().last()?.parse().ok()
}
