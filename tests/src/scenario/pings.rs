//! Pings that go on while something happens, of which every single one must be answered.
//!
//! One `ping` without a count, judged by its numbered answers. `ping -c N -W10` does not wait for its last answer as long as
//! it says: once anything was answered it ends twice the longest round trip after the last request, or one interval if
//! that is longer (iputils, `__schedule_exit`). On a busy machine an answer of 25 ms was so reported as lost.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::{Ctx, product};
use crate::lab::{Background, Node};

/// A `ping` that runs.
pub(super) struct Pings(Background);

impl Pings {
    /// Pings `address` from `node` every `interval` seconds.
    pub(super) fn start(ctx: &Ctx, node: &Node, address: &str, interval: f32) -> Result<Self> {
        let ping = node.spawn(&format!("exec ping -nDO -i{interval} {address}"))?;
        ctx.wait(20, "the first answers", || Ok((ping.stdout().lines().count() > 5).then_some(())))?;
        Ok(Self(ping))
    }

    /// Waits up to ten seconds for the answers to all that were sent until now; returns how many these are.
    pub(super) fn all_answered(self, ctx: &Ctx) -> Result<u16> {
        let Some(sent) = numbers(&self.0.stdout(), "").last().copied() else { return Ok(0) };
        let answered = ctx.wait(10, "every ping to be answered", || {
            let told = self.0.stdout();
            let answered = numbers(&told, "bytes from");
            let lost: Vec<u16> = (1..=sent).filter(|number| !answered.contains(number)).collect();
            ensure!(lost.is_empty(), "of {sent} were not answered: {}", context(&told, &lost));
            Ok(Some(()))
        });
        let ended = self.0.stop()?;
        answered.with_context(|| ended.stderr.clone())?;
        ensure!(ended.stderr.is_empty(), "{}", product::told(&ended));
        Ok(sent)
    }
}

/// The numbers of the pings in lines that contain `words`. They begin anew after 65,535, eleven minutes at a hundred a second.
fn numbers(told: &str, words: &str) -> BTreeSet<u16> {
    let lines = told.lines().filter(|line| line.contains(words));
    lines.filter_map(number).collect()
}

fn number(line: &str) -> Option<u16> {
    line.split_once("icmp_seq=")?.1.split_whitespace().next()?.parse().ok()
}

/// When it was: the lines about the first few of these numbers.
fn context(told: &str, lost: &[u16]) -> String {
    let near = |line: &&str| number(line).is_some_and(|n| lost.iter().take(3).any(|l| l.abs_diff(n) <= 1));
    format!("{lost:?}\n{}", told.lines().filter(near).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "PING fd7b::1(fd7b::1) 56 data bytes
[1795297750.1] 64 bytes from fd7b::1: icmp_seq=1 ttl=63 time=0.7 ms
[1795297750.2] no answer yet for icmp_seq=2
[1795297750.2] 64 bytes from fd7b::1: icmp_seq=3 ttl=63 time=0.7 ms
[1795297750.3] From fd7b::9 icmp_seq=4 Destination unreachable: No route
[1795297750.4] no answer yet for icmp_seq=5";

    #[test]
    fn only_an_answer_counts_as_answered() {
        assert_eq!(numbers(TOLD, ""), BTreeSet::from([1, 2, 3, 4, 5]));
        assert_eq!(numbers(TOLD, "bytes from"), BTreeSet::from([1, 3]));
    }

    #[test]
    fn a_lost_one_is_shown_with_its_neighbours() {
        let shown = context(TOLD, &[2]);
        assert!(shown.contains("icmp_seq=1 ") && shown.contains("icmp_seq=3 "), "{shown}");
        assert!(!shown.contains("icmp_seq=4"), "{shown}");
    }
}
