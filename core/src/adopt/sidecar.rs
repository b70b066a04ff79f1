//! The decision on a process with sockets, and how much of it is replaced: the process alone wherever that is enough,
//! because then its sockets go on listening and nothing is refused.

use crate::adopt::decide::{self, Parent, settled};
use crate::adopt::identity::other_version;
use crate::adopt::{Cause, Drift, Verdict};
use crate::live::{ActiveState, NsId, SidecarLive, SocketLive};
use crate::spec::sidecar::is_route_purpose;
use crate::spec::unit::HASH_VARIABLE;
use crate::spec::{SidecarSpec, SocketSpec};

/// What a recreation replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// The process; unit and sockets stay.
    Process,
    /// The process, and with it those sockets that routes ask for or no longer ask for; unit and other sockets stay.
    Routes,
    /// Everything.
    All,
}

/// The verdict on what is there.
pub fn verdict(spec: &SidecarSpec, live: &SidecarLive, parent: Parent) -> Verdict {
    if let Some((name, _)) = live.sockets.iter().find(|(_, socket)| socket.fingerprint.is_none()) {
        return Verdict::Hold(format!("not ours: socket unit {name} carries no {HASH_VARIABLE}"));
    }
    // Where no unit keeps sockets for it, the gateway listens by itself in the host's namespace.
    let netns = match parent {
        Parent::Stays(id) if spec.unit.netns.is_some() => Some(id),
        _ => None,
    };
    let process = live.unit.as_ref().map(|unit| decide::unit(&spec.unit, &settled(unit, parent), netns));
    let mut drift = sockets_drift(spec, live);
    match process {
        None => drift.push(Drift::new("process", "missing", "running")),
        // Not ours, or at work: whatever else differs waits.
        Some(Verdict::Hold(why)) if drift.is_empty() || !is_ours(live) => return Verdict::Hold(why),
        Some(Verdict::Recreate(Cause::Drift(more))) => drift.extend(more),
        Some(_) => {}
    }
    let routes = routes_drift(spec, live);
    match (drift.is_empty(), routes.is_empty()) {
        (true, true) => Verdict::Adopt,
        (true, false) => Verdict::Converge(routes),
        (false, _) => {
            drift.extend(routes);
            Verdict::Recreate(Cause::Drift(drift))
        }
    }
}

/// What is asked for and not there, for a reason that only time or the operator can take away.
pub fn note(spec: &SidecarSpec, live: &SidecarLive) -> Option<String> {
    note_of(spec, live, |_| true)
}

/// The same of some purposes.
pub fn note_of(spec: &SidecarSpec, live: &SidecarLive, which: impl Fn(&str) -> bool) -> Option<String> {
    let refused = spec.routes.refused.iter().chain(&live.refused).filter(|(purpose, _)| which(purpose));
    let words: Vec<String> = refused.map(|(purpose, why)| format!("{purpose}: {why}")).collect();
    (!words.is_empty()).then(|| format!("not listened on: {}", words.join(", ")))
}

/// How much a recreation of what is there must replace. `netns`: the namespace that stays.
pub fn replace(spec: &SidecarSpec, live: Option<&SidecarLive>, netns: Option<NsId>) -> Replace {
    let Some((live, unit)) = live.and_then(|live| Some((live, live.unit.as_ref()?))) else {
        return Replace::All;
    };
    let inside = spec.sockets.iter().any(|socket| socket.netns.is_some());
    // A socket does not tell which namespace it is really in: where its process is elsewhere, so may it be.
    let moved = netns.is_none() || unit.netns != netns;
    let fixed = |field: &str| !field.starts_with("env.");
    let unit_differs = spec.unit.identity().drift(&unit.identity).iter().any(|drift| fixed(&drift.field));
    if spec.sockets.is_empty() || !sockets_drift(spec, live).is_empty() || unit_differs || (inside && moved) {
        return Replace::All;
    }
    if routes_drift(spec, live).is_empty() { Replace::Process } else { Replace::Routes }
}

/// The units of sockets that routes no longer ask for, or that are not what they ask for: they are closed before the
/// process is recreated.
pub fn superfluous(spec: &SidecarSpec, live: &SidecarLive) -> Vec<String> {
    let goes = |name: &str, found: &SocketLive| match spec.routes.wanted.iter().find(|want| want.name == name)
    {
        Some(want) => !socket_drift(want, found).is_empty(),
        None => spec.may_close(name),
    };
    let ours = live.sockets.iter().filter(|(_, found)| found.fingerprint.is_some());
    ours.filter(|(name, found)| goes(name, found)).map(|(name, _)| name.clone()).collect()
}

