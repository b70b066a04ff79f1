//! Transient units over D-Bus. The only module that knows zbus.
//!
//! Identity is read back from the unit's properties and from `/proc` of its main process; a proxy is never kept,
//! because zbus caches properties for a proxy's life.

mod sidecar;
mod unwilling;

use crate::node::supervisor::error::{UnitCause, UnitError};
use futures_util::StreamExt;
use futures_util::future::join_all;
use ployz_core::adopt::Seen;
use ployz_core::adopt::identity::Identity;
use ployz_core::live::{ActiveState, UnitLive};
use ployz_core::spec::unit::HASH_VARIABLE;
use ployz_core::spec::{UnitName, UnitSpec};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use zbus_systemd::systemd1::ManagerProxy;
use zbus_systemd::zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

/// The system manager. Its bus is connected to when it is needed, and anew after it failed: a bus that hangs or
/// restarts must not keep the daemon from starting and saying so.
#[derive(Clone, Default)]
pub struct Systemd {
    bus: Arc<Mutex<Option<Connection>>>,
    unwilling: unwilling::Unwilling,
}

type Properties = HashMap<String, OwnedVariant>;
type ExecTuple = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

impl Systemd {
    /// Whether systemd is PID 1 here.
    pub fn is_init() -> bool {
        std::path::Path::new("/run/systemd/system").is_dir()
    }

    async fn bus(&self) -> zbus_systemd::zbus::Result<Connection> {
        let mut bus = self.bus.lock().await;
        match &*bus {
            Some(open) => Ok(open.clone()),
            None => Ok(bus.insert(Connection::system().await?).clone()),
        }
    }

    /// After a failure the next call connects anew.
    fn forget(&self) {
        // While somebody else connects there is nothing to forget.
        if let Ok(mut bus) = self.bus.try_lock() {
            *bus = None;
        }
    }

    pub(super) async fn inspect(&self, name: &UnitName) -> Seen<UnitLive> {
        let why = match tokio::time::timeout(INSPECT_TIMEOUT, self.find(name)).await {
            Ok(Ok(seen)) => return seen,
            Ok(Err(error)) => format!("D-Bus: {error}"),
            Err(_) => format!("D-Bus timed out after {}s", INSPECT_TIMEOUT.as_secs()),
        };
        self.forget();
        Seen::Unknown(why)
    }

    /// What a unit's process tells the manager about itself; `None` when it says nothing or cannot be asked. The manager keeps
    /// the words of one that does not run any more.
    pub async fn status_text(&self, name: &UnitName) -> Option<String> {
        let ask = async {
            let bus = self.bus().await.ok()?;
            let path = ManagerProxy::new(&bus).await.ok()?.get_unit(file(name)).await.ok()?;
            let unit = properties_of(&bus, &path, "org.freedesktop.systemd1.Unit").await.ok()?;
            let service = properties_of(&bus, &path, "org.freedesktop.systemd1.Service").await.ok()?;
            let said = Some(text(&service, "StatusText")).filter(|said| !said.is_empty());
            said.filter(|_| state(&unit) != ActiveState::Inactive)
        };
        tokio::time::timeout(INSPECT_TIMEOUT, ask).await.ok().flatten()
    }

    async fn find(&self, name: &UnitName) -> zbus_systemd::zbus::Result<Seen<UnitLive>> {
        let bus = self.bus().await?;
        let manager = ManagerProxy::new(&bus).await?;
        let path = match manager.get_unit(file(name)).await {
            Ok(path) => path,
            Err(error) if is_named(&error, NO_SUCH_UNIT) => return Ok(Seen::Absent),
            Err(error) => return Err(error),
        };
        let unit = properties_of(&bus, &path, "org.freedesktop.systemd1.Unit").await?;
        let service = properties_of(&bus, &path, "org.freedesktop.systemd1.Service").await?;
        if text(&unit, "LoadState") == "not-found" && text(&unit, "ActiveState") == "inactive" {
            return Ok(Seen::Absent);
        }
        let fragment = text(&unit, "FragmentPath");
        if !fragment.starts_with("/run/systemd/transient/") {
            return Ok(Seen::Foreign(format!("unit {} comes from {fragment:?}", file(name))));
        }
        Ok(Seen::Present(live(&unit, &service)))
    }

