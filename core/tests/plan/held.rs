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

/// One thing that is otherwise than it should be.
fn disturb(live: &mut NodeLive, which: usize) {
    let Seen::Present(link) = &mut live.link else { return };
    let ends = [&mut link.host_end, &mut link.netns_end, &mut link.port_end, &mut link.service_end];
    match which {
        0..4 => *ends.into_iter().nth(which).unwrap() = None,
        4..8 => ends.into_iter().nth(which - 4).unwrap().iter_mut().for_each(|end| {
            (end.mtu, end.up, end.alias) = (9000, false, None);
            end.addresses = ["192.0.2.9/24".parse().unwrap()].into();
        }),
        8 => link.bridge = None,
        9 => link.routes.clear(),
        10 => link.rules.clear(),
        11 => link.netns_sysctls.values_mut().for_each(|value| *value = "7".into()),
        12 => {
            live.netns = Seen::Absent;
            live.wireguard = Seen::Absent;
        }
        13 => live.wireguard = Seen::Absent,
        14 => live.firewall = Seen::Absent,
        _ => live.nats = Seen::Absent,
    }
}

proptest! {
    /// Whatever differs in whatever combination: the operations that are planned leave nothing to do.
    #[test]
    fn operations_lead_to_adoption(which in proptest::collection::btree_set(0usize..16, 0..6)) {
        let spec = spec(KERNEL);
        let mut live = live(&spec);
        which.into_iter().for_each(|which| disturb(&mut live, which));
        let planned = plan(&spec, &live);
        super::leads_to_adoption(&spec, live, &planned);
    }

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
