//! The decisions, one pure function a component, and the cascade from parents to children.

use crate::adopt::identity::{self, other_version};
use crate::adopt::plan::{Component, Plan, Step};
use crate::adopt::{Cause, Drift, Seen, Verdict, sidecar};
use crate::live::{
    ActiveState, EndLive, FirewallLive, LinkLive, NatsLive, NetnsLive, NodeLive, NsId, TableLive, UnitLive,
    WireguardLive,
};
use crate::spec::firewall::Table;
use crate::spec::netns::{owned_by_us, owner_alias};
use crate::spec::unit::HASH_VARIABLE;
use crate::spec::{
    FirewallSpec, LinkSpec, Mac, NatsSpec, NetnsSpec, NodeSpec, PeerSpec, TunnelBackend, UnitSpec,
    WireguardSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// What happens to the thing a component lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// It stays; children may be compared with its identity.
    Stays(NsId),
    /// It is recreated: children are too, with that cause.
    Recreated(Component),
    /// It is held: children are held too.
    Held(Component),
}

/// The verdict on something that was seen, with the rule that Foreign and Unknown are always held.
pub fn decide<T>(seen: &Seen<T>, present: impl FnOnce(&T) -> Verdict) -> Verdict {
    match seen {
        Seen::Absent => Verdict::Create,
        Seen::Present(live) => present(live),
        Seen::Foreign(_) | Seen::Unknown(_) => Verdict::Hold(seen.standing()),
    }
}

/// The plan of a whole node, parents first.
pub(super) fn node(spec: &NodeSpec, live: &NodeLive) -> Plan {
    let mut steps = Vec::new();
    let netns = decide(&live.netns, |found| self::netns(&spec.netns, found));
    let in_netns = parent(Component::Netns, &netns, live.netns.present().map(|n| n.id));
    steps.push(Step::new(Component::Netns, netns));

    let mut device_parent = in_netns;
    if let Some(tunnel) = &spec.tunnel {
        // The process itself stays in the host namespace, but its device lives in ours.
        let verdict = cascade(in_netns, &live.tunnel, |found| {
            let verdict = unit(tunnel, &settled(found, in_netns), None);
            with_device(verdict, &spec.wireguard, &live.wireguard, in_netns)
        });
        device_parent = match &verdict {
            Verdict::Hold(_) => Parent::Held(Component::Tunnel),
            Verdict::Create | Verdict::Recreate(_) => Parent::Recreated(Component::Tunnel),
            Verdict::Adopt | Verdict::Converge(_) => in_netns,
        };
        steps.push(Step::new(Component::Tunnel, verdict));
    }
    let wireguard = cascade(device_parent, &live.wireguard, |found| self::wireguard(&spec.wireguard, found));
    let on_wireguard = match &wireguard {
        Verdict::Hold(_) => Parent::Held(Component::Wireguard),
        Verdict::Create | Verdict::Recreate(_) => Parent::Recreated(Component::Wireguard),
        Verdict::Adopt | Verdict::Converge(_) => in_netns,
    };
    steps.push(Step::new(Component::Wireguard, wireguard));

    let link = link_verdict(spec, live, in_netns, on_wireguard);
    steps.push(Step::new(Component::Link, link));

    let wall = cascade_soft(in_netns, &live.firewall, |found| firewall(&spec.firewall, found));
    steps.push(Step::new(Component::Firewall, wall));

    let mut nats = cascade(in_netns, &live.nats, |found| self::nats(&spec.nats, found, in_netns));
    if let (Verdict::Create, Parent::Held(parent)) = (&nats, on_wireguard) {
        // Its address is on the tunnel: made now it would only fail. One that runs needs nothing.
        nats = Verdict::Hold(format!("{parent} is held"));
    }
    steps.push(Step::new(Component::Nats, nats));

    for (component, spec, live) in
        [(Component::Gateway, &spec.gateway, &live.gateway), (Component::Dns, &spec.dns, &live.dns)]
    {
        let verdict = cascade(in_netns, live, |found| sidecar::verdict(spec, found, in_netns));
        let note = live.present().and_then(|found| sidecar::note(spec, found));
        steps.push(Step { note, ..Step::new(component, verdict) });
    }
    for step in steps.iter_mut().filter(|step| step.verdict == Verdict::Adopt) {
        let made_by = made_by(step.component, live).map(identity::made_by_version);
        step.note =
            [made_by, step.note.take()].into_iter().flatten().reduce(|one, other| format!("{one}; {other}"));
    }
    super::ops::plan(spec, live, &mut steps);
    Plan { steps }
}

