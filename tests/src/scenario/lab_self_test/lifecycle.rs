//! What a test does to a node: files, background commands, freezing, reboots.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::scenario::Ctx;

pub(super) fn all(ctx: &mut Ctx) -> Result<()> {
    files(ctx)?;
    commands(ctx)?;
    freeze(ctx)?;
    restarts(ctx)
}

fn files(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    n1.put(&bytes, "/srv/it's deep/file", 0o640)?;
    ensure!(n1.get("/srv/it's deep/file")? == bytes);
    ensure!(n1.sh("stat -c %a \"/srv/it's deep/file\"")? == "640");
    n1.put_file(Path::new("/proc/version"), "/srv/version", 0o644)?;
    ensure!(n1.get("/srv/version")? == std::fs::read("/proc/version")?);
    ensure!(n1.get("/srv/none").is_err());
    Ok(())
}

fn commands(ctx: &Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    let output = n1.run("echo out; echo err >&2; exit 7")?;
    ensure!((output.code, output.stdout.as_str(), output.stderr.as_str()) == (7, "out\n", "err\n"));
    let failure = n1.sh("echo out; false").err().context("`false` succeeded")?;
    ensure!(format!("{failure:#}").contains("--- stdout\nout"));
    ensure!(n1.run_for(Duration::from_secs(1), "sleep 4321").is_err());
    gone(ctx, "sleep 4321")?;

    let mut background = n1.spawn("echo begun; sleep 4322 & wait")?;
    ctx.wait(10, "the first line of a background command", || {
        Ok(background.stdout().contains("begun").then_some(()))
    })?;
    n1.sh("pgrep -f '[s]leep 4322'")?;
    background.stop()?;
    gone(ctx, "sleep 4322")?;
    background = n1.spawn("sleep 0.2; exit 5")?;
    ensure!(background.wait(ctx.lab.secs(10))?.code == 5);

    let (start, count) = (Instant::now(), 20);
    for _ in 0..count {
        n1.sh("true")?;
    }
    ctx.say(format!("a command takes {:.1} ms", start.elapsed().as_secs_f64() * 1000.0 / f64::from(count)));
    Ok(())
}

fn gone(ctx: &Ctx, process: &str) -> Result<()> {
    let pattern = format!("[{}]{}", &process[..1], &process[1..]);
    ctx.wait(10, &format!("`{process}` to be gone"), || {
        match ctx.node(1).run(&format!("pgrep -af '{pattern}'"))? {
            output if output.code == 1 => Ok(Some(())),
            output => bail!("{}", output.stdout),
        }
    })
}

fn freeze(ctx: &Ctx) -> Result<()> {
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let counter = n2.spawn("for i in $(seq 100000); do echo $i; sleep 0.1; done")?;
    ctx.wait(10, "the counter", || Ok((counter.stdout().lines().count() > 3).then_some(())))?;
    n2.freeze()?;
    ensure!(n2.run_for(Duration::from_secs(2), "true").is_err(), "a frozen node answers nothing");
    let before = counter.stdout().len();
    std::thread::sleep(Duration::from_millis(500));
    ensure!(counter.stdout().len() == before, "a frozen node counts on");
    ensure!(n2.is_up());
    n2.thaw()?;
    ctx.wait(20, "the counter to go on", || Ok((counter.stdout().len() > before).then_some(())))?;
    counter.stop()?;
    n1.sh("ping -c1 -W5 10.77.0.12").map(drop)
}

fn restarts(ctx: &Ctx) -> Result<()> {
    let (n1, n3) = (ctx.node(1), ctx.node(3));
    n3.sh("echo kept >/srv/disk; echo lost >/run/memory; sync")?;
    let start = Instant::now();
    n3.reboot()?;
    ctx.say(format!("a reboot takes {:.1} s", start.elapsed().as_secs_f64()));
    n3.sh("[ $(cat /srv/disk) = kept ] && [ ! -e /run/memory ]")?;
    n3.sh("journalctl -b -1 -n 1")?; // the journal of the last boot is there

    n3.power_cut()?;
    ensure!(!n3.is_up() && n3.run_for(Duration::from_secs(5), "true").is_err());
    ensure!(!n1.run("ping -c1 -W1 10.77.0.13")?.ok());
    n3.cut_link(1)?;
    n3.boot()?;
    ensure!(!n1.run("ping -c1 -W1 10.77.0.13")?.ok(), "a cut made while a node is down holds after its boot");
    n3.heal_link(1)?;
    n3.sh("[ $(cat /srv/disk) = kept ]")?;
    ctx.wait(20, "n3 to be heard after its boot", || {
        Ok(n1.run("ping -c1 -W1 10.77.0.13")?.ok().then_some(()))
    })?;

    n3.shut_down()?;
    ensure!(!n3.is_up());
    n3.boot()
}
