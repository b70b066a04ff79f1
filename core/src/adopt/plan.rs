//! The plan: one line a component, in the order it is applied. What the log, `status` and `explain` show.

use crate::adopt::{PlannedOp, Verdict};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A part of the data plane, parents before children.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Component {
    /// The network namespace.
    Netns,
    /// The userspace tunnel process.
    Tunnel,
    /// `wg0`.
    Wireguard,
    /// veth, bridge, routes, sysctls.
    Link,
    /// nftables.
    Firewall,
    /// The store.
    Nats,
    /// The gateway.
    Gateway,
    /// The DNS server.
    Dns,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which component.
    pub component: Component,
    /// What to do.
    pub verdict: Verdict,
    /// What there is to say besides: of something that is adopted all the same, or is not there for reasons of its own.
    pub note: Option<String>,
    /// What is done for it, in order; empty unless the verdict writes.
    pub ops: Vec<PlannedOp>,
}

/// What to do about a whole node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
}

impl Component {
    /// All, in plan order.
    pub const ALL: [Self; 8] = [
        Self::Netns,
        Self::Tunnel,
        Self::Wireguard,
        Self::Link,
        Self::Firewall,
        Self::Nats,
        Self::Gateway,
        Self::Dns,
    ];

    /// What it lives in or leads through: when one of these failed, it is not tried.
    pub fn parents(self) -> &'static [Self] {
        match self {
            Self::Netns => &[],
            Self::Tunnel | Self::Firewall | Self::Gateway | Self::Dns => &[Self::Netns],
            Self::Wireguard => &[Self::Netns, Self::Tunnel],
            Self::Link | Self::Nats => &[Self::Netns, Self::Wireguard],
        }
    }

    /// Its name as printed and as `explain` takes it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Step {
    /// What to do about a component, with nothing more to say.
    pub fn new(component: Component, verdict: Verdict) -> Self {
        Self { component, verdict, note: None, ops: Vec::new() }
    }

    /// Holds it after all: nothing is done.
    pub fn hold(&mut self, why: String) {
        self.verdict = Verdict::Hold(why);
        self.ops.clear();
    }
}

impl Plan {
    /// The verdict on one component.
    pub fn verdict(&self, component: Component) -> Option<&Verdict> {
        self.steps.iter().find(|step| step.component == component).map(|step| &step.verdict)
    }

    /// Whether nothing would be written.
    pub fn is_silent(&self) -> bool {
        self.steps.iter().all(|step| !step.verdict.writes())
    }

    /// Every operation, in the order it is carried out.
    pub fn operations(&self) -> impl Iterator<Item = &PlannedOp> {
        self.steps.iter().flat_map(|step| &step.ops)
    }

    /// Whether everything is adopted.
    pub fn is_all_adopt(&self) -> bool {
        self.steps.iter().all(|step| step.verdict == Verdict::Adopt)
    }

    /// How many steps carry this verdict's word.
    pub fn count(&self, word: &str) -> usize {
        self.steps.iter().filter(|step| step.verdict.word() == word).count()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [self.verdict.why(), self.note.clone().unwrap_or_default()];
        let words: Vec<&str> = words.iter().map(String::as_str).filter(|words| !words.is_empty()).collect();
        let line = format!("{:<10} {:<9} {}", self.component, self.verdict.word(), words.join("; "));
        f.write_str(line.trim_end())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
