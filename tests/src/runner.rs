//! Runs scenarios, in one lab or several at once, in labs that are shared where that is safe, and tells what happened.
//!
//! Scenarios of one shape run in one lab. In between, lane `vm` restores a snapshot; lane `ns` purges our package, looks that
//! nothing of it is left, and installs it again. A lab that does not come clean is thrown away for a fresh one.

use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

mod queue;

use queue::Queue;

use crate::lab::{Lab, Lane, Shape, artifact_dir};
use crate::package::purge;
use crate::scenario::{Ctx, Need, Scenario};

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The lane of every lab.
    pub lane: Lane,
    /// Our package, for scenarios that need it.
    pub deb: Option<PathBuf>,
    /// Only scenarios whose name contains one of these; none means all.
    pub filter: Vec<String>,
    /// Stop at the first failure and let its nodes run, for `lab sh`.
    pub keep: bool,
    /// How many labs run at once.
    pub jobs: usize,
}

/// How many scenarios ended how, and why those that failed did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Scenarios that ran to their end.
    pub passed: usize,
    /// Scenarios that failed, each with the beginning of its error.
    pub failed: Vec<(&'static str, String)>,
    /// Scenarios that need what this run does not have.
    pub skipped: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, error) in &self.failed {
            writeln!(f, "failed: {name}: {error}")?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped)
    }
}

impl Plan {
    /// The scenarios that the filter leaves.
    pub fn select(&self, mut scenarios: Vec<Scenario>) -> Vec<Scenario> {
        let wanted = |name: &str| {
            self.filter.is_empty() || self.filter.iter().any(|part| name.contains(part.as_str()))
        };
        scenarios.retain(|scenario| wanted(scenario.name));
        scenarios
    }

    /// Runs them, printing a line for each and the tally last: who sees only the end of a log sees what failed.
    pub fn run(&self, scenarios: Vec<Scenario>) -> Result<Tally> {
        if let Some(deb) = &self.deb {
            fs::metadata(deb).with_context(|| deb.display().to_string())?;
        }
        let (mut tally, mut ready) = (Tally::default(), Vec::new());
        for scenario in self.select(scenarios) {
            match scenario.unmet(self.lane, self.deb.as_deref()) {
                None => ready.push(scenario),
                Some(Need::Package) => {
                    tally.skipped += 1;
                    println!("{} ... not for this run: needs package (--deb FILE)", scenario.name);
                }
                Some(need) => {
                    tally.skipped += 1;
                    println!("{} ... not for this lane: needs {need}", scenario.name);
                }
            }
        }
        if ready.is_empty() {
            println!("{tally}");
            return Ok(tally);
        }
        Lab::prepare(self.lane)?; // once, before labs that start at the same time need it
        let queue = Queue::new(ready.into_iter().map(|scenario| (self.bench(&scenario), scenario)).collect());
        let shared = Mutex::new(tally);
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.work(&queue, &shared));
            }
        });
        let tally = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        println!("{tally}");
        Ok(tally)
    }

    /// One lab after another, until nothing is left to run.
    fn work(&self, queue: &Queue<Bench, Scenario>, tally: &Mutex<Tally>) {
        let mut spare: Option<Ready> = None;
        while let Some((scenario, again)) = queue.take(spare.as_ref().map(|ready| ready.bench)) {
            let start = Instant::now();
            let result = self.one(&scenario, &mut spare, again);
            let took = start.elapsed().as_secs_f64();
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(()) => {
                    tally.passed += 1;
                    println!("{} ... ok ({took:.1} s)", scenario.name);
                }
                Err(error) => {
                    let head = format!("{error:#}").chars().take(FAILURE_HEAD).collect();
                    tally.failed.push((scenario.name, head));
                    println!("{} ... FAILED ({took:.1} s)\n{error:#}", scenario.name);
                    if self.keep {
                        queue.stop();
                    }
                }
            }
        }
    }

    fn one(&self, scenario: &Scenario, spare: &mut Option<Ready>, again: bool) -> Result<()> {
        let ready = self.ready(scenario, spare.take(), again)?;
        let limit = scenario.deadline(self.lane);
        ready.lab.set_deadline(Some(Instant::now() + limit));
        let mut ctx = Ctx { lab: ready.lab, deb: self.deb.clone(), scenario: scenario.name };
        let result = catch_unwind(AssertUnwindSafe(|| {
            if scenario.needs.contains(&Need::Docker) {
                ctx.lab.each(|node| node.sh("systemctl start docker")).context("start Docker")?;
            }
            (scenario.run)(&mut ctx)
        }))
        .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(&*panic))));
        let lab = ctx.lab;
        lab.set_deadline(None);
        match result {
            Ok(()) if again => *spare = Some(Ready { lab, ..ready }),
            Ok(()) => {}
            Err(error) => {
                tell(&lab, scenario.name);
                if self.keep {
                    println!("kept: {} (`lab sh 1`, `lab down`)", lab.keep()?.display());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// A lab of the right shape with the package installed if that is needed: the spare one made clean, or a fresh one.
    fn ready(&self, scenario: &Scenario, spare: Option<Ready>, again: bool) -> Result<Ready> {
        let bench = self.bench(scenario);
        if let Some(spare) = spare.filter(|spare| spare.bench == bench) {
            match self.reset(&spare) {
                Ok(()) => return Ok(spare),
                Err(error) => println!(
                    "    a fresh lab for {}, because the last one is not clean: {error:#}",
                    scenario.name
                ),
            }
        }
        let lab = Lab::start_shape(bench.shape)?;
        if bench.package {
            self.install(&lab)?;
        }
        let saved = again && self.lane == Lane::Vm;
        if saved {
            lab.snapshot(READY)?;
        }
        Ok(Ready { lab, bench, saved })
    }

    fn reset(&self, ready: &Ready) -> Result<()> {
        let lab = &ready.lab;
        if ready.saved {
            lab.restore(READY)?;
            return lab.heal_all();
        }
        if ready.bench.docker {
            bail!("Docker ran in it");
        }
        lab.heal_all()?;
        lab.each(|node| {
            if !node.is_up() {
                node.boot()?;
            }
            purge(node)
        })?;
        if ready.bench.package { self.install(lab) } else { Ok(()) }
    }

    fn install(&self, lab: &Lab) -> Result<()> {
        let deb = self.deb.as_deref().context("no package was given")?;
        lab.each(|node| node.install(deb)).context("install the package").map(drop)
    }

    fn bench(&self, scenario: &Scenario) -> Bench {
        let needs = |need| scenario.needs.contains(&need);
        let shape = Shape {
            lane: self.lane,
            nodes: scenario.nodes,
            underlays: scenario.underlays,
            power_cut: needs(Need::PowerCut),
        };
        Bench { shape, package: needs(Need::Package), docker: needs(Need::Docker) }
    }
}

/// What two scenarios must have in common to share a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bench {
    shape: Shape,
    package: bool,
    docker: bool,
}

struct Ready {
    lab: Lab,
    bench: Bench,
    saved: bool,
}

fn tell(lab: &Lab, name: &str) {
    let dir: &Path = &artifact_dir(name);
    match lab.collect(dir) {
        Err(error) => println!("    could not collect from the nodes: {error:#}"),
        Ok(tails) => {
            for (node, tail) in tails {
                println!("    --- {node}: journal of ployzd\n{}", tail.trim_end());
            }
        }
    }
    println!("    journals and network state: {}", dir.display());
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

const READY: &str = "ready";
const FAILURE_HEAD: usize = 400;
