//! The guard against a recreate loop: a recreation that leaves the same drift is tried once, and the component is held from
//! then on until its reason reads otherwise or it was found well. Without it a field that can never be read back as wanted
//! would restart a healthy process with every resync.

use crate::adopt::{Cause, Component, Plan, Verdict};
use std::collections::BTreeMap;

/// The reasons for which components were recreated without effect.
#[derive(Debug, Clone, Default)]
pub struct RecreateGuard {
    without_effect: BTreeMap<Component, String>,
}

impl RecreateGuard {
    /// Holds each component that was recreated for the same reason before. One that is found well is forgotten; one that
    /// cannot be inspected is not, because that says nothing.
    pub fn hold(&mut self, plan: &mut Plan) {
        self.without_effect.retain(|component, _| plan.verdict(*component) != Some(&Verdict::Adopt));
        let mut held = Vec::new();
        for step in &mut plan.steps {
            // What is recreated only because its parent is stays with a parent that stays.
            let parent = match &step.verdict {
                Verdict::Recreate(Cause::Parent(parent)) => {
                    Some(parent).filter(|parent| held.contains(*parent))
                }
                Verdict::Create => step.component.parents().iter().find(|parent| held.contains(*parent)),
                _ => None,
            };
            if let Some(parent) = parent {
                step.hold(format!("{parent} is held"));
                held.push(step.component);
            } else if let Some(why) = recreated(&step.verdict)
                && self.without_effect.get(&step.component) == Some(&why)
            {
                step.hold(format!("was recreated and is not different: {why}"));
                held.push(step.component);
            }
        }
    }

    /// Takes in a run: the plan that was carried out, the components that failed or were not tried, and the plan that
    /// follows from what is there afterwards. A step that failed says nothing about its reason.
    pub fn note(&mut self, done: &Plan, failed: impl Fn(Component) -> bool, again: &Plan) {
        for step in done.steps.iter().filter(|step| !matches!(step.verdict, Verdict::Hold(_))) {
            self.without_effect.remove(&step.component);
            if let Some(why) = recreated(&step.verdict)
                && !failed(step.component)
            {
                self.without_effect.insert(step.component, why);
            }
        }
        let left = |component| again.verdict(component).and_then(recreated);
        self.without_effect.retain(|component, why| left(*component).as_ref() == Some(why));
    }
}

fn recreated(verdict: &Verdict) -> Option<String> {
    matches!(verdict, Verdict::Recreate(_)).then(|| verdict.why())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::{Drift, Step};

    fn plan(verdict: Verdict) -> Plan {
        Plan { steps: vec![Step::new(Component::Nats, verdict)] }
    }

    fn recreate(live: &str) -> Verdict {
        Verdict::Recreate(Cause::Drift(vec![Drift::new("user", live, "ployz-nats")]))
    }

    /// One run: what is decided from `found`, and how it is found afterwards.
    fn run(guard: &mut RecreateGuard, found: Verdict, fails: bool, after: Verdict) -> &'static str {
        let mut plan_now = plan(found);
        guard.hold(&mut plan_now);
        if !plan_now.is_silent() {
            guard.note(&plan_now, |_| fails, &plan(after));
        }
        plan_now.steps[0].verdict.word()
    }

    #[test]
    fn a_recreation_without_effect_is_tried_once() {
        let mut guard = RecreateGuard::default();
        assert_eq!(run(&mut guard, recreate("root"), false, recreate("root")), "recreate");
        assert_eq!(run(&mut guard, recreate("root"), false, recreate("root")), "hold");
        assert_eq!(run(&mut guard, recreate("root"), false, recreate("root")), "hold");
    }

    #[test]
    fn the_held_verdict_names_the_reason() {
        let mut guard = RecreateGuard::default();
        run(&mut guard, recreate("root"), false, recreate("root"));
        let mut held = plan(recreate("root"));
        guard.hold(&mut held);
        let why = held.steps[0].verdict.why();
        assert_eq!(why, "was recreated and is not different: user: root -> ployz-nats");
    }

    /// Else it would be recreated without its parent, over and over.
    #[test]
    fn what_lives_in_a_held_component_is_held_too() {
        let netns = || Verdict::Recreate(Cause::Drift(vec![Drift::new("network", "a", "b")]));
        let child = || Verdict::Recreate(Cause::Parent(Component::Netns));
        let node = || Plan {
            steps: vec![Step::new(Component::Netns, netns()), Step::new(Component::Nats, child())],
        };
        let mut guard = RecreateGuard::default();
        guard.note(&node(), |_| false, &node());
        let mut again = node();
        guard.hold(&mut again);
        assert_eq!(again.verdict(Component::Nats), Some(&Verdict::Hold("netns is held".into())));
    }

    #[test]
    fn another_reason_is_tried() {
        let mut guard = RecreateGuard::default();
        run(&mut guard, recreate("root"), false, recreate("root"));
        assert_eq!(run(&mut guard, recreate("daemon"), false, Verdict::Adopt), "recreate");
        assert_eq!(run(&mut guard, recreate("root"), false, Verdict::Adopt), "recreate");
    }

    #[test]
    fn a_recreation_that_helped_or_failed_is_tried_again() {
        let mut guard = RecreateGuard::default();
        assert_eq!(run(&mut guard, recreate("root"), false, Verdict::Adopt), "recreate");
        assert_eq!(run(&mut guard, recreate("root"), true, recreate("root")), "recreate");
        assert_eq!(run(&mut guard, recreate("root"), false, Verdict::Adopt), "recreate");
    }

    #[test]
    fn one_found_well_in_between_is_recreated_again() {
        let mut guard = RecreateGuard::default();
        run(&mut guard, recreate("root"), false, recreate("root"));
        assert_eq!(run(&mut guard, Verdict::Adopt, false, Verdict::Adopt), "adopt");
        assert_eq!(run(&mut guard, recreate("root"), false, Verdict::Adopt), "recreate");
    }

    #[test]
    fn one_that_cannot_be_inspected_in_between_stays_held() {
        let mut guard = RecreateGuard::default();
        run(&mut guard, recreate("root"), false, recreate("root"));
        let unknown = || Verdict::Hold("cannot inspect: D-Bus timed out after 2s".into());
        run(&mut guard, unknown(), false, unknown());
        assert_eq!(run(&mut guard, recreate("root"), false, recreate("root")), "hold");
    }

    /// A run that writes something else meets the held one and leaves it held.
    #[test]
    fn runs_for_other_components_do_not_release_it() {
        let mut guard = RecreateGuard::default();
        run(&mut guard, recreate("root"), false, recreate("root"));
        let both = |link| Plan {
            steps: vec![Step::new(Component::Link, link), Step::new(Component::Nats, recreate("root"))],
        };
        let mut done = both(Verdict::Create);
        guard.hold(&mut done);
        guard.note(&done, |_| false, &both(Verdict::Adopt));
        assert_eq!(run(&mut guard, recreate("root"), false, recreate("root")), "hold");
    }
}