    pub(super) async fn start(&self, spec: &UnitSpec) -> Result<(), UnitError> {
        let properties = properties(spec);
        let job = |manager: ManagerProxy<'static>| async move {
            manager.start_transient_unit(file(&spec.name), "fail".into(), properties, Vec::new()).await
        };
        self.run_job("start", &spec.name, START_TIMEOUT, job).await
    }

    pub(super) async fn stop(&self, name: &UnitName) -> Result<(), UnitError> {
        let job = |manager: ManagerProxy<'static>| async move {
            manager.stop_unit(file(name), "replace".into()).await
        };
        match self.run_job("stop", name, STOP_TIMEOUT, job).await {
            Err(UnitError { cause: UnitCause::NoSuchUnit, .. }) => return Ok(()),
            other => other?,
        }
        // A failed unit stays loaded until it is reset; `CollectMode` unloads it then.
        if let Ok(bus) = self.bus().await
            && let Ok(manager) = ManagerProxy::new(&bus).await
        {
            let _ = manager.reset_failed_unit(file(name)).await;
        }
        Ok(())
    }

    pub(super) async fn reload(&self, spec: &UnitSpec) -> Result<(), UnitError> {
        let job = |manager: ManagerProxy<'static>| async move {
            manager.reload_unit(file(&spec.name), "replace".into()).await
        };
        self.run_job("reload", &spec.name, START_TIMEOUT, job).await
    }

    /// Starts a job and waits for its end.
    async fn run_job<F>(
        &self,
        operation: &'static str,
        name: &UnitName,
        limit: Duration,
        start: impl FnOnce(ManagerProxy<'static>) -> F,
    ) -> Result<(), UnitError>
    where
        F: Future<Output = zbus_systemd::zbus::Result<OwnedObjectPath>>,
    {
        let ended = self.run_jobs(operation, name, limit, |manager| vec![start(manager)]).await?;
        let fail = |cause| UnitError::new(operation, name, cause);
        ended.into_iter().try_for_each(|result: Result<(), UnitCause>| result.map_err(fail))
    }

    /// Starts jobs in one breath, so that the manager knows all of them before it begins with the first, and waits for
    /// the end of each. The signal is subscribed to before a job can end.
    async fn run_jobs<F>(
        &self,
        operation: &'static str,
        name: &UnitName,
        limit: Duration,
        start: impl FnOnce(ManagerProxy<'static>) -> Vec<F>,
    ) -> Result<Vec<Result<(), UnitCause>>, UnitError>
    where
        F: Future<Output = zbus_systemd::zbus::Result<OwnedObjectPath>>,
    {
        let work = async {
            let bus = self.bus().await?;
            let manager = ManagerProxy::new(&bus).await?;
            match manager.subscribe().await {
                Err(error) if !is_named(&error, "org.freedesktop.systemd1.AlreadySubscribed") => {
                    return Err(error.into());
                }
                _ => {}
            }
            let mut ended = manager.receive_job_removed().await?;
            let mut asking = pin!(join_all(start(manager.clone())));
            let mut jobs: Option<Vec<_>> = None;
            let mut results: HashMap<String, String> = HashMap::new();
            loop {
                if let Some(jobs) = &jobs
                    && let Some(all) = ends(jobs, &results, name)
                {
                    return Ok(all);
                }
                // Cancel-safe: an answer or a signal that is not taken now stays where it is.
                tokio::select! {
                    asked = &mut asking, if jobs.is_none() => jobs = Some(asked),
                    signal = ended.next() => {
                        let Some(signal) = signal else { return Err(UnitCause::Other("the bus connection ended".into())) };
                        if let Ok(arguments) = signal.args() {
                            results.insert(arguments.job.to_string(), arguments.result);
                        }
                    }
                }
            }
        };
        let ended = tokio::time::timeout(limit, work).await.unwrap_or(Err(UnitCause::TimedOut(limit)));
        ended.map_err(|cause| UnitError::new(operation, name, cause))
    }
}

/// How each job ended; `None` while one has not.
fn ends(
    jobs: &[zbus_systemd::zbus::Result<OwnedObjectPath>],
    results: &HashMap<String, String>,
    name: &UnitName,
) -> Option<Vec<Result<(), UnitCause>>> {
    let end = |job: &zbus_systemd::zbus::Result<OwnedObjectPath>| match job {
        Err(error) => Some(Err(error.clone().into())),
        Ok(job) => results.get(job.as_str()).map(|result| match result.as_str() {
            "done" => Ok(()),
            other => Err(UnitCause::Job { result: other.to_owned(), unit: name.clone() }),
        }),
    };
    jobs.iter().map(end).collect()
}

async fn properties_of(
    bus: &Connection,
    path: &OwnedObjectPath,
    interface: &str,
) -> zbus_systemd::zbus::Result<Properties> {
    let service = Some("org.freedesktop.systemd1");
    let reply = bus
        .call_method(service, path, Some("org.freedesktop.DBus.Properties"), "GetAll", &(interface,))
        .await?;
    reply.body().deserialize()
}

fn live(unit: &Properties, service: &Properties) -> UnitLive {
    let mut fields = BTreeMap::new();
    let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value);
    put("exec", exec(service, "ExecStart").first().map_or_else(String::new, |command| command.1.join(" ")));
    let mut fingerprint = None;
    for entry in list(service, "Environment") {
        match entry.split_once('=') {
            Some((HASH_VARIABLE, value)) => fingerprint = Some(value.to_owned()),
            Some((key, value)) => {
                put(&format!("env.{key}"), value.to_owned());
            }
            None => {}
        }
    }
    let or = |value: String, default: &str| if value.is_empty() { default.to_owned() } else { value };
    put("user", or(text(service, "User"), "root"));
    put("netns", or(text(service, "NetworkNamespacePath"), "host"));
    put("writable", list(service, "ReadWritePaths").join(" "));
    put("notifies", (text(service, "Type") == "notify").to_string());
    let reload = exec(service, "ExecReload");
    let signal = reload.first().and_then(|command| command.1.get(1)?.strip_prefix('-').map(str::to_owned));
    put("reload_signal", signal.unwrap_or_else(|| "none".into()));
    put("capabilities", capability_names(get(service, "CapabilityBoundingSet").unwrap_or(u64::MAX)));
    let pid: u32 = get(service, "MainPID").unwrap_or(0);
    let state = state(unit);
    // Between fork and exec a new main process is still in the host's namespace: that says nothing about the unit.
    let netns = runs(pid, exec(service, "ExecStart").first())
        .then(|| ployz_netns::namespace::id_of_process(pid).ok().flatten())
        .flatten();
    UnitLive { identity: Identity::new(fields), fingerprint, state, pid, netns }
}

