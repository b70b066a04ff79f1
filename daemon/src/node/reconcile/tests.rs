//! Outcomes, without a machine.

use super::running::Progress;
use super::{Outcome, StartFailure};
use ployz_core::adopt::{Component, Op, Plan, PlannedOp, Seen, Step, Verdict};
use ployz_core::live::NodeLive;
use ployz_core::wire::v1::api::ErrorCode;
use std::collections::BTreeMap;
use tokio::sync::watch;

fn outcome(steps: &[(Component, Verdict)], failures: &[(Component, &str)]) -> Outcome {
    let steps = steps.iter().map(|(component, verdict)| Step::new(*component, verdict.clone())).collect();
    Outcome {
        plan: Plan { steps },
        live: NodeLive {
            netns: Seen::Absent,
            tunnel: Seen::Absent,
            wireguard: Seen::Absent,
            link: Seen::Absent,
            firewall: Seen::Absent,
            nats: Seen::Absent,
            gateway: Seen::Absent,
            dns: Seen::Absent,
        },
        failures: failures
            .iter()
            .map(|(part, error)| (*part, (*error).to_owned()))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// By the verdicts, whatever the texts say: an error may well contain the words of a hold.
#[test]
fn a_start_fails_as_held_only_when_a_component_is_held() {
    let created = (Component::Netns, Verdict::Create);
    assert_eq!(outcome(std::slice::from_ref(&created), &[]).start_failure(), None);

    let failed = outcome(std::slice::from_ref(&created), &[(Component::Netns, "it said: netns is held: no")]);
    let failure = failed.start_failure().unwrap();
    assert_eq!(failure.code(), ErrorCode::NetworkStartFailed);
    assert_eq!(failure.complaints(), ["netns failed: it said: netns is held: no"]);

    let held = (Component::Link, Verdict::Hold("not ours: x".into()));
    let both = outcome(&[created, held], &[(Component::Netns, "no room")]);
    let lines = vec!["link is held: not ours: x".to_owned(), "netns failed: no room".to_owned()];
    assert_eq!(both.start_failure(), Some(StartFailure::Held(lines)));
}

#[test]
fn an_operation_is_published_until_the_run_ends_however_it_ends() {
    let running = watch::Sender::new(None);
    let progress = Progress::new(&running);
    let planned = PlannedOp {
        component: Component::Nats,
        op: Op::AwaitStore("16de7f251a5c".into()),
        cause: "settings".into(),
    };
    progress.begin(&planned);
    let seen = running.borrow().clone().unwrap();
    assert_eq!(seen.component, Component::Nats);
    assert_eq!(seen.operation, "wait for the store with settings 16de7f251a5c");
    assert!(!seen.is_slow(seen.since + 1) && seen.is_slow(seen.since + 2));
    drop(progress);
    assert_eq!(*running.borrow(), None);
}
