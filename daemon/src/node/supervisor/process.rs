//! Detached processes for machines without systemd (containers, other inits). They outlive ployzd, and the next
//! one finds them by what they carry in their environment: no pid file that could be stale.

mod sidecar;

use crate::node::supervisor::error::{UnitCause, UnitError};
use crate::state::make_dir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ployz_core::adopt::Seen;
use ployz_core::adopt::identity::Identity;
use ployz_core::live::{ActiveState, UnitLive};
use ployz_core::spec::unit::HASH_VARIABLE;
use ployz_core::spec::{UnitName, UnitSpec};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The processes of one data directory.
#[derive(Debug, Clone)]
pub struct Processes {
    instance: PathBuf,
}

impl Processes {
    /// Those of the daemon with this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self { instance: data_dir.to_owned() }
    }

    pub(super) async fn inspect(&self, name: &UnitName) -> Seen<UnitLive> {
        let (hands, unit) = (self.clone(), name.clone());
        let found = tokio::task::spawn_blocking(move || hands.find(&unit));
        match tokio::time::timeout(INSPECT_TIMEOUT, found).await {
            Ok(Ok(Ok(Some(live)))) => Seen::Present(live),
            Ok(Ok(Ok(None))) => Seen::Absent,
            Ok(Ok(Err(error))) => Seen::Unknown(format!("/proc: {error}")),
            Ok(Err(error)) => Seen::Unknown(error.to_string()),
            Err(_) => Seen::Unknown(format!("/proc timed out after {}s", INSPECT_TIMEOUT.as_secs())),
        }
    }

    pub(super) async fn start(&self, spec: &UnitSpec) -> Result<(), UnitError> {
        self.start_with(spec, Vec::new()).await
    }

    /// Starts a unit with variables that are no part of its identity.
    async fn start_with(&self, spec: &UnitSpec, more: Vec<(&'static str, String)>) -> Result<(), UnitError> {
        let (hands, unit) = (self.clone(), spec.clone());
        let fail = |cause| UnitError::new("start", &spec.name, cause);
        let started = tokio::task::spawn_blocking(move || hands.spawn(&unit, more)).await;
        started.map_err(|error| fail(UnitCause::Other(error.to_string())))?.map_err(fail)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Seen::Present(_) = self.inspect(&spec.name).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = self.log(&spec.name);
        Err(fail(UnitCause::Other(format!("it ended at once; see {}", log.display()))))
    }

    pub(super) async fn stop(&self, name: &UnitName) -> Result<(), UnitError> {
        let fail = |cause| UnitError::new("stop", name, cause);
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut signal = Signal::SIGTERM;
        loop {
            let live = match self.inspect(name).await {
                Seen::Absent => return Ok(()),
                Seen::Present(live) => live,
                seen @ (Seen::Foreign(_) | Seen::Unknown(_)) => {
                    return Err(fail(UnitCause::Standing(seen.standing())));
                }
            };
            let _ = kill(Pid::from_raw(live.pid.cast_signed()), signal);
            if Instant::now() > deadline {
                signal = Signal::SIGKILL;
            }
            if Instant::now() > deadline + Duration::from_secs(5) {
                return Err(fail(UnitCause::Other(format!("process {} does not end", live.pid))));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn reload(&self, spec: &UnitSpec) -> Result<(), UnitError> {
        let fail = |cause| UnitError::new("reload", &spec.name, cause);
        let signal = spec.reload_signal.and_then(|number| Signal::try_from(number).ok());
        match (self.inspect(&spec.name).await, signal) {
            (Seen::Present(live), Some(signal)) => {
                let sent = kill(Pid::from_raw(live.pid.cast_signed()), signal);
                sent.map_err(|errno| fail(UnitCause::Io(errno.into())))
            }
            (_, None) => Err(fail(UnitCause::Other("it has no reload signal".into()))),
            (seen, _) => Err(fail(UnitCause::Standing(seen.standing()))),
        }
    }

    fn find(&self, name: &UnitName) -> std::io::Result<Option<UnitLive>> {
        let mark = format!("{MARK}={}", self.mark(name));
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|text| text.parse::<u32>().ok()) else {
                continue;
            };
            // A process that ended meanwhile, or is another user's: not ours.
            let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { continue };
            let variables = strings(&environment);
            if variables.contains(&mark) && !is_zombie(pid) && !is_launcher(pid) {
                return Ok(Some(read_live(pid, &variables)));
            }
        }
        Ok(None)
    }

    fn spawn(&self, spec: &UnitSpec, more: Vec<(&'static str, String)>) -> Result<(), UnitCause> {
        let log = self.log(&spec.name);
        make_dir(log.parent().unwrap_or(&self.instance), 0o700)?;
        let out = OpenOptions::new().create(true).append(true).open(&log)?;
        let err = out.try_clone()?;
        let run = move || {
            // `setsid --fork`: a session of its own and init as its parent, so neither our end nor a closed
            // terminal reaches it.
            Command::new("setsid")
                .arg("--fork")
                .args(&spec.exec)
                .env_clear()
                .envs(&spec.environment)
                .envs(more)
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env(MARK, self.mark(&spec.name))
                .env(HASH_VARIABLE, spec.identity().fingerprint())
                .env(REST, rest(spec))
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .status()
        };
        let status = match &spec.netns {
            Some(netns) => ployz_netns::namespace::inside(netns, run)?,
            None => run(),
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(UnitCause::Other(format!("setsid ended with {status}"))),
            Err(error) => Err(UnitCause::Other(format!("cannot run setsid: {error}"))),
        }
    }

    fn mark(&self, name: &UnitName) -> String {
        format!("{name}@{}", self.instance.display())
    }

    fn log(&self, name: &UnitName) -> PathBuf {
        self.instance.join("log").join(format!("{name}.log"))
    }
}

fn read_live(pid: u32, variables: &[String]) -> UnitLive {
    let mut fields = BTreeMap::new();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    fields.insert("exec".to_owned(), strings(&command).join(" "));
    let mut fingerprint = None;
    for (key, value) in variables.iter().filter_map(|variable| variable.split_once('=')) {
        match key {
            HASH_VARIABLE => fingerprint = Some(value.to_owned()),
            REST => fields.extend(value.split(';').filter_map(|pair| {
                pair.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()))
            })),
            MARK | "PATH" => {}
            _ => {
                fields.insert(format!("env.{key}"), value.to_owned());
            }
        }
    }
    UnitLive {
        identity: Identity::new(fields),
        fingerprint,
        state: ActiveState::Active,
        pid,
        netns: ployz_netns::namespace::id_of_process(pid).ok().flatten(),
    }
}

