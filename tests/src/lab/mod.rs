//! A lab: 1 to 5 Debian nodes with systemd as PID 1 on a private network of their own.
//!
//! A lab has a short id. Everything it makes outside its directory carries that id in its name (the network namespace, the
//! cgroups, the QEMU machines), and the directory `run/ID` is locked by the process that owns it, so what a dead process
//! left is known as such and removed at the next start. Dropping a [`Lab`] removes it.

mod artifacts;
mod background;
mod booted;
mod capture;
mod cgroup;
mod host;
mod image;
mod net;
mod node;
mod ns;
mod poll;
mod qmp;
mod ready;
mod registry;
mod vm;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

pub use artifacts::artifact_dir;
pub use background::Background;
pub use capture::{Capture, Captured};
pub use host::{Output, quote};
pub use node::Node;
pub use poll::{OutOfTime, poll};
pub use registry::{kept, remove_kept, remove_leftovers};

use image::Image;
use net::Net;
use node::Machine;
use ns::NsMachine;
use poll::Clock;
use registry::Claim;
use vm::VmMachine;

/// How the nodes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Namespaces of the build machine: native speed, its kernel.
    Ns,
    /// QEMU machines: their own kernel, ten times slower.
    Vm,
}

impl Lane {
    /// A time meant for lane `ns`, made longer for the emulated machines of lane `vm`.
    pub fn scale(self, time: Duration) -> Duration {
        match self {
            Self::Ns => time,
            Self::Vm => time * 3,
        }
    }

    fn boot_limit(self) -> Duration {
        match self {
            Self::Ns => Duration::from_secs(45),
            Self::Vm => Duration::from_secs(300),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ns => "ns",
            Self::Vm => "vm",
        })
    }
}

impl FromStr for Lane {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ns" => Ok(Self::Ns),
            "vm" => Ok(Self::Vm),
            _ => Err(anyhow!("lane `{text}`: there are `ns` and `vm`")),
        }
    }
}

/// What a lab is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// How the nodes are made.
    pub lane: Lane,
    /// 1 to 5.
    pub nodes: usize,
    /// 1 or 2 networks that join all nodes.
    pub underlays: usize,
    /// Whether disks are written so that a power cut loses what was not flushed (`vm`; slower).
    pub power_cut: bool,
}

/// A running lab.
pub struct Lab {
    shape: Shape,
    name: String,
    nodes: Vec<Node>,
    net: Arc<Net>,
    clock: Clock,
    claim: Claim,
}

impl Lab {
    /// Boots `nodes` nodes on `underlays` networks and waits until systemd in each says "running".
    pub fn start(lane: Lane, nodes: usize, underlays: usize) -> Result<Self> {
        Self::start_shape(Shape { lane, nodes, underlays, power_cut: false })
    }

    /// Builds the image of a lane when there is none.
    pub fn prepare(lane: Lane) -> Result<()> {
        Image::prepare(lane).map(drop)
    }

    /// [`Self::start`] with everything that can be chosen. Builds the image first when there is none.
    pub fn start_shape(shape: Shape) -> Result<Self> {
        if !(1..=5).contains(&shape.nodes) || !(1..=2).contains(&shape.underlays) {
            bail!("a lab has 1 to 5 nodes and 1 or 2 underlays, not {} and {}", shape.nodes, shape.underlays);
        }
        let image = Image::prepare(shape.lane)?;
        let claim = Claim::new()?;
        let net = Arc::new(Net::create(claim.name(), shape.underlays, shape.lane)?);
        let state = json!({
            "lane": shape.lane.to_string(), "nodes": shape.nodes, "underlays": shape.underlays,
            "power_cut": shape.power_cut, "image": image.file(""),
        });
        claim.write("lab.json", &format!("{state:#}\n"))?;
        let lab = Self::assemble(shape, claim, net, &image);
        lab.each(Node::first_boot)?;
        Ok(lab)
    }

    fn assemble(shape: Shape, claim: Claim, net: Arc<Net>, image: &Image) -> Self {
        let (clock, name) = (Clock::default(), claim.name().to_owned());
        let nodes = (1..=shape.nodes).map(|i| {
            let (dir, net) = (claim.dir().join(format!("n{i}")), Arc::clone(&net));
            let machine = match shape.lane {
                Lane::Ns => Machine::Ns(NsMachine::new(&name, i, &dir, image, Arc::clone(&net))),
                Lane::Vm => {
                    Machine::Vm(VmMachine::new(&name, i, &dir, image, Arc::clone(&net), shape.power_cut))
                }
            };
            Node::new(i, shape.lane, dir, machine, net, clock.clone())
        });
        let nodes = nodes.collect();
        Self { shape, name, nodes, net, clock, claim }
    }

