//! Inspect, decide, apply, verify: one run of the adopt path, and the memory of the last runs for `explain`.

mod apply;
mod inspect;
#[cfg(test)]
mod path_tests;
mod running;
#[cfg(test)]
mod tests;

use crate::node::supervisor::Supervisor;
use parking_lot::Mutex;
use ployz_core::adopt::{self, Component, Plan, RecreateGuard, Seen, Trigger, Verdict};
use ployz_core::live::{NodeLive, SidecarLive};
use ployz_core::spec::NodeSpec;
use ployz_core::wire::v1::api::{ComponentStatus, ErrorCode, ExplainRun, RunningOperation};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// The hands and the memory.
#[derive(Clone)]
pub struct Reconciler {
    supervisor: Supervisor,
    guard: Arc<Mutex<RecreateGuard>>,
    history: Arc<Mutex<VecDeque<ExplainRun>>>,
    /// Counts the namespaces that were given up: whoever holds a socket in one lets go of it, because a socket keeps
    /// the old namespace alive, and with it the old tunnel's UDP port.
    given_up: watch::Sender<u64>,
    running: running::Running,
}

/// How one run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was planned.
    pub plan: Plan,
    /// What is there afterwards.
    pub live: NodeLive,
    /// What failed, by component.
    pub failures: BTreeMap<Component, String>,
}

/// Why a start whose data plane did not come up is given up; each with one line a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// A component is held, and so not touched: the operator has to act.
    Held(Vec<String>),
    /// Every component could be worked on, and one failed.
    Failed(Vec<String>),
}

impl StartFailure {
    /// Its code for an operator.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Held(_) => ErrorCode::ComponentHeld,
            Self::Failed(_) => ErrorCode::NetworkStartFailed,
        }
    }

    /// The lines.
    pub fn complaints(self) -> Vec<String> {
        match self {
            Self::Held(lines) | Self::Failed(lines) => lines,
        }
    }
}

impl Outcome {
    /// Whether every component is as it should be.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
            && !self.plan.steps.iter().any(|step| matches!(step.verdict, Verdict::Hold(_)))
    }

    /// Whether something is wrong only because it could not be looked at in time: on a machine under load the next
    /// look finds it.
    pub fn is_unsure(&self) -> bool {
        !self.is_good() && self.live.has_unknown()
    }

    /// Why a start that ended like this is given up; `None` when everything is as it should be.
    pub fn start_failure(&self) -> Option<StartFailure> {
        let lines = self.complaints();
        let held = self.plan.steps.iter().any(|step| {
            matches!(step.verdict, Verdict::Hold(_)) && !self.failures.contains_key(&step.component)
        });
        match (lines.is_empty(), held) {
            (true, _) => None,
            (false, true) => Some(StartFailure::Held(lines)),
            (false, false) => Some(StartFailure::Failed(lines)),
        }
    }

    /// One line a component that is not as it should be.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints_of(&Component::ALL)
    }

    /// The same of these alone.
    pub fn complaints_of(&self, components: &[Component]) -> Vec<String> {
        let held = self.plan.steps.iter().filter_map(|step| match &step.verdict {
            Verdict::Hold(why) if !self.failures.contains_key(&step.component) => {
                Some((step.component, format!("{} is held: {why}", step.component)))
            }
            _ => None,
        });
        let failed = self.failures.iter();
        let failed = failed.map(|(component, error)| (*component, format!("{component} failed: {error}")));
        held.chain(failed).filter(|(part, _)| components.contains(part)).map(|(_, words)| words).collect()
    }
}

impl Reconciler {
    /// With this supervisor.
    pub fn new(supervisor: Supervisor) -> Self {
        Self {
            supervisor,
            guard: Arc::default(),
            history: Arc::default(),
            given_up: watch::Sender::new(0),
            running: watch::Sender::new(None),
        }
    }

    /// The supervisor.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Changes when a namespace is about to be made in the place of the one before.
    pub fn given_up(&self) -> watch::Receiver<u64> {
        self.given_up.subscribe()
    }

    /// The operation that a run is carrying out; `None` while nothing is written.
    pub fn running(&self) -> watch::Receiver<Option<RunningOperation>> {
        self.running.subscribe()
    }

    /// What is there, all parts inspected at once. A part that did not answer in time is looked at once more: one
    /// slow answer on a machine under load is no reason to hold what is well.
    pub async fn inspect(&self, spec: &NodeSpec) -> NodeLive {
        let live = Box::pin(inspect::node(&self.supervisor, spec)).await;
        if !live.has_unknown() {
            return live;
        }
        live.or(Box::pin(inspect::node(&self.supervisor, spec)).await)
    }

    /// One run. An all-adopt plan writes nothing.
    pub async fn run(&self, trigger: Trigger, spec: &NodeSpec) -> Outcome {
        self.run_parts(trigger, spec, &Component::ALL).await
    }

    /// A run for the namespace and the tunnel alone (a join's first step).
    pub async fn run_tunnel(&self, trigger: Trigger, spec: &NodeSpec) -> Outcome {
        self.run_parts(trigger, spec, &[Component::Netns, Component::Tunnel, Component::Wireguard]).await
    }

