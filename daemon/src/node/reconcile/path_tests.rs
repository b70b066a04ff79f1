//! Whole runs over a node in memory: a start, an adoption, failures, and a kill in front of every effect.

use super::{Outcome, Reconciler, StartFailure};
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::tests::{Fake, node};
use crate::state::crash;
use ployz_core::adopt::{Component, Seen, Trigger};
use ployz_core::live::NodeLive;
use ployz_core::spec::{NodeSpec, TunnelBackend};
use std::collections::BTreeSet;

const BACKENDS: [TunnelBackend; 2] = [TunnelBackend::Kernel, TunnelBackend::Userspace];

/// A daemon that has just started.
fn daemon(fake: &Fake) -> Reconciler {
    Reconciler::new(Supervisor::Fake(fake.clone()))
}

async fn start(fake: &Fake, spec: &NodeSpec) -> Outcome {
    daemon(fake).run(Trigger::Startup, spec).await
}

/// A node that was started on a bare machine.
async fn started(spec: &NodeSpec) -> Fake {
    let fake = Fake::bare();
    let outcome = start(&fake, spec).await;
    assert!(outcome.is_good(), "{:?}", outcome.complaints());
    fake.state().effects.clear();
    fake
}

#[tokio::test]
async fn a_first_start_makes_everything_parents_first_and_a_second_one_adopts_it() {
    for spec in BACKENDS.map(node::spec) {
        let fake = Fake::bare();
        let first = start(&fake, &spec).await;
        assert_eq!(first.start_failure(), None);
        let planned: Vec<_> = first.plan.operations().collect();
        let texts: Vec<String> = planned.iter().map(|planned| planned.op.to_string()).collect();
        assert_eq!(fake.state().effects, texts);
        for (at, child) in planned.iter().enumerate() {
            let late =
                planned[at..].iter().find(|later| child.component.parents().contains(&later.component));
            assert!(late.is_none(), "{child} comes before {}", late.unwrap());
        }
        let made: BTreeSet<Component> = planned.iter().map(|planned| planned.component).collect();
        assert_eq!(made.len(), first.plan.steps.len());

        fake.state().effects.clear();
        let again = daemon(&fake);
        let second = again.run(Trigger::Startup, &spec).await;
        assert!(second.plan.is_all_adopt() && second.is_good());
        assert_eq!(fake.state().effects, [""; 0]);
        assert_eq!(*again.given_up().borrow(), 0, "its namespace stays");
    }
}

/// Every daemon that is killed is followed by another one over the same node, as after a crash.
#[test]
fn a_daemon_killed_in_front_of_any_effect_is_followed_by_one_that_finishes() {
    for spec in BACKENDS.map(node::spec) {
        let whole = Fake::bare();
        let start = |fake: &Fake| crash::process(None, start(fake, &spec)).unwrap();
        start(&whole);
        let wanted = whole.inspect();
        let count = whole.state().effects.len();
        for kill in 0..count {
            let fake = Fake::bare();
            let reconciler = daemon(&fake);
            let outcome = crash::process(Some(kill), reconciler.run(Trigger::Startup, &spec));
            assert!(outcome.is_none(), "not killed at {kill}: {outcome:?}");
            assert_eq!(*reconciler.running().borrow(), None, "killed at {kill}");
            assert_eq!(fake.state().effects.len(), kill);
            let resumed = start(&fake);
            assert!(resumed.is_good(), "killed at {kill}: {:?}", resumed.complaints());
            assert_eq!(fake.inspect(), wanted, "killed at {kill}");
            fake.state().effects.clear();
            assert!(start(&fake).plan.is_all_adopt(), "killed at {kill}");
            assert_eq!(fake.state().effects, [""; 0], "killed at {kill}");
        }
    }
}