/// The version of the fingerprint that something carries, where it is not ours.
fn made_by(component: Component, live: &NodeLive) -> Option<&str> {
    match component {
        Component::Tunnel => live.tunnel.present()?.fingerprint.as_deref().and_then(other_version),
        Component::Nats => live.nats.present()?.unit.fingerprint.as_deref().and_then(other_version),
        Component::Gateway => sidecar::made_by(live.gateway.present()?),
        Component::Dns => sidecar::made_by(live.dns.present()?),
        Component::Netns | Component::Wireguard | Component::Link | Component::Firewall => None,
    }
}

/// The namespace: ours and for this network, left by another network of this machine, or not ours.
pub fn netns(spec: &NetnsSpec, live: &NetnsLive) -> Verdict {
    let alias = text(live.alias.as_deref());
    if alias == spec.alias() {
        return Verdict::Adopt;
    }
    match spec.siblings.iter().find(|sibling| alias == owner_alias(sibling)) {
        Some(sibling) => {
            let drift = Drift::new("network", &sibling.to_string(), &spec.network.to_string());
            Verdict::Recreate(Cause::Drift(vec![drift]))
        }
        None => Verdict::Hold(format!("not ours: namespace {} is marked {alias:?}", spec.name)),
    }
}

/// A tunnel process without its device in the namespace that stays has it in one that is gone: whoever made this one died
/// before it came to the tunnel.
fn with_device(
    process: Verdict,
    spec: &WireguardSpec,
    device: &Seen<WireguardLive>,
    in_netns: Parent,
) -> Verdict {
    match (process, device, in_netns) {
        (Verdict::Adopt, Seen::Absent, Parent::Stays(_)) => {
            Verdict::Recreate(Cause::Drift(vec![Drift::new("device", "missing", &spec.name)]))
        }
        (process, ..) => process,
    }
}

/// The tunnel: nearly everything can be changed while it carries traffic.
pub fn wireguard(spec: &WireguardSpec, live: &WireguardLive) -> Verdict {
    let alias = live.alias.as_deref();
    let made_by_our_unit = live.backend == TunnelBackend::Userspace && alias.is_none();
    if !owned_by_us(alias) && !live.is_blank() && !made_by_our_unit {
        return Verdict::Hold(format!("not ours: link {} is marked {:?}", spec.name, text(alias)));
    }
    if live.backend != spec.backend {
        let drift = Drift::new("backend", live.backend.as_str(), spec.backend.as_str());
        return Verdict::Recreate(Cause::Drift(vec![drift]));
    }
    converge(wireguard_drift(spec, live))
}

/// Every configured field of the tunnel that differs.
pub fn wireguard_drift(spec: &WireguardSpec, live: &WireguardLive) -> Vec<Drift> {
    let mut drift = Vec::new();
    differ(&mut drift, "owner", text(live.alias.as_deref()), spec.alias());
    let public = live.public_key.map_or_else(|| "none".to_owned(), |key| key.short());
    differ(&mut drift, "public_key", &public, spec.private_key.public().short());
    differ(&mut drift, "listen_port", live.listen_port, spec.listen_port);
    differ(&mut drift, "mtu", live.mtu, spec.mtu);
    differ(&mut drift, "up", live.up, true);
    differ(&mut drift, "ipv6", switch(live.ipv6), switch(true));
    sets(&mut drift, "addresses", &live.addresses, &spec.addresses);
    if let Some(change) = peer_changes(spec, live) {
        drift.push(Drift::change("peers", change));
    }
    drift
}

fn peer_changes(spec: &WireguardSpec, live: &WireguardLive) -> Option<String> {
    let mut words = Vec::new();
    for (key, want) in &spec.peers {
        match live.peers.get(key) {
            None => words.push(format!("+{}... ({})", key.short(), want.name)),
            Some(have) => {
                if let Some(what) = peer_fields(want, &have.allowed_ips, have.keepalive) {
                    words.push(format!("~{}... ({}) {what}", key.short(), want.name));
                }
            }
        }
    }
    words.extend(
        live.peers.keys().filter(|key| !spec.peers.contains_key(key)).map(|k| format!("-{}...", k.short())),
    );
    const SHOWN: usize = 8;
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    (!words.is_empty()).then(|| words.join(" "))
}

