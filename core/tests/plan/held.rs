//! What holds for every node: unknown is not absent, and what was made as planned is adopted.

use super::node::{live, spec};
use super::{KERNEL, USERSPACE};
use ployz_core::adopt::{Component, Plan, Seen, plan};
use ployz_core::live::NodeLive;
use proptest::prelude::*;

pub(super) fn nothing() -> NodeLive {
    NodeLive {
        netns: Seen::Absent,
        tunnel: Seen::Absent,
        wireguard: Seen::Absent,
        link: Seen::Absent,
        firewall: Seen::Absent,
        nats: Seen::Absent,
        gateway: Seen::Absent,
        dns: Seen::Absent,
    }
}

fn hide(live: &mut NodeLive, which: usize, foreign: bool) {
    fn put<T>(seen: &mut Seen<T>, foreign: bool) {
        *seen = if foreign { Seen::Foreign("x".into()) } else { Seen::Unknown("x".into()) };
    }
    match which {
        0 => put(&mut live.netns, foreign),
        1 => put(&mut live.tunnel, foreign),
        2 => put(&mut live.wireguard, foreign),
        3 => put(&mut live.link, foreign),
        4 => put(&mut live.firewall, foreign),
        5 => put(&mut live.nats, foreign),
        6 => put(&mut live.gateway, foreign),
        _ => put(&mut live.dns, foreign),
    }
}

fn held(plan: &Plan, component: Component) -> bool {
    plan.verdict(component).is_none_or(|verdict| verdict.word() == "hold")
}

proptest! {
    /// Unknown is not absent: whatever else is wrong, what could not be inspected is held, and so is all that
    /// lives in it.
    #[test]
    fn unknown_and_foreign_are_never_written(which in 0usize..8, foreign: bool, empty: bool, userspace: bool) {
        let spec = spec(if userspace { USERSPACE } else { KERNEL });
        let mut live = if empty { nothing() } else { live(&spec) };
        hide(&mut live, which, foreign);
        let plan = plan(&spec, &live);
        let component = Component::ALL[which];
        prop_assert!(held(&plan, component), "{plan}");
        prop_assert!(plan.operations().all(|planned| planned.component != component), "{}", plan);
        if component == Component::Netns {
            prop_assert!(plan.is_silent(), "{plan}");
        }
    }

    /// Once everything was made as planned, there is nothing left to do.
    #[test]
    fn a_node_made_from_its_spec_is_adopted_whole(port in 1u16.., mtu in 1280u32..9000, userspace: bool) {
        let mut spec = spec(if userspace { USERSPACE } else { KERNEL });
        spec.wireguard.listen_port = port;
        spec.wireguard.mtu = mtu;
        spec.link.mtu = mtu;
        let plan = plan(&spec, &live(&spec));
        prop_assert!(plan.is_all_adopt() && plan.is_silent(), "{plan}");
        prop_assert_eq!(plan.operations().count(), 0);
    }
}