/// A unit that is down, but has a job, is being started: in the middle of a restart it is down for a moment.
fn state(unit: &Properties) -> ActiveState {
    let job = get(unit, "Job").map_or(0, |(id, _): (u32, OwnedObjectPath)| id);
    match text(unit, "ActiveState").as_str() {
        "active" | "reloading" => ActiveState::Active,
        "activating" | "deactivating" => ActiveState::Changing,
        _ if job != 0 => ActiveState::Changing,
        _ => ActiveState::Inactive,
    }
}

fn properties(spec: &UnitSpec) -> Vec<(String, OwnedVariant)> {
    let mut list: Vec<(String, OwnedVariant)> = Vec::new();
    let mut put = |name: &str, value: Variant<'_>| {
        let value = value.try_to_owned().expect("plain data holds no file descriptor");
        list.push((name.to_owned(), value));
    };
    let mut environment = vec![format!("{HASH_VARIABLE}={}", spec.identity().fingerprint())];
    environment.extend(spec.environment.iter().map(|(key, value)| format!("{key}={value}")));
    let program = spec.exec.first().cloned().unwrap_or_default();
    put("Description", Variant::new(spec.description.clone()));
    put("Type", Variant::new(if spec.notifies { "notify" } else { "exec" }));
    put("ExecStart", Variant::new(vec![(program, spec.exec.clone(), false)]));
    if let Some(signal) = spec.reload_signal {
        let kill = "/bin/kill".to_owned();
        let arguments = vec![kill.clone(), format!("-{signal}"), "$MAINPID".to_owned()];
        put("ExecReload", Variant::new(vec![(kill, arguments, false)]));
    }
    put("Environment", Variant::new(environment));
    if let Some(user) = &spec.user {
        put("User", Variant::new(user.clone()));
    }
    if let Some(netns) = &spec.netns {
        put("NetworkNamespacePath", Variant::new(netns.display().to_string()));
    }
    let writable: Vec<String> = spec.writable.iter().map(|path| path.display().to_string()).collect();
    put("ReadWritePaths", Variant::new(writable));
    let mask = capability_mask(&spec.capabilities);
    put("CapabilityBoundingSet", Variant::new(mask));
    put("AmbientCapabilities", Variant::new(if spec.user.is_some() { mask } else { 0 }));
    put("Slice", Variant::new("ployz.slice"));
    put("Restart", Variant::new("always"));
    put("RestartUSec", Variant::new(1_000_000u64));
    // It never gives up: a namespace that is gone for a while must not leave a unit dead for good.
    put("StartLimitIntervalUSec", Variant::new(0u64));
    put("TimeoutStopUSec", Variant::new(spec.stop_seconds * 1_000_000));
    put("LimitNOFILE", Variant::new(65_536u64));
    put("OOMScoreAdjust", Variant::new(-500i32));
    put("CollectMode", Variant::new("inactive-or-failed"));
    list
}