#[tokio::test]
async fn an_effect_that_fails_is_named_and_what_lives_in_it_is_not_tried() {
    let spec = node::spec(TunnelBackend::Kernel);
    let fake = Fake::bare();
    fake.state().fails = Some("create WireGuard device wg0".into());
    let reconciler = daemon(&fake);
    let outcome = reconciler.run(Trigger::NetworkStart, &spec).await;
    assert!(outcome.failures[&Component::Wireguard].ends_with(": no room"), "{:?}", outcome.failures);
    let mut kept: BTreeSet<Component> = BTreeSet::from([Component::Wireguard]);
    for component in Component::ALL {
        if component.parents().iter().any(|parent| kept.contains(parent)) {
            kept.insert(component);
            let why = &outcome.failures[&component];
            assert!(why.starts_with("not tried: "), "{component}: {why}");
        }
    }
    assert!(kept.contains(&Component::Link));
    let tried = outcome.plan.operations().filter(|planned| !kept.contains(&planned.component));
    let tried: Vec<String> = tried.map(|planned| planned.op.to_string()).collect();
    assert_eq!(fake.state().effects, tried);
    assert!(matches!(outcome.start_failure(), Some(StartFailure::Failed(_))));

    fake.state().fails = None;
    let outcome = reconciler.run(Trigger::PeriodicResync, &spec).await;
    assert!(outcome.is_good(), "{:?}", outcome.complaints());
}

fn hide(live: &mut NodeLive, component: Component, foreign: bool) {
    fn put<T>(seen: &mut Seen<T>, foreign: bool) {
        let why = "no answer".to_owned();
        *seen = if foreign { Seen::Foreign(why) } else { Seen::Unknown(why) };
    }
    match component {
        Component::Netns => put(&mut live.netns, foreign),
        Component::Tunnel => put(&mut live.tunnel, foreign),
        Component::Wireguard => put(&mut live.wireguard, foreign),
        Component::Link => put(&mut live.link, foreign),
        Component::Firewall => put(&mut live.firewall, foreign),
        Component::Nats => put(&mut live.nats, foreign),
        Component::Gateway => put(&mut live.gateway, foreign),
        Component::Dns => put(&mut live.dns, foreign),
    }
}

#[tokio::test]
async fn what_cannot_be_inspected_or_is_foreign_is_held_and_nothing_is_written() {
    let spec = node::spec(TunnelBackend::Userspace);
    for (component, foreign) in Component::ALL.into_iter().flat_map(|part| [(part, false), (part, true)]) {
        let fake = started(&spec).await;
        let whole = fake.inspect();
        hide(&mut fake.state().live, component, foreign);
        let reconciler = daemon(&fake);
        let outcome = reconciler.run(Trigger::Startup, &spec).await;
        assert_eq!(fake.state().effects, [""; 0], "{component}");
        assert!(matches!(outcome.start_failure(), Some(StartFailure::Held(_))), "{component}");
        assert_eq!(outcome.is_unsure(), !foreign, "{component}");
        fake.state().live = whole;
        assert!(reconciler.run(Trigger::PeriodicResync, &spec).await.plan.is_all_adopt(), "{component}");
    }
}

#[tokio::test]
async fn a_recreation_that_changes_nothing_is_carried_out_once() {
    let spec = node::spec(TunnelBackend::Kernel);
    let fake = started(&spec).await;
    let mut other = spec.nats.unit.clone();
    other.user = None;
    let stuck = node::unit(&other);
    {
        let mut state = fake.state();
        let Seen::Present(nats) = &mut state.live.nats else { panic!("it was started") };
        nats.unit = stuck.clone();
        state.stuck = Some(stuck);
    }
    let reconciler = daemon(&fake);
    let first = reconciler.run(Trigger::PeriodicResync, &spec).await;
    assert!(first.failures[&Component::Nats].starts_with("still to recreate: "), "{:?}", first.failures);
    assert!(fake.state().effects.contains(&"start ployz-nats".to_owned()));
    fake.state().effects.clear();
    let second = reconciler.run(Trigger::PeriodicResync, &spec).await;
    assert_eq!(fake.state().effects, [""; 0]);
    assert!(matches!(second.start_failure(), Some(StartFailure::Held(_))));
}