fn peer_fields(want: &PeerSpec, allowed: &BTreeSet<ipnet::IpNet>, keepalive: u16) -> Option<String> {
    let mut words = Vec::new();
    if allowed != &want.allowed_ips {
        words.push("allowed_ips".to_owned());
    }
    if keepalive != want.keepalive {
        words.push(format!("keepalive {keepalive} -> {}", want.keepalive));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

fn link_verdict(spec: &NodeSpec, live: &NodeLive, in_netns: Parent, on_wireguard: Parent) -> Verdict {
    let verdict = match in_netns {
        // Its host half may have survived the namespace, so ownership is proven before anything is replaced.
        Parent::Recreated(parent) => match decide(&live.link, |found| link(&spec.link, found)) {
            hold @ Verdict::Hold(_) => hold,
            Verdict::Create => Verdict::Create,
            _ => Verdict::Recreate(Cause::Parent(parent)),
        },
        _ => cascade(in_netns, &live.link, |found| link(&spec.link, found)),
    };
    // Routes through wg0 die with it.
    match (&verdict, on_wireguard) {
        (Verdict::Adopt, Parent::Recreated(parent)) => {
            Verdict::Converge(vec![Drift::change("routes", format!("{parent} is recreated"))])
        }
        // Its routes lead through wg0: without it there is nothing to set them on.
        (verdict, Parent::Held(parent)) if verdict.writes() => Verdict::Hold(format!("{parent} is held")),
        _ => verdict,
    }
}

/// The links: a half that is missing or not paired with ours needs a new pair; all else is set in place.
pub fn link(spec: &LinkSpec, live: &LinkLive) -> Verdict {
    for (name, kind, end) in [
        (&spec.host_end, "veth", &live.host_end),
        (&spec.bridge, "bridge", &live.bridge),
        (&spec.port_end, "veth", &live.port_end),
    ] {
        if let Some(end) = end
            && !dockers_own(spec, end)
            && let Some(why) = foreign_end(name, kind, end)
        {
            return Verdict::Hold(why);
        }
    }
    let mut drift = Vec::new();
    let mut unpaired = Vec::new();
    match (&live.host_end, &live.netns_end) {
        (None, None) if live.bridge.is_none() && live.port_end.is_none() => return Verdict::Create,
        (Some(host), Some(inside)) if host.paired && inside.paired => {
            end_drift(&mut drift, spec, &spec.host_end, host, &spec.host_addresses);
            end_drift(&mut drift, spec, &spec.netns_end, inside, &spec.netns_addresses);
        }
        (host, inside) => {
            unpaired.push(Drift::new(&spec.host_end, pair_state(host), "paired"));
            unpaired.push(Drift::new(&spec.netns_end, pair_state(inside), "paired"));
        }
    }
    match &live.bridge {
        Some(bridge) => {
            end_drift(&mut drift, spec, &spec.bridge, bridge, &spec.bridge_addresses);
            mac_drift(&mut drift, &spec.bridge, bridge, spec.bridge_mac);
        }
        None => drift.push(Drift::new(&spec.bridge, "missing", "present")),
    }
    port_drift(&mut drift, spec, live);
    if !unpaired.is_empty() {
        unpaired.extend(drift);
        return Verdict::Recreate(Cause::Drift(unpaired));
    }
    let names = |set: &BTreeSet<_>| set.iter().map(route_text).collect::<BTreeSet<String>>();
    sets(&mut drift, "routes", &names(&live.routes), &names(&spec.routes));
    sets(&mut drift, "rules", &live.rules, &spec.rules);
    sysctl_drift(&mut drift, "host:", &live.host_sysctls, &spec.host_sysctls);
    sysctl_drift(&mut drift, "", &live.netns_sysctls, &spec.netns_sysctls);
    converge(drift)
}

fn sysctl_drift(
    drift: &mut Vec<Drift>,
    side: &str,
    live: &BTreeMap<String, String>,
    want: &BTreeMap<String, String>,
) {
    for (name, want) in want {
        differ(drift, &format!("{side}{name}"), live.get(name).map_or("-", |v| v), want);
    }
}

/// The namespace's port of the bridge. Recreating it costs workloads a packet or two, so it counts as a soft drift.
fn port_drift(drift: &mut Vec<Drift>, spec: &LinkSpec, live: &LinkLive) {
    match (&live.port_end, &live.service_end) {
        (Some(port), Some(service)) if port.paired && service.paired => {
            end_drift(drift, spec, &spec.port_end, port, &BTreeSet::new());
            let bridge = format!("{}.bridge", spec.port_end);
            differ(drift, &bridge, text(port.controller.as_deref()), &spec.bridge);
            end_drift(drift, spec, &spec.service_end, service, &spec.service_addresses);
            mac_drift(drift, &spec.service_end, service, spec.service_mac);
        }
        (port, service) => {
            drift.push(Drift::new(&spec.port_end, pair_state(port), "paired"));
            drift.push(Drift::new(&spec.service_end, pair_state(service), "paired"));
        }
    }
}

fn pair_state(end: &Option<EndLive>) -> &'static str {
    if end.is_some() { "unpaired" } else { "missing" }
}

fn mac_drift(drift: &mut Vec<Drift>, name: &str, end: &EndLive, want: Mac) {
    let live = end.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
    differ(drift, &format!("{name}.mac"), live, want);
}

/// Docker that starts before us finds its network without a bridge and makes one: unmarked, with just our address, and
/// with the containers on it.
fn dockers_own(spec: &LinkSpec, end: &EndLive) -> bool {
    let bridge = end.kind.as_deref() == Some("bridge") && end.alias.is_none();
    bridge && !end.addresses.is_empty() && end.addresses == spec.bridge_addresses
}

fn foreign_end(name: &str, kind: &str, end: &EndLive) -> Option<String> {
    let kind_right = end.kind.as_deref() == Some(kind);
    let blank = end.alias.is_none() && (end.paired || (end.addresses.is_empty() && end.ports == 0));
    if kind_right && (owned_by_us(end.alias.as_deref()) || blank) {
        None
    } else {
        let kind = end.kind.as_deref().unwrap_or("hardware");
        Some(format!("not ours: link {name} ({kind}) is marked {:?}", text(end.alias.as_deref())))
    }
}

fn end_drift(
    drift: &mut Vec<Drift>,
    spec: &LinkSpec,
    name: &str,
    end: &EndLive,
    want: &BTreeSet<ipnet::IpNet>,
) {
    differ(drift, &format!("{name}.owner"), text(end.alias.as_deref()), spec.alias());
    differ(drift, &format!("{name}.mtu"), end.mtu, spec.mtu);
    differ(drift, &format!("{name}.up"), end.up, true);
    sets(drift, &format!("{name}.addresses"), &end.addresses, want);
}

fn route_text((side, route): &(crate::spec::Side, crate::spec::RouteSpec)) -> String {
    format!("{side}:{route}")
}

/// The firewall: always set in place, one transaction a table.
pub fn firewall(spec: &FirewallSpec, live: &FirewallLive) -> Verdict {
    if live.host.is_none() && live.netns.is_none() {
        return Verdict::Create;
    }
    let mut drift = Vec::new();
    for (side, want, have) in [("host", &spec.host, &live.host), ("netns", &spec.netns, &live.netns)] {
        match have {
            None => drift.push(Drift::new(side, "missing", "present")),
            Some(have) => drift.extend(table_drift(side, want, have)),
        }
    }
    converge(drift)
}

pub(super) fn table_drift(side: &str, want: &Table, have: &TableLive) -> Vec<Drift> {
    let mut drift = Vec::new();
    let chains = |chains: &[crate::spec::firewall::Chain]| chains.iter().map(|c| c.name.clone()).collect();
    let (names, live_names): (BTreeSet<String>, BTreeSet<String>) =
        (chains(&want.chains), chains(&have.chains));
    sets(&mut drift, &format!("{side}.chains"), &live_names, &names);
    for chain in &want.chains {
        let Some(live) = have.chains.iter().find(|c| c.name == chain.name) else { continue };
        differ(
            &mut drift,
            &format!("{side}.{}.hook", chain.name),
            canonical(&live.hook),
            canonical(&chain.hook),
        );
        let rules = |rules: &[String]| rules.iter().map(|rule| canonical(rule)).collect::<Vec<_>>();
        if rules(&live.rules) != rules(&chain.rules) {
            let (a, b) = (live.rules.len(), chain.rules.len());
            let change = if a == b { "differ".to_owned() } else { format!("{a} -> {b}") };
            drift.push(Drift::change(&format!("{side}.{}.rules", chain.name), change));
        }
    }
    drift
}

/// The form in which two texts of one rule are equal: the elements of an anonymous set in order.
fn canonical(rule: &str) -> String {
    let (Some(open), Some(close)) = (rule.find('{'), rule.rfind('}')) else { return rule.to_owned() };
    if close < open {
        return rule.to_owned();
    }
    let mut elements: Vec<&str> = rule[open + 1..close].split(',').map(str::trim).collect();
    elements.sort_unstable();
    format!("{}{{ {} }}{}", &rule[..open], elements.join(", "), &rule[close + 1..])
}

/// A process: any identity field that differs needs a new one. `netns` is the namespace it must be in.
pub fn unit(spec: &UnitSpec, live: &UnitLive, netns: Option<NsId>) -> Verdict {
    let Some(fingerprint) = &live.fingerprint else {
        return Verdict::Hold(format!("not ours: unit {} carries no {HASH_VARIABLE}", spec.name));
    };
    let mut drift = spec.identity().drift(&live.identity);
    if let (Some(want), Some(have)) = (netns, live.netns)
        && want != have
    {
        differ(&mut drift, "netns", have, want);
    }
    if live.state == ActiveState::Inactive {
        drift.push(Drift::new("state", "stopped", "running"));
    }
    // Another version's hash says nothing: only a named field may recreate. One of our own version that differs
    // although every field read back is equal means that something which cannot be read back was changed.
    let ours = spec.identity().fingerprint();
    if drift.is_empty() && other_version(fingerprint).is_none() && *fingerprint != ours {
        let short = |hash: &str| hash.chars().take(11).collect::<String>();
        drift.push(Drift::new("fingerprint", &short(fingerprint), &short(&ours)));
    }
    if !drift.is_empty() {
        return Verdict::Recreate(Cause::Drift(drift));
    }
    match live.state {
        ActiveState::Changing => Verdict::Hold("is between states; its supervisor is at work".into()),
        _ => Verdict::Adopt,
    }
}

/// A unit that waits for its restart because its namespace is gone cannot succeed: when the namespace is recreated,
/// so is the unit.
pub(super) fn settled(live: &UnitLive, parent: Parent) -> UnitLive {
    let state = match (live.state, parent) {
        (ActiveState::Changing, Parent::Recreated(_)) => ActiveState::Active,
        (state, _) => state,
    };
    UnitLive { state, ..live.clone() }
}

/// The store: the process as any other; users and remotes are reloaded while it runs.
pub fn nats(spec: &NatsSpec, live: &NatsLive, parent: Parent) -> Verdict {
    let netns = match parent {
        Parent::Stays(id) => Some(id),
        _ => None,
    };
    match unit(&spec.unit, &settled(&live.unit, parent), netns) {
        // In a namespace that is recreated no store can be asked, and none needs to be.
        Verdict::Adopt if matches!(parent, Parent::Recreated(_)) => Verdict::Adopt,
        Verdict::Adopt => match &live.loaded {
            None => Verdict::Hold("runs, but does not answer on its monitoring port".into()),
            Some(loaded) if *loaded == spec.revision => Verdict::Adopt,
            Some(loaded) => Verdict::Converge(vec![Drift::new("settings", loaded, &spec.revision)]),
        },
        other => other,
    }
}

fn parent(component: Component, verdict: &Verdict, id: Option<NsId>) -> Parent {
    match (verdict, id) {
        (Verdict::Adopt | Verdict::Converge(_), Some(id)) => Parent::Stays(id),
        (Verdict::Hold(_), _) => Parent::Held(component),
        _ => Parent::Recreated(component),
    }
}

/// Children of a recreated component are recreated; children of a held one are held.
fn cascade<T>(parent: Parent, seen: &Seen<T>, present: impl FnOnce(&T) -> Verdict) -> Verdict {
    match parent {
        Parent::Held(parent) => Verdict::Hold(format!("{parent} is held")),
        Parent::Stays(_) => decide(seen, present),
        Parent::Recreated(parent) => match decide(seen, present) {
            Verdict::Adopt | Verdict::Converge(_) | Verdict::Recreate(_) => {
                Verdict::Recreate(Cause::Parent(parent))
            }
            other => other,
        },
    }
}

/// As [`cascade`] for a component whose host half outlives the parent and which is replaced in one call anyway.
fn cascade_soft<T>(parent: Parent, seen: &Seen<T>, present: impl FnOnce(&T) -> Verdict) -> Verdict {
    match cascade(parent, seen, present) {
        Verdict::Recreate(Cause::Parent(parent)) => {
            Verdict::Converge(vec![Drift::change("table", format!("{parent} is recreated"))])
        }
        other => other,
    }
}

fn converge(drift: Vec<Drift>) -> Verdict {
    if drift.is_empty() { Verdict::Adopt } else { Verdict::Converge(drift) }
}

fn differ(drift: &mut Vec<Drift>, field: &str, live: impl Display, want: impl Display) {
    let (live, want) = (live.to_string(), want.to_string());
    if live != want {
        drift.push(Drift::new(field, &live, &want));
    }
}

fn sets<T: Ord + Display>(drift: &mut Vec<Drift>, field: &str, live: &BTreeSet<T>, want: &BTreeSet<T>) {
    let added = want.difference(live).map(|item| format!("+{item}"));
    let removed = live.difference(want).map(|item| format!("-{item}"));
    let words: Vec<String> = added.chain(removed).collect();
    if !words.is_empty() {
        drift.push(Drift::change(field, words.join(" ")));
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn text(alias: Option<&str>) -> &str {
    alias.unwrap_or("none")
}
