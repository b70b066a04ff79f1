//! A service with socket units of its own, all transient.
//!
//! A transient unit cannot be changed, and cannot be made anew while its sockets refer to it. So what an operator may
//! change is in a file that the manager reads at every start of the process (`EnvironmentFile=`), and such a change is a
//! restart: the sockets stay, and what connects meanwhile waits. What a process really has is read from `/proc`.
//!
//! All sockets lead to the one service: `Service=` cannot be said over D-Bus, so a packaged prefix drop-in says it for
//! those that are not named as the service (`ployz-gateway-.socket.d`).

use crate::node::supervisor::error::{UnitCause, UnitError};
use crate::node::supervisor::ports;
use crate::node::supervisor::systemd::{
    NO_SUCH_UNIT, Properties, START_TIMEOUT, STOP_TIMEOUT, Systemd, file, get, is_named, list, properties_of,
    state, text,
};
use crate::state::replace;
use ployz_core::adopt::Seen;
use ployz_core::adopt::identity::Identity;
use ployz_core::adopt::sidecar::Replace;
use ployz_core::live::{SidecarLive, SocketLive, UnitLive};
use ployz_core::spec::sidecar::{V6_ONLY, V6_ONLY_FIELD};
use ployz_core::spec::unit::HASH_VARIABLE;
use ployz_core::spec::{SidecarSpec, UnitName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zbus_systemd::systemd1::ManagerProxy;
use zbus_systemd::zbus::{OwnedObjectPath, Result as BusResult};

mod routes;
mod units;

use routes::Begin;
use units::{restart, settings_text};

impl Systemd {
    pub(in crate::node::supervisor) async fn inspect_sidecar(&self, spec: &SidecarSpec) -> Seen<SidecarLive> {
        let why = match tokio::time::timeout(super::INSPECT_TIMEOUT, self.find_sidecar(spec)).await {
            Ok(Ok(seen)) => return seen,
            Ok(Err(error)) => format!("D-Bus: {error}"),
            Err(_) => {
                format!(
                    "D-Bus timed out after {}s",
                    crate::node::supervisor::systemd::INSPECT_TIMEOUT.as_secs()
                )
            }
        };
        self.forget();
        Seen::Unknown(why)
    }

    /// Starts what is not there, or makes anew as much as `what` says of what is.
    pub(in crate::node::supervisor) async fn put_sidecar(
        &self,
        spec: &SidecarSpec,
        what: Replace,
    ) -> Result<(), UnitError> {
        let name = &spec.unit.name;
        if what == Replace::All {
            self.stop_sidecar(name).await?;
        }
        let written = replace(&spec.settings, settings_text(&spec.unit).as_bytes(), 0o600);
        written.map_err(|error| UnitError::new("start", name, error))?;
        match what {
            Replace::Process => {
                self.run_job("restart", name, START_TIMEOUT, |manager| restart(manager, name.clone())).await
            }
            Replace::Routes => self.put_routes(spec, Begin::Restart).await,
            Replace::All => self.put_routes(spec, Begin::Start).await,
        }
    }

    /// Stops sockets and service, and what still drains of earlier ones: it would keep its namespace alive.
    pub(in crate::node::supervisor) async fn stop_sidecar(&self, name: &UnitName) -> Result<(), UnitError> {
        let bus = |error: zbus_systemd::zbus::Error| UnitError::new("stop", name, error);
        let manager = ManagerProxy::new(&self.bus().await.map_err(bus)?).await.map_err(bus)?;
        for (unit, _) in sockets_of(&manager, name).await.map_err(bus)? {
            self.stop_file(name, unit).await?;
        }
        self.stop(name).await?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match manager.get_unit_processes(file(name)).await {
                Ok(left) if !left.is_empty() => {
                    let _ = manager.kill_unit(file(name), "all".into(), nix::libc::SIGKILL).await;
                }
                Ok(_) => {
                    let _ = manager.reset_failed_unit(file(name)).await;
                }
                Err(_) => {}
            }
            match manager.get_unit(file(name)).await {
                Err(error) if is_named(&error, NO_SUCH_UNIT) => return Ok(()),
                Err(error) => return Err(bus(error)),
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Err(UnitError::new("stop", name, UnitCause::TimedOut(STOP_TIMEOUT)))
    }

    async fn stop_file(&self, name: &UnitName, unit: String) -> Result<(), UnitError> {
        let job = |manager: ManagerProxy<'static>| {
            let unit = unit.clone();
            async move { manager.stop_unit(unit, "replace".into()).await }
        };
        match self.run_job("stop", name, STOP_TIMEOUT, job).await {
            Err(UnitError { cause: UnitCause::NoSuchUnit, .. }) => return Ok(()),
            other => other?,
        }
        if let Ok(bus) = self.bus().await
            && let Ok(manager) = ManagerProxy::new(&bus).await
        {
            let _ = manager.reset_failed_unit(unit).await;
        }
        Ok(())
    }

    async fn find_sidecar(&self, spec: &SidecarSpec) -> BusResult<Seen<SidecarLive>> {
        let (unit, environment) = match self.find(&spec.unit.name).await? {
            Seen::Absent => (None, None),
            Seen::Present(unit) => {
                let environment = environment(&unit);
                (Some(with_real_environment(unit, environment.as_deref(), &spec.settings)), environment)
            }
            Seen::Foreign(owner) => return Ok(Seen::Foreign(owner)),
            Seen::Unknown(why) => return Ok(Seen::Unknown(why)),
        };
        let bus = self.bus().await?;
        let manager = ManagerProxy::new(&bus).await?;
        let mut sockets = BTreeMap::new();
        for (name, path) in sockets_of(&manager, &spec.unit.name).await? {
            let unit = properties_of(&bus, &path, "org.freedesktop.systemd1.Unit").await?;
            let socket = properties_of(&bus, &path, "org.freedesktop.systemd1.Socket").await?;
            let fragment = text(&unit, "FragmentPath");
            if !fragment.starts_with("/run/systemd/transient/") {
                return Ok(Seen::Foreign(format!("unit {name} comes from {fragment:?}")));
            }
            let bare = name.strip_suffix(".socket").unwrap_or(&name).to_owned();
            sockets.insert(bare, socket_live(&unit, &socket));
        }
        let Some(unit) = unit else {
            return Ok(match sockets.is_empty() {
                true => Seen::Absent,
                false => Seen::Present(SidecarLive { sockets, ..SidecarLive::default() }),
            });
        };
        let given = environment.as_deref().and_then(given);
        let live = SidecarLive { given, unit: Some(unit), sockets, ..SidecarLive::default() };
        let mut refused = self.unwilling.of(spec, &live);
        refused.extend(ports::refused(spec, &live));
        Ok(Seen::Present(SidecarLive { refused, ..live }))
    }
}

/// The environment that a unit's process was started with. One that is not its unit's program yet (its namespace is not
/// told then) has another's; one that ends meanwhile is read as empty, or cut short.
fn environment(live: &UnitLive) -> Option<Vec<(String, String)>> {
    let process = live.netns.map(|_| PathBuf::from(format!("/proc/{}", live.pid)))?;
    let read = std::fs::read(process.join("environ")).ok().filter(|read| !read.is_empty())?;
    // The link goes with the memory that was read.
    std::fs::read_link(process.join("exe")).ok()?;
    Some(entries(&read))
}

/// The names of the sockets that a process was started with (sd_listen_fds(3)).
fn given(environment: &[(String, String)]) -> Option<BTreeSet<String>> {
    let (_, names) = environment.iter().find(|(key, _)| key == "LISTEN_FDNAMES")?;
    Some(names.split(':').map(str::to_owned).collect())
}

/// The loaded socket units of a service, ours or not.
async fn sockets_of(
    manager: &ManagerProxy<'_>,
    name: &UnitName,
) -> BusResult<Vec<(String, OwnedObjectPath)>> {
    let patterns = vec![format!("{name}.socket"), format!("{name}-*.socket")];
    let found = manager.list_units_by_patterns(Vec::new(), patterns).await?;
    // Named by a dependency, but not there.
    let there = found.into_iter().filter(|unit| unit.2 != "not-found");
    Ok(there.map(|unit| (unit.0, unit.6)).collect())
}

/// The unit says where its environment is; the process says what it got. One that does not say it will read the file.
fn with_real_environment(
    live: UnitLive,
    environment: Option<&[(String, String)]>,
    settings: &Path,
) -> UnitLive {
    let given = match environment {
        Some(environment) => environment.to_vec(),
        None => settings_entries(&std::fs::read_to_string(settings).unwrap_or_default()),
    };
    let mut fields = live.identity.fields().clone();
    fields.retain(|name, _| !name.starts_with("env."));
    // Without our mark in the unit itself it is somebody else's, whatever its process has.
    let mut fingerprint = live.fingerprint;
    for (key, value) in given {
        match key.as_str() {
            HASH_VARIABLE => fingerprint = fingerprint.map(|_| value),
            _ => {
                fields.insert(format!("env.{key}"), value);
            }
        }
    }
    UnitLive { identity: Identity::new(fields), fingerprint, ..live }
}

fn entries(environment: &[u8]) -> Vec<(String, String)> {
    let variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    variables.filter_map(|entry| entry.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

/// What [`settings_text`] wrote.
fn settings_entries(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = lines.filter_map(|line| {
        let (key, value) = line.split_once("=\"")?;
        let mut letters = value.strip_suffix('"')?.chars();
        let mut plain = String::new();
        while let Some(letter) = letters.next() {
            plain.push(if letter == '\\' { letters.next()? } else { letter });
        }
        Some((key.to_owned(), plain))
    });
    read.collect()
}

fn socket_live(unit: &Properties, socket: &Properties) -> SocketLive {
    let listen: Vec<(String, String)> = get(socket, "Listen").unwrap_or_default();
    let listen = listen.into_iter().map(|(kind, address)| {
        let address = address.parse().map_or(address, |parsed: std::net::SocketAddr| parsed.to_string());
        format!("{}:{address}", kind.to_ascii_lowercase())
    });
    let netns = text(socket, "NetworkNamespacePath");
    let mut fields = BTreeMap::from([
        ("listen".to_owned(), listen.collect::<Vec<_>>().join(" ")),
        ("netns".to_owned(), if netns.is_empty() { "host".to_owned() } else { netns }),
        ("purpose".to_owned(), text(socket, "FileDescriptorName")),
    ]);
    // What leaves it to the kernel (`default`) is every other socket of ours.
    if text(socket, "BindIPv6Only") == V6_ONLY {
        fields.insert(V6_ONLY_FIELD.to_owned(), V6_ONLY.to_owned());
    }
    let environment = list(socket, "Environment");
    let mark = environment.iter().find_map(|entry| entry.strip_prefix(HASH_VARIABLE)?.strip_prefix('='));
    let (identity, fingerprint) = (Identity::new(fields), mark.map(str::to_owned));
    SocketLive { identity, fingerprint, state: state(unit) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::spec::UnitSpec;

    #[test]
    fn settings_are_read_back_as_they_were_written() {
        let unit = UnitSpec {
            name: UnitName::DNS,
            description: String::new(),
            exec: vec!["/bin/true".into()],
            environment: BTreeMap::from([
                ("PLOYZ_A".to_owned(), "plain 1,2".to_owned()),
                ("PLOYZ_B".to_owned(), "a\"b\\c$d`e'f".to_owned()),
            ]),
            user: None,
            netns: None,
            writable: Vec::new(),
            notifies: true,
            reload_signal: None,
            capabilities: Vec::new(),
            stop_seconds: 1,
        };
        let read: BTreeMap<String, String> = settings_entries(&settings_text(&unit)).into_iter().collect();
        assert_eq!(read.get(HASH_VARIABLE), Some(&unit.identity().fingerprint()));
        assert!(unit.environment.iter().all(|(key, value)| read.get(key) == Some(value)), "{read:?}");
    }
}
