//! Outcomes, without a machine.

use super::{Outcome, StartFailure};
use ployz_core::adopt::{Component, Plan, Seen, Step, Verdict};
use ployz_core::live::NodeLive;
use ployz_core::wire::v1::api::ErrorCode;
use std::collections::BTreeMap;

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
    assert_eq!(outcome(&[created.clone()], &[]).start_failure(), None);

    let failed = outcome(&[created.clone()], &[(Component::Netns, "it said: netns is held: no")]);
    let failure = failed.start_failure().unwrap();
    assert_eq!(failure.code(), ErrorCode::NetworkStartFailed);
    assert_eq!(failure.complaints(), ["netns failed: it said: netns is held: no"]);

    let held = (Component::Link, Verdict::Hold("not ours: x".into()));
    let both = outcome(&[created, held], &[(Component::Netns, "no room")]);
    let lines = vec!["link is held: not ours: x".to_owned(), "netns failed: no room".to_owned()];
    assert_eq!(both.start_failure(), Some(StartFailure::Held(lines)));
}
