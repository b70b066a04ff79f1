//! The test lab's command line: boot nodes and keep them, enter one, run scenarios.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;
use std::{env, io};

use anyhow::{Context, Result, bail};
use ployz_tests::lab::{Lab, Lane, Shape, kept, remove_kept, remove_leftovers};
use ployz_tests::runner::Plan;
use ployz_tests::scenario;

const HELP: &str = "\
lab up [--lane ns|vm] [-n NODES] [-u UNDERLAYS] [--power-cut] [--deb FILE]
                         boot nodes (default: 3 in lane ns, 1 underlay) and keep them until `lab down`
lab sh N [COMMAND...]    a shell in node N of the kept lab, or a command
lab down                 remove the kept lab
lab run [--lane ns|vm] [--deb FILE] [--jobs N] [--keep] [--list] [FILTER...]
                         run the scenarios whose name contains a FILTER, in N labs at once (default 1);
                         --keep stops at a failure and keeps its nodes

The first run installs host packages and builds the image (half a minute). The lab needs root and lives in
$PLOYZ_LAB, by default ~/.cache/ployz-lab; PLOYZ_LAB_SUITE=bookworm gives Debian 12 nodes, PLOYZ_LAB_MEM=768 smaller machines.
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut args = env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    match verb.as_str() {
        "guard" => guarding(),
        "up" => up(Options::parse(args)?),
        "sh" => shell(&args),
        "down" => down(),
        "run" => run(Options::parse(args)?),
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        verb => bail!("`{verb}` is no command\n{HELP}"),
    }
}

struct Options {
    shape: Shape,
    deb: Option<PathBuf>,
    keep: bool,
    jobs: usize,
    list: bool,
    filter: Vec<String>,
}

impl Options {
    fn parse(args: Vec<String>) -> Result<Self> {
        let shape = Shape { lane: Lane::Ns, nodes: 3, underlays: 1, power_cut: false };
        let mut options = Self { shape, deb: None, keep: false, jobs: 1, list: false, filter: Vec::new() };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--lane" => options.shape.lane = value()?.parse()?,
                "-n" => options.shape.nodes = value()?.parse().context("-n")?,
                "-u" => options.shape.underlays = value()?.parse().context("-u")?,
                "--power-cut" => options.shape.power_cut = true,
                "--deb" => options.deb = Some(value()?.into()),
                "--jobs" => options.jobs = value()?.parse().context("--jobs")?,
                "--keep" => options.keep = true,
                "--list" => options.list = true,
                option if option.starts_with('-') => bail!("`{option}` is no option\n{HELP}"),
                _ => options.filter.push(arg),
            }
        }
        Ok(options)
    }
}

fn up(options: Options) -> Result<ExitCode> {
    if let Some(dir) = kept()?.first() {
        bail!("{} is up already: `lab down` removes it", dir.display());
    }
    let _guard = guard()?;
    let start = Instant::now();
    let lab = Lab::start_shape(options.shape)?;
    if let Some(deb) = &options.deb {
        lab.each(|node| node.install(deb))?;
    }
    let (nodes, lane, name) = (lab.nodes().len(), lab.lane(), lab.name().to_owned());
    let dir = lab.keep()?;
    println!(
        "{name}: {nodes} nodes up in lane {lane} after {:.1} s, {}",
        start.elapsed().as_secs_f64(),
        dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn shell(args: &[String]) -> Result<ExitCode> {
    let (number, cmd) = args.split_first().context("which node? `lab sh 1`")?;
    let number: usize = number.trim_start_matches('n').parse().context("the node's number")?;
    let dirs = kept()?;
    let lab = Lab::attach(dirs.last().context("no lab is up: `lab up`")?)?;
    let node =
        lab.nodes().get(number.wrapping_sub(1)).with_context(|| format!("there is no node {number}"))?;
    let cmd = cmd.join(" ");
    Err(node.terminal((!cmd.is_empty()).then_some(&cmd))?.exec()).context("start the shell")
}

fn down() -> Result<ExitCode> {
    let dirs = kept()?;
    if dirs.is_empty() {
        println!("no lab is up");
    }
    dirs.iter().try_for_each(|dir: &PathBuf| remove_kept(Path::new(dir)))?;
    Ok(ExitCode::SUCCESS)
}

fn run(options: Options) -> Result<ExitCode> {
    let Options { shape, deb, keep, jobs, filter, .. } = &options;
    let plan = Plan { lane: shape.lane, deb: deb.clone(), filter: filter.clone(), keep: *keep, jobs: *jobs };
    if options.list {
        for scenario in plan.select(scenario::all()) {
            let needs: Vec<_> = scenario.needs.iter().map(ToString::to_string).collect();
            println!(
                "{:<40} {} nodes, {} underlays  {}",
                scenario.name,
                scenario.nodes,
                scenario.underlays,
                needs.join(" ")
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let _guard = guard()?;
    let tally = plan.run(scenario::all())?;
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts a second process that waits for our end, however that comes, and removes what we then left.
fn guard() -> Result<Child> {
    let mut command = Command::new(env::current_exe().context("the path of this program")?);
    command.arg("guard").stdin(Stdio::piped()).process_group(0); // a ^C at the terminal is not for it
    command.spawn().context("start the guard")
}

/// The other side: standard input ends when the process that started us does.
fn guarding() -> Result<ExitCode> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    remove_leftovers()?;
    Ok(ExitCode::SUCCESS)
}
