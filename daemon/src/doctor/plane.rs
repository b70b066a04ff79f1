//! Every component as the adopt path sees it now: what the next run would do, without doing it.

use super::context::Ground;
use ployz_core::adopt::{self, Component, Seen, Verdict};
use ployz_core::live::{ActiveState, NodeLive, UnitLive};
use ployz_core::wire::v1::doctor::Check;

pub(super) fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let Some(running) = &ground.network else {
        let seen =
            format!("no network should be running here, according to {}", ground.config().data_dir.display());
        return vec![Check::ok("network", seen)];
    };
    let plan = adopt::plan(&running.spec, &running.live);
    let mut checks =
        vec![Check::ok("network", format!("{} as {}", running.file.name, running.file.machine.id))];
    checks.extend(plan.steps.iter().map(|step| judge(step.component, &step.verdict, &running.live)));
    checks
}

/// What does not run fails, what would be changed in place is worth a look, what is held needs the operator.
fn judge(component: Component, verdict: &Verdict, live: &NodeLive) -> Check {
    let name = component.as_str();
    let explain = format!("`ployzctl explain {name}`");
    match verdict {
        Verdict::Adopt if is_down(component, live) => {
            Check::fail(name, "its unit exists but is not running", logs(component))
        }
        Verdict::Adopt => Check::ok(name, "as it should be"),
        Verdict::Hold(why) => Check::fail(
            name,
            why.clone(),
            format!("ployzd will not change it until this is fixed; {explain}"),
        ),
        Verdict::Create => {
            let advice =
                format!("ployzd creates it at its next periodic resync, within 30 s; {}", logs(component));
            Check::fail(name, "missing", advice)
        }
        Verdict::Recreate(_) => {
            Check::fail(name, verdict.why(), format!("ployzd recreates it; if this persists, {explain}"))
        }
        Verdict::Converge(_) => Check::warn(
            name,
            verdict.why(),
            format!("ployzd changes it in place; if this persists, {explain}"),
        ),
    }
}

fn is_down(component: Component, live: &NodeLive) -> bool {
    fn down(unit: Option<&UnitLive>) -> bool {
        unit.is_some_and(|unit| unit.state == ActiveState::Inactive)
    }
    match component {
        Component::Tunnel => down(live.tunnel.present()),
        Component::Nats => down(live.nats.present().map(|nats| &nats.unit)),
        Component::Gateway => down(live.gateway.present().and_then(|sidecar| sidecar.unit.as_ref())),
        Component::Dns => down(live.dns.present().and_then(|sidecar| sidecar.unit.as_ref())),
        Component::Netns | Component::Wireguard | Component::Link | Component::Firewall => false,
    }
}

fn logs(component: Component) -> String {
    match component {
        Component::Tunnel => {
            "`systemctl status ployz-wireguard`, `journalctl -u ployz-wireguard -n 50`".into()
        }
        Component::Nats | Component::Gateway | Component::Dns => {
            format!("`systemctl status ployz-{component}`, `journalctl -u ployz-{component} -n 50`")
        }
        _ => format!("`ployzctl explain {component}`"),
    }
}

/// Whether it was seen to be there.
pub(super) fn is_there<T>(seen: &Seen<T>) -> bool {
    seen.present().is_some()
}