    /// The lab that `lab up` left running.
    pub fn attach(dir: &Path) -> Result<Self> {
        let claim = Claim::attach(dir)?;
        let state: serde_json::Value = serde_json::from_str(&claim.read("lab.json")?)?;
        let number =
            |key: &str| state[key].as_u64().and_then(|n| usize::try_from(n).ok()).context("lab.json");
        let text = |key: &str| state[key].as_str().context("lab.json");
        let shape = Shape {
            lane: text("lane")?.parse()?,
            nodes: number("nodes")?,
            underlays: number("underlays")?,
            power_cut: state["power_cut"].as_bool().unwrap_or(false),
        };
        let net = Arc::new(Net::of(claim.name(), shape.underlays));
        let image = Image::at(PathBuf::from(text("image")?));
        Ok(Self::assemble(shape, claim, net, &image))
    }

    /// What the lab is made of.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The lane its nodes run in.
    pub fn lane(&self) -> Lane {
        self.shape.lane
    }

    /// Its name, unique on this machine: `ployz-lab-ID`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Node `i`, counted from 1.
    ///
    /// # Panics
    /// When there is no such node: the scenario's text is wrong.
    pub fn node(&self, i: usize) -> &Node {
        assert!(
            (1..=self.nodes.len()).contains(&i),
            "there is no node {i}: the lab has {}",
            self.nodes.len()
        );
        &self.nodes[i - 1]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Does the same to all nodes at once; the error names the first node that failed.
    pub fn each<T: Send>(&self, f: impl Fn(&Node) -> Result<T> + Sync) -> Result<Vec<T>> {
        thread::scope(|scope| {
            let threads: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| f(node))).collect();
            let results = threads.into_iter().zip(&self.nodes).map(|(thread, node)| {
                let result = thread.join().unwrap_or_else(|_| bail!("panicked"));
                result.with_context(|| node.name())
            });
            results.collect()
        })
    }

    /// `seconds`, made longer for the emulated machines of lane `vm`.
    pub fn secs(&self, seconds: u64) -> Duration {
        self.lane().scale(Duration::from_secs(seconds))
    }

    /// Every wait of this lab fails after `end`.
    pub(crate) fn set_deadline(&self, end: Option<Instant>) {
        self.clock.set(end);
    }

    /// Cuts a whole underlay, silently.
    pub fn cut_underlay(&self, k: usize) -> Result<()> {
        self.net.cut_underlay(k, true)
    }

    /// Undoes [`Self::cut_underlay`].
    pub fn heal_underlay(&self, k: usize) -> Result<()> {
        self.net.cut_underlay(k, false)
    }

    /// Drops what two nodes send to each other; each still reaches the others.
    pub fn cut_pair(&self, a: usize, b: usize) -> Result<()> {
        self.net.cut_pair(a, b, true)
    }

    /// Undoes [`Self::cut_pair`] for the same two nodes in the same order.
    pub fn heal_pair(&self, a: usize, b: usize) -> Result<()> {
        self.net.cut_pair(a, b, false)
    }

    /// Undoes every cut, of links, pairs and underlays, and thaws every node.
    pub fn heal_all(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.is_up()) {
            node.thaw()?;
        }
        self.net.heal_all(self.nodes.len())
    }

    /// Runs a bash command of the build machine inside the lab's network, as the outsider 10.77.0.1 (underlay 1) and
    /// 10.78.0.1 (underlay 2).
    pub fn outside(&self, cmd: &str) -> Result<String> {
        host::sh(self.net.command("bash").args(["-c", cmd]))
    }

    /// [`Self::outside`] with a limit of its own.
    pub fn outside_for(&self, limit: Duration, cmd: &str) -> Result<String> {
        host::sh_for(limit, self.net.command("bash").args(["-c", cmd]))
    }

    /// Records everything that passes the bridge of underlay `k` until [`Capture::stop`].
    pub fn capture(&self, k: usize) -> Result<Capture> {
        Capture::start(&self.net, k, self.claim.dir())
    }

    /// Keeps memory and disks of all nodes under `name` (`vm` only).
    pub fn snapshot(&self, name: &str) -> Result<()> {
        vm::save_all(&self.machines()?, name).with_context(|| format!("snapshot {name}"))
    }

    /// Puts all nodes back to a snapshot and sets their clocks (`vm` only).
    pub fn restore(&self, name: &str) -> Result<()> {
        let machines = self.machines()?;
        vm::restore_all(&machines, name).with_context(|| format!("restore {name}"))?;
        machines.iter().try_for_each(|machine| machine.set_clock())
    }

    /// Lets the nodes run on after this process; `lab down` removes them.
    pub fn keep(self) -> Result<PathBuf> {
        self.claim.keep()?;
        Ok(self.claim.dir().to_owned())
    }

    fn machines(&self) -> Result<Vec<&VmMachine>> {
        self.nodes.iter().map(|node| node.vm().context("only lane vm has snapshots")).collect()
    }
}