/// Whether a process is its unit's program already. An upgrade may have replaced the file since.
fn runs(pid: u32, command: Option<&ExecTuple>) -> bool {
    let (Some(command), Ok(running)) = (command, std::fs::read_link(format!("/proc/{pid}/exe"))) else {
        return false;
    };
    let program = std::fs::canonicalize(&command.0).unwrap_or_else(|_| command.0.clone().into());
    let running = running.to_string_lossy();
    Path::new(running.strip_suffix(" (deleted)").unwrap_or(&running)) == program
}

fn exec(properties: &Properties, name: &str) -> Vec<ExecTuple> {
    get(properties, name).unwrap_or_default()
}

fn list(properties: &Properties, name: &str) -> Vec<String> {
    get(properties, name).unwrap_or_default()
}

fn text(properties: &Properties, name: &str) -> String {
    get(properties, name).unwrap_or_default()
}

fn get<T: TryFrom<OwnedVariant>>(properties: &Properties, name: &str) -> Option<T> {
    properties.get(name).and_then(|value| T::try_from(value.clone()).ok())
}

fn file(name: &UnitName) -> String {
    format!("{name}.service")
}

fn is_named(error: &zbus_systemd::zbus::Error, name: &str) -> bool {
    matches!(error, zbus_systemd::zbus::Error::MethodError(found, ..) if found.as_str() == name)
}

impl From<zbus_systemd::zbus::Error> for UnitCause {
    fn from(error: zbus_systemd::zbus::Error) -> Self {
        if is_named(&error, NO_SUCH_UNIT) { Self::NoSuchUnit } else { Self::Bus(Box::new(error)) }
    }
}

fn capability_mask(names: &[&str]) -> u64 {
    CAPABILITIES.iter().filter(|(name, _)| names.contains(name)).map(|(_, bit)| 1u64 << bit).sum()
}

fn capability_names(mask: u64) -> String {
    let known =
        CAPABILITIES.iter().filter(|(_, bit)| mask & (1 << bit) != 0).map(|(name, _)| (*name).to_owned());
    let rest = mask & !CAPABILITIES.iter().map(|(_, bit)| 1u64 << bit).sum::<u64>();
    let mut names: Vec<String> = known.collect();
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names.join(" ")
}

/// The capabilities our units use, with their numbers (linux/capability.h), in alphabetical order.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_DAC_OVERRIDE", 1), ("CAP_NET_ADMIN", 12), ("CAP_NET_BIND_SERVICE", 10), ("CAP_SYS_ADMIN", 21)];
/// How the manager names the error of a unit that is not loaded (org.freedesktop.systemd1(5)).
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use zbus_systemd::zbus::names::OwnedErrorName;
    use zbus_systemd::zbus::{Error, Message};

    fn answered(name: &str) -> Error {
        let call = Message::method_call("/", "GetUnit").build(&()).unwrap();
        let name = OwnedErrorName::try_from(name).unwrap();
        Error::MethodError(name, Some("NoSuchUnit: x.service not loaded.".into()), call)
    }

    #[test]
    fn a_unit_that_is_not_loaded_is_a_cause_of_its_own() {
        assert!(matches!(UnitCause::from(answered(NO_SUCH_UNIT)), UnitCause::NoSuchUnit));
        let other = answered("org.freedesktop.systemd1.TransactionIsDestructive");
        assert!(matches!(UnitCause::from(other), UnitCause::Bus(_)), "words are not looked at");
    }
}