/// The units of sockets that routes ask for and that are opened, as far as they can be had: those that do not listen, and
/// those that are closed because they are not what is asked for.
pub fn missing(spec: &SidecarSpec, live: &SidecarLive) -> Vec<String> {
    let closed = superfluous(spec, live);
    let listens = |name: &String| {
        let open = live.sockets.get(name).is_some_and(|found| found.state != ActiveState::Inactive);
        open && !closed.contains(name)
    };
    let wanted = spec.routes.wanted.iter().filter(|want| !live.refused.contains_key(&want.purpose));
    wanted.map(|want| want.name.clone()).filter(|name| !listens(name)).collect()
}

/// Whether everything of it that is there carries our mark.
pub fn is_ours(live: &SidecarLive) -> bool {
    live.unit.as_ref().is_none_or(|unit| unit.fingerprint.is_some())
        && live.sockets.values().all(|socket| socket.fingerprint.is_some())
}

/// The version of the fingerprint of any part of it that carries one which is not of ours.
pub fn made_by(live: &SidecarLive) -> Option<&str> {
    let unit = live.unit.as_ref().and_then(|unit| unit.fingerprint.as_deref());
    let sockets = live.sockets.values().filter_map(|socket| socket.fingerprint.as_deref());
    unit.into_iter().chain(sockets).find_map(other_version)
}

fn sockets_drift(spec: &SidecarSpec, live: &SidecarLive) -> Vec<Drift> {
    let mut drift = Vec::new();
    for socket in &spec.sockets {
        match live.sockets.get(&socket.name) {
            None => drift.push(Drift::new(&label(&socket.name), "missing", &addresses(socket))),
            Some(found) => drift.extend(socket_drift(socket, found)),
        }
    }
    let wanted = |name: &str| spec.sockets.iter().any(|socket| socket.name == name) || spec.is_route(name);
    for (name, found) in live.sockets.iter().filter(|(name, _)| !wanted(name)) {
        drift.push(Drift::new(&label(name), listens(found), "-"));
    }
    drift
}

/// Where the sockets of routes differ: units, and what the process has of them.
fn routes_drift(spec: &SidecarSpec, live: &SidecarLive) -> Vec<Drift> {
    let given = |purpose: &str| live.given.as_ref().map(|given| given.contains(purpose));
    let mut drift = Vec::new();
    for socket in &spec.routes.wanted {
        match live.sockets.get(&socket.name) {
            _ if live.refused.contains_key(&socket.purpose) => {}
            None => drift.push(Drift::new(&label(&socket.name), "missing", &addresses(socket))),
            Some(found) => {
                drift.extend(socket_drift(socket, found));
                if given(&socket.purpose) == Some(false) {
                    drift.push(Drift::new(&format!("{}.given", label(&socket.name)), "no", "yes"));
                }
            }
        }
    }
    drift.extend(routes_left(spec, live));
    drift
}

/// Sockets that no route asks for any more. One whose unit is gone listens for as long as the process has it.
fn routes_left(spec: &SidecarSpec, live: &SidecarLive) -> Vec<Drift> {
    let wanted = |name: &str| spec.routes.wanted.iter().any(|socket| socket.name == name);
    let units = live.sockets.iter().filter(|(name, _)| spec.may_close(name) && !wanted(name));
    let mut drift: Vec<Drift> =
        units.map(|(name, found)| Drift::new(&label(name), listens(found), "-")).collect();
    let given = live.given.iter().flatten().filter(|purpose| is_route_purpose(purpose));
    for purpose in given {
        let name = format!("{}-{purpose}", spec.unit.name);
        if spec.may_close(&name) && !wanted(&name) && !live.sockets.contains_key(&name) {
            drift.push(Drift::new(&format!("{}.given", label(&name)), "yes", "-"));
        }
    }
    drift
}

fn socket_drift(spec: &SocketSpec, live: &SocketLive) -> Vec<Drift> {
    let fields = spec.identity().drift(&live.identity).into_iter();
    let mut drift: Vec<Drift> = fields
        .map(|drift| Drift { field: format!("{}.{}", label(&spec.name), drift.field), ..drift })
        .collect();
    if live.state == ActiveState::Inactive {
        drift.push(Drift::new(&format!("{}.state", label(&spec.name)), "closed", "listening"));
    }
    drift
}

fn listens(live: &SocketLive) -> &str {
    live.identity.fields().get("listen").map_or("", String::as_str)
}

fn label(name: &str) -> String {
    format!("{name}.socket")
}

fn addresses(spec: &SocketSpec) -> String {
    spec.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