    async fn run_parts(&self, trigger: Trigger, spec: &NodeSpec, parts: &[Component]) -> Outcome {
        let started = Instant::now();
        let live = self.inspect(spec).await;
        let mut plan = adopt::plan(spec, &live);
        plan.steps.retain(|step| parts.contains(&step.component));
        self.guard.lock().hold(&mut plan);
        let outcome = if plan.is_silent() {
            Outcome { plan, live, failures: BTreeMap::new() }
        } else {
            if plan.verdict(Component::Netns).is_some_and(Verdict::writes) {
                self.given_up.send_modify(|count| *count += 1);
            }
            let progress = running::Progress::new(&self.running);
            let mut failures = apply::plan(&self.supervisor, spec, &plan, &progress).await;
            drop(progress);
            let failed: BTreeSet<Component> = failures.keys().copied().collect();
            let live = self.inspect(spec).await;
            let again = adopt::plan(spec, &live);
            self.guard.lock().note(&plan, |component| failed.contains(&component), &again);
            verify(&plan, &again, &mut failures);
            Outcome { plan, live, failures }
        };
        self.remember(trigger, started, &outcome);
        outcome
    }

    /// The last runs, oldest first.
    pub fn history(&self) -> Vec<ExplainRun> {
        self.history.lock().iter().cloned().collect()
    }

    /// Forgets the runs of a network that is gone.
    pub fn forget(&self) {
        self.history.lock().clear();
    }

    fn remember(&self, trigger: Trigger, started: Instant, outcome: &Outcome) {
        let took = started.elapsed();
        let components = statuses(outcome);
        let lines: Vec<String> = outcome.plan.steps.iter().map(ToString::to_string).collect();
        let operations: Vec<String> = outcome.plan.operations().map(ToString::to_string).collect();
        let silent = outcome.plan.is_all_adopt();
        let adopted = outcome.plan.count("adopt");
        // News is what was written, what reads otherwise than the last time, and a daemon's start. Looking around and
        // finding the same as before is not.
        let mut history = self.history.lock();
        let same = history.back().map_or(silent, |last| last.lines == lines);
        let is_news = !outcome.plan.is_silent() || !same || trigger == Trigger::Startup;
        for line in lines.iter().filter(|_| is_news) {
            tracing::info!(target: "plan", "{line}");
        }
        for operation in &operations {
            tracing::info!(target: "plan", "{operation}");
        }
        for (component, error) in &outcome.failures {
            tracing::error!(target: "plan", "{component} failed: {error}");
        }
        if is_news {
            tracing::info!(target: "plan", "{trigger}: adopted {adopted} of {} in {} ms", lines.len(), took.as_millis());
        }
        let run = ExplainRun {
            at: ployz_host::clock::now(),
            trigger: trigger.to_string(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            lines,
            operations,
            components,
        };
        // Runs that found the same and did nothing must not push out those that did something.
        if outcome.plan.is_silent() && same && history.len() > 1 {
            history.pop_back();
        }
        history.push_back(run);
        while history.len() > KEPT_RUNS {
            history.pop_front();
        }
    }
}

/// Whatever was to be written must be right now.
fn verify(plan: &Plan, again: &Plan, failures: &mut BTreeMap<Component, String>) {
    for step in plan.steps.iter().filter(|step| step.verdict.writes()) {
        match again.verdict(step.component) {
            Some(Verdict::Adopt) | None => {
                failures.remove(&step.component);
            }
            Some(left) => {
                let why = left.why();
                failures.entry(step.component).or_insert_with(|| format!("still to {}: {why}", left.word()));
            }
        }
    }
}

fn statuses(outcome: &Outcome) -> Vec<ComponentStatus> {
    let mut statuses = ComponentStatus::of(&outcome.plan);
    for status in &mut statuses {
        if let Some(error) = outcome.failures.get(&status.component) {
            status.outcome = "failed".into();
            status.error = Some(error.clone());
        }
        status.facts = facts(status.component, &outcome.live);
    }
    statuses
}

fn facts(component: Component, live: &NodeLive) -> BTreeMap<String, String> {
    let pairs: Vec<(&str, String)> = match component {
        Component::Netns => live.netns.present().map(|n| ("id", n.id.to_string())).into_iter().collect(),
        Component::Tunnel => live.tunnel.present().map(|u| ("pid", u.pid.to_string())).into_iter().collect(),
        Component::Wireguard => live
            .wireguard
            .present()
            .map(|w| vec![("index", w.index.to_string()), ("peers", w.peers.len().to_string())])
            .unwrap_or_default(),
        Component::Link => {
            live.link.present().map(|l| ("routes", l.routes.len().to_string())).into_iter().collect()
        }
        Component::Firewall => Vec::new(),
        Component::Nats => live.nats.present().map(|n| ("pid", n.unit.pid.to_string())).into_iter().collect(),
        Component::Gateway => sidecar_facts(&live.gateway),
        Component::Dns => sidecar_facts(&live.dns),
    };
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn sidecar_facts(live: &Seen<SidecarLive>) -> Vec<(&'static str, String)> {
    let Some(live) = live.present() else { return Vec::new() };
    let listens = live.sockets.values().filter_map(|socket| socket.identity.fields().get("listen"));
    let listens: Vec<&str> = listens.map(String::as_str).collect();
    let pid = live.unit.as_ref().map(|unit| ("pid", unit.pid.to_string()));
    pid.into_iter().chain((!listens.is_empty()).then(|| ("listen", listens.join(" ")))).collect()
}

const KEPT_RUNS: usize = 20;
