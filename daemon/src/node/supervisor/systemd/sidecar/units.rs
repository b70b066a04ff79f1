//! A sidecar's service and sockets as systemd is asked for them.

use crate::node::supervisor::systemd::{file, properties};
use ployz_core::spec::sidecar::V6_ONLY;
use ployz_core::spec::unit::HASH_VARIABLE;
use ployz_core::spec::{Listen, SidecarSpec, SocketSpec, UnitName, UnitSpec};
use std::collections::BTreeMap;
use zbus_systemd::systemd1::ManagerProxy;
use zbus_systemd::zbus::{OwnedObjectPath, OwnedVariant, Result as BusResult, Variant};

type Assignments = Vec<(String, OwnedVariant)>;

/// Starts a service that is not there, with its own sockets.
pub(super) async fn start(manager: ManagerProxy<'static>, spec: SidecarSpec) -> BusResult<OwnedObjectPath> {
    let (service, sockets) = (service(&spec), spec.sockets.iter().map(socket).collect());
    manager.start_transient_unit(file(&spec.unit.name), "fail".into(), service, sockets).await
}

pub(super) async fn restart(manager: ManagerProxy<'static>, name: UnitName) -> BusResult<OwnedObjectPath> {
    manager.restart_unit(file(&name), "replace".into()).await
}

/// As systemd.exec(5) reads an `EnvironmentFile=`.
pub(super) fn settings_text(unit: &UnitSpec) -> String {
    let mut text =
        String::from("# Written by ployzd from its configuration and this machine's network.json.\n");
    let fingerprint = unit.identity().fingerprint();
    let own = [(HASH_VARIABLE, fingerprint.as_str())];
    let given = unit.environment.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in own.into_iter().chain(given) {
        let mut quoted = String::new();
        for letter in value.chars() {
            if matches!(letter, '"' | '\\' | '`' | '$') {
                quoted.push('\\');
            }
            quoted.push(letter);
        }
        text += &format!("{key}=\"{quoted}\"\n");
    }
    text
}

pub(super) fn service(spec: &SidecarSpec) -> Assignments {
    // The mark in the unit itself is of what cannot change without a new unit.
    let mut assignments = properties(&UnitSpec { environment: BTreeMap::new(), ..spec.unit.clone() });
    assignments.retain(|(name, _)| name != "RestartUSec");
    let sockets: Vec<String> = spec.sockets.iter().map(|socket| format!("{}.socket", socket.name)).collect();
    put(&mut assignments, "Requires", Variant::new(sockets.clone()));
    put(&mut assignments, "After", Variant::new(sockets));
    let settings = vec![(spec.settings.display().to_string(), false)];
    put(&mut assignments, "EnvironmentFiles", Variant::new(settings));
    // What drains outlives its front, and does not keep the next one waiting.
    put(&mut assignments, "KillMode", Variant::new("process"));
    // A client that connects meanwhile waits for it.
    put(&mut assignments, "RestartUSec", Variant::new(RESTART_MICROS));
    assignments
}

pub(super) fn socket(spec: &SocketSpec) -> (String, Assignments) {
    let mut assignments = Vec::new();
    let listen: Vec<(String, String)> = spec.listen.iter().map(|listen| address(*listen)).collect();
    let environment = vec![format!("{HASH_VARIABLE}={}", spec.identity().fingerprint())];
    put(&mut assignments, "Description", Variant::new(format!("Ployz sockets: {}", spec.purpose)));
    put(&mut assignments, "Listen", Variant::new(listen));
    put(&mut assignments, "FileDescriptorName", Variant::new(spec.purpose.clone()));
    if spec.v6_only {
        put(&mut assignments, "BindIPv6Only", Variant::new(V6_ONLY.to_owned()));
    }
    put(&mut assignments, "Environment", Variant::new(environment));
    if let Some(netns) = &spec.netns {
        put(&mut assignments, "NetworkNamespacePath", Variant::new(netns.display().to_string()));
    }
    // The address may come later: the tunnel is made while this starts.
    put(&mut assignments, "FreeBind", Variant::new(true));
    put(&mut assignments, "Backlog", Variant::new(4096u32));
    put(&mut assignments, "ReceiveBuffer", Variant::new(4u64 << 20));
    // However often the process ends under load, its sockets stay.
    put(&mut assignments, "TriggerLimitIntervalUSec", Variant::new(0u64));
    put(&mut assignments, "TriggerLimitBurst", Variant::new(0u32));
    put(&mut assignments, "Slice", Variant::new("ployz.slice"));
    put(&mut assignments, "CollectMode", Variant::new("inactive-or-failed"));
    (format!("{}.socket", spec.name), assignments)
}

pub(super) fn put(assignments: &mut Assignments, name: &str, value: Variant<'_>) {
    let value = value.try_to_owned().expect("plain data holds no file descriptor");
    assignments.push((name.to_owned(), value));
}

pub(super) fn address(listen: Listen) -> (String, String) {
    let kind = match listen {
        Listen::Stream(_) => "Stream",
        Listen::Datagram(_) => "Datagram",
    };
    (kind.to_owned(), listen.address().to_string())
}

/// Long enough not to spin, short enough not to be a time-out of anybody who waits.
const RESTART_MICROS: u64 = 250_000;