/// The identity fields that a process does not show by itself.
fn rest(spec: &UnitSpec) -> String {
    let identity = spec.identity();
    let hidden = identity.fields().iter().filter(|(name, _)| *name != "exec" && !name.starts_with("env."));
    hidden.map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(";")
}

fn strings(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|b| *b == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Between `setsid`'s fork and its exec the child still is `setsid`. One that is gone meanwhile was never more, or is no more.
fn is_launcher(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.map_or(true, |name| name.trim() == "setsid")
}

const MARK: &str = "PLOYZ_UNIT";
const REST: &str = "PLOYZ_UNIT_SETTINGS";
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(5);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends what a test started, also when it fails.
    pub(super) struct Cleanup(pub(super) Processes, PathBuf);

    impl Drop for Cleanup {
        fn drop(&mut self) {
            for name in UnitName::ALL {
                if let Ok(Some(live)) = self.0.find(&name) {
                    let _ = kill(Pid::from_raw(live.pid.cast_signed()), Signal::SIGKILL);
                }
            }
            let _ = std::fs::remove_dir_all(&self.1);
        }
    }

    pub(super) fn hands(name: &str) -> Cleanup {
        let dir = std::env::temp_dir().join(format!("ployz-process-{}-{name}", std::process::id()));
        Cleanup(Processes::new(&dir), dir)
    }

    pub(super) fn spec(seconds: u32) -> UnitSpec {
        UnitSpec {
            name: UnitName::NATS,
            description: "a test".into(),
            exec: vec!["/bin/sleep".into(), seconds.to_string()],
            environment: BTreeMap::from([("PLOYZ_TEST".into(), "a=b c".into())]),
            user: None,
            netns: None,
            writable: Vec::new(),
            notifies: false,
            reload_signal: Some(nix::libc::SIGCONT),
            capabilities: Vec::new(),
            stop_seconds: 1,
        }
    }

    #[tokio::test]
    async fn what_was_started_is_adopted_by_the_next_daemon() {
        let first = hands("adopt");
        assert_eq!(first.0.inspect(&UnitName::NATS).await, Seen::Absent);
        first.0.start(&spec(300)).await.unwrap();
        // Another daemon of the same data directory, with nothing but /proc to go by.
        let next = Processes::new(&first.1);
        let Seen::Present(live) = next.inspect(&UnitName::NATS).await else { panic!("not found") };
        assert_eq!(ployz_core::adopt::decide::unit(&spec(300), &live, None).word(), "adopt");
        let other = ployz_core::adopt::decide::unit(&spec(301), &live, None);
        assert_eq!(other.why(), "exec: /bin/sleep 300 -> /bin/sleep 301");
        next.reload(&spec(300)).await.unwrap();
        next.stop(&UnitName::NATS).await.unwrap();
        assert_eq!(next.inspect(&UnitName::NATS).await, Seen::Absent);
        next.stop(&UnitName::NATS).await.unwrap();
    }

    #[tokio::test]
    async fn daemons_with_other_directories_do_not_see_each_others_processes() {
        let (one, two) = (hands("one"), hands("two"));
        one.0.start(&spec(300)).await.unwrap();
        assert_eq!(two.0.inspect(&UnitName::NATS).await, Seen::Absent);
        assert_eq!(one.0.inspect(&UnitName::WIREGUARD).await, Seen::Absent);
    }

    /// One that can be run and ends is there for a moment, in which a start may see it: the run that asked for it looks again.
    #[tokio::test]
    async fn a_program_that_cannot_be_run_is_an_error_that_names_its_log() {
        let hands = hands("ends");
        let broken = UnitSpec { exec: vec!["/nonexistent/program".into()], ..spec(0) };
        let error = ployz_core::text::chain(&hands.0.start(&broken).await.unwrap_err());
        assert!(error.contains("cannot start ployz-nats") && error.contains("ployz-nats.log"), "{error}");
    }
}
