//! The decision on a process with sockets, and how much of it is replaced: the process alone wherever that is enough,
//! because then its sockets go on listening and nothing is refused.

use crate::adopt::decide::{self, Parent, settled};
use crate::adopt::identity::other_version;
use crate::adopt::{Cause, Drift, Verdict};
use crate::live::{ActiveState, NsId, SidecarLive, SocketLive};
use crate::spec::unit::HASH_VARIABLE;
use crate::spec::{SidecarSpec, SocketSpec};

/// What a recreation replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// The process; unit and sockets stay.
    Process,
    /// Everything.
    All,
}

/// The verdict on what is there.
pub fn verdict(spec: &SidecarSpec, live: &SidecarLive, parent: Parent) -> Verdict {
    if let Some((name, _)) = live.sockets.iter().find(|(_, socket)| socket.fingerprint.is_none()) {
        return Verdict::Hold(format!("not ours: socket unit {name} carries no {HASH_VARIABLE}"));
    }
    // Where nobody keeps sockets for it, the gateway listens by itself in the host's namespace.
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
    if drift.is_empty() { Verdict::Adopt } else { Verdict::Recreate(Cause::Drift(drift)) }
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
    Replace::Process
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
    let wanted = |name: &str| spec.sockets.iter().any(|socket| socket.name == name);
    for (name, found) in live.sockets.iter().filter(|(name, _)| !wanted(name)) {
        let listens = found.identity.fields().get("listen").map_or("", String::as_str);
        drift.push(Drift::new(&label(name), listens, "-"));
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

fn label(name: &str) -> String {
    format!("{name}.socket")
}

fn addresses(spec: &SocketSpec) -> String {
    spec.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
