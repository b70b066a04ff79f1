//! Docker Engine, one method a need, each with a deadline. What is said to it goes through `engine`; bollard does not show.
//!
//! Whatever changes a container first reads it and proves by its labels that it is this network's; the change then
//! goes to the id that was read, so a name that moves on in between is harmless.

use crate::engine::Engine;
use crate::error::{DockerError, Result};
use crate::slot::Slot;
use crate::{body, read};
use bollard::container::LogOutput;
use bollard::models::EventMessage;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use ployz_core::adopt::Seen;
use ployz_core::id::NetworkId;
use ployz_core::live::ContainerLive;
use ployz_core::live::container::owner;
use ployz_core::spec::ContainerSpec;
use ployz_core::spec::container::{BRIDGE, ContainerOwner, container_name, label};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An engine that answered, and the network whose containers are ours.
#[derive(Clone)]
pub struct Docker {
    pub(super) api: Engine,
    pub(super) network: NetworkId,
    version: String,
    platform: Option<String>,
}

/// Which lines of a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogRange {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
    /// Only lines since then; Unix seconds.
    pub since: Option<i32>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// A piece of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Whether it went to standard error.
    pub error: bool,
    /// As it was written.
    pub text: Bytes,
}

/// The containers of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// By name.
    pub live: Vec<ContainerLive>,
    /// Those that are there and of which no more is known.
    pub silent: Vec<Silent>,
}

/// A container that the engine lists and does not inspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// Docker's id.
    pub id: String,
    /// Whose it is.
    pub owner: Option<ContainerOwner>,
    /// What the inspection said.
    pub why: String,
}

/// Something happened to a container of ours, or to the network they are attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// To what.
    pub subject: Subject,
    /// Docker's word: `start`, `die`, `destroy` and so on.
    pub action: String,
    /// Docker's id of it.
    pub id: String,
}

/// What events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A container of ours.
    Container,
    /// The Docker network on the workload bridge.
    Network,
}

impl Docker {
    /// Connects, agrees on a version of the API and waits for an answer to a ping.
    pub async fn connect(path: &Path, network: &NetworkId) -> Result<Self> {
        let socket = path.display().to_string();
        let unavailable = |detail: String| DockerError::Unavailable { socket: socket.clone(), detail };
        let hello = async {
            let api = Engine::connect(path, REQUEST_TIMEOUT).await?;
            api.ping().await?;
            let version = api.version().await?;
            let platform =
                version.os.zip(version.arch).map(|(system, processor)| format!("{system}/{processor}"));
            Ok::<_, bollard::errors::Error>((api, version.version.unwrap_or_default(), platform))
        };
        match tokio::time::timeout(PING_TIMEOUT, hello).await {
            Ok(Ok((api, version, platform))) => Ok(Self { api, network: network.clone(), version, platform }),
            Ok(Err(error)) => Err(unavailable(ployz_core::text::chain(&error))),
            Err(_) => Err(unavailable(format!("no answer within {}s", PING_TIMEOUT.as_secs()))),
        }
    }

    /// The engine's version, for whoever reads `status`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What it runs, as `linux/amd64`; `None` = it does not say.
    pub fn platform(&self) -> Option<&str> {
        self.platform.as_deref()
    }

    /// Where it keeps images and containers.
    pub async fn root(&self) -> Result<Option<PathBuf>> {
        let found = limited("ask", "Docker", LIST_TIMEOUT, self.api.info()).await?;
        Ok(found.docker_root_dir.map(PathBuf::from))
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<()> {
        limited("ping", "Docker", PING_TIMEOUT, self.api.ping()).await.map(drop)
    }

    /// The containers of this network, running or not, all of them or an error. One that ends meanwhile is left out.
    pub async fn list(&self) -> Result<Vec<ContainerLive>> {
        let found = self.survey().await?;
        match found.silent.into_iter().next() {
            None => Ok(found.live),
            Some(Silent { why: detail, .. }) => {
                let subject = "containers".to_owned();
                Err(DockerError::Odd { operation: "list", subject, detail })
            }
        }
    }

    /// The same, with those apart of which the engine does not say what they are: one that is slow to inspect hides no
    /// other.
    pub async fn survey(&self) -> Result<Survey> {
        let filter = HashMap::from([("label", vec![self.own_label()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
        let found = limited("list", "containers", LIST_TIMEOUT, self.api.list_containers(options)).await?;
        let inspections = stream::iter(found).map(|summary| async move {
            let id = summary.id.unwrap_or_default();
            let seen = self.inspect(&id).await;
            (id, summary.labels.unwrap_or_default(), seen)
        });
        let all: Vec<_> = inspections.buffer_unordered(AT_ONCE).collect().await;
        let mut found = Survey::default();
        for (id, labels, seen) in all {
            match seen {
                Seen::Present(live) => found.live.push(live),
                Seen::Absent | Seen::Foreign(_) => {}
                Seen::Unknown(why) => {
                    let owner = owner(|name| labels.get(name).map(String::as_str));
                    found.silent.push(Silent { id, owner, why });
                }
            }
        }
        found.live.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// What is behind an id or a name.
    pub async fn inspect(&self, id: &str) -> Seen<ContainerLive> {
        self.look(id).await.unwrap_or_else(|error| Seen::Unknown(ployz_core::text::chain(&error)))
    }

    /// The same; what keeps the engine from an answer is an error.
    async fn look(&self, id: &str) -> Result<Seen<ContainerLive>> {
        let found =
            limited("inspect", id, INSPECT_TIMEOUT, self.api.inspect_container(Slot::object(id)?)).await;
        match found.map(read::container) {
            Ok(live) => match self.foreign(&live) {
                None => Ok(Seen::Present(live)),
                Some(why) => Ok(Seen::Foreign(why)),
            },
            Err(DockerError::Missing { .. }) => Ok(Seen::Absent),
            Err(error) => Err(error),
        }
    }

    /// What is behind the name of an instance.
    pub async fn instance(&self, spec: &ContainerSpec) -> Seen<ContainerLive> {
        self.inspect(&container_name(&spec.owner.namespace, &spec.owner.instance)).await
    }

    /// Makes a container, which does not run yet; returns Docker's id. Its name must be free and its network there.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String> {
        let (name, mut wish) = (spec.name(), body::create(spec));
        if let Some(wanted) = &spec.image_id {
            let subject = spec.image.to_string();
            match self.held(&spec.image).await? {
                None => return Err(DockerError::missing("create container from", subject)),
                Some(image) if image.facts.id.as_str() != wanted => {
                    let detail = format!("the image is now {}, not {wanted}", image.facts.id);
                    return Err(DockerError::Odd { operation: "create container from", subject, detail });
                }
                Some(image) => wish.image = Some(image.name),
            }
        }
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = self.api.create_container(options, wish);
        limited("create container", &name, CHANGE_TIMEOUT, made).await.map(|made| made.id)
    }

    /// Starts a container of ours; one that runs is left as it is.
    pub async fn start(&self, id: &str) -> Result<()> {
        let id = self.own("start", id).await?.id;
        limited("start container", &id, CHANGE_TIMEOUT, self.api.start_container(Slot::object(&id)?)).await
    }

    /// Stops a container of ours; after `grace` it is killed. One that does not run is left as it is. Docker does not
    /// start it again by itself.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let id = self.own("stop", id).await?.id;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let limit = grace.saturating_add(CHANGE_TIMEOUT);
        let work = self.api.stop_container(Slot::object(&id)?, options, limit);
        limited("stop container", &id, limit, work).await
    }

    /// Removes a container of ours with its anonymous volumes, stopped or not; one that is not there is no error.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let id = match self.own("remove", id).await {
            Ok(live) => live.id,
            Err(DockerError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let work = self.api.remove_container(Slot::object(&id)?, options);
        match limited("remove container", &id, CHANGE_TIMEOUT, work).await {
            Err(DockerError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    /// The output of a container of ours.
    pub async fn logs(
        &self,
        id: &str,
        range: LogRange,
    ) -> Result<impl Stream<Item = Result<LogPiece>> + use<>> {
        let id = self.own("read the log of", id).await?.id;
        let tail = range.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(range.follow)
            .timestamps(range.timestamps)
            .tail(&tail)
            .since(range.since.unwrap_or(0))
            .build();
        let pieces = self.api.logs(Slot::object(&id)?, options);
        Ok(pieces.map_ok(piece).map_err(move |error| DockerError::of("read the log of", &id, error)))
    }

    /// Prepares a command in a container of ours; returns the engine's id of it.
    pub async fn command(&self, id: &str, command: &[String]) -> Result<String> {
        let id = self.own("run a command in", id).await?.id;
        let config = bollard::models::ExecConfig {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let made = self.api.create_exec(Slot::object(&id)?, config);
        limited("run a command in", &id, INSPECT_TIMEOUT, made).await.map(|made| made.id)
    }

    /// Runs a command that was prepared; returns its exit code. One that takes longer goes on: the engine has no way to
    /// end it.
    pub async fn run(&self, command: &str, limit: Duration) -> Result<i64> {
        let command = Slot::object(command)?;
        let work = async {
            if let bollard::exec::StartExecResults::Attached { mut output, .. } =
                self.api.start_exec(command).await?
            {
                // Its end is the command's end; what it says is nobody's.
                while let Some(said) = output.next().await {
                    said?;
                }
            }
            Ok(self.api.inspect_exec(command).await?.exit_code.unwrap_or(-1))
        };
        limited("run", "a command", limit, work).await
    }

    /// Whether a command is still running.
    pub async fn goes_on(&self, command: &str) -> Result<bool> {
        let work = self.api.inspect_exec(Slot::object(command)?);
        match limited("inspect", "a command", INSPECT_TIMEOUT, work).await {
            Ok(found) => Ok(found.running.unwrap_or(true)),
            Err(DockerError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What happens to containers of this network and to the Docker network, from `since` (Unix seconds) on: Docker remembers
    /// the last 256 events. The subscriptions are made when the stream is first polled, so without that moment something
    /// would be missed. Ends when the engine does; then everything is to be looked at again.
    ///
    /// Images and volumes are not watched: nothing here is remembered of them.
    pub fn events(&self, since: u64) -> impl Stream<Item = Result<Event>> + Send + use<> {
        let containers = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![self.own_label()]),
            ("event", EVENTS.map(str::to_owned).to_vec()),
        ]);
        // Events of networks carry no labels.
        let network = HashMap::from([
            ("type", vec!["network".to_owned()]),
            ("network", vec![BRIDGE.to_owned()]),
            ("event", NETWORK_EVENTS.map(str::to_owned).to_vec()),
        ]);
        let subscribe = |filters, subject: Subject| {
            let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(filters).build();
            let all = self.api.events(options).map_ok(move |message| event(subject, message));
            let all = all.map_err(|error| DockerError::of("watch", "containers", error));
            all.map(Some).chain(stream::iter([None])).boxed()
        };
        let both =
            stream::select(subscribe(&containers, Subject::Container), subscribe(&network, Subject::Network));
        // One that ended alone would leave the other to be taken for all there is.
        both.take_while(|event| future::ready(event.is_some())).filter_map(future::ready)
    }

    /// The container, proven ours.
    async fn own(&self, operation: &'static str, id: &str) -> Result<ContainerLive> {
        let subject = id.to_owned();
        match self.look(id).await? {
            Seen::Present(live) => Ok(live),
            Seen::Absent => Err(DockerError::missing(operation, subject)),
            Seen::Foreign(why) => Err(DockerError::Foreign { operation, subject, why }),
            Seen::Unknown(detail) => Err(DockerError::Odd { operation, subject, detail }),
        }
    }

    /// Why a container is not ours; `None` when it is.
    fn foreign(&self, live: &ContainerLive) -> Option<String> {
        match live.owner() {
            _ if live.fingerprint().is_none() => Some(format!("it carries no {}", label::CONFIG_HASH)),
            None => Some("its ployz labels are incomplete".to_owned()),
            Some(owner) if owner.network != self.network => {
                Some(format!("it belongs to network {}", owner.network))
            }
            Some(_) => None,
        }
    }

    fn own_label(&self) -> String {
        format!("{}={}", label::NETWORK, self.network)
    }
}

/// Waits for the engine, but not for ever.
pub(super) async fn limited<T>(
    operation: &'static str,
    subject: &str,
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(DockerError::of(operation, subject, error)),
        Err(_) => Err(DockerError::Late { operation, subject: subject.to_owned(), limit }),
    }
}

fn piece(output: LogOutput) -> LogPiece {
    let error = matches!(output, LogOutput::StdErr { .. });
    LogPiece { error, text: output.into_bytes() }
}

fn event(subject: Subject, message: EventMessage) -> Event {
    let id = message.actor.and_then(|actor| actor.id).unwrap_or_default();
    Event { subject, action: message.action.unwrap_or_default(), id }
}

/// Those that change what an inspection shows; a readiness command would cause three others each time.
const EVENTS: [&str; 9] =
    ["create", "start", "die", "destroy", "pause", "unpause", "rename", "update", "health_status"];
/// Those after which the network, or a container's place on it, is not what it was. What ployzd does itself, to make it, is
/// none.
pub(super) const NETWORK_EVENTS: [&str; 4] = ["destroy", "remove", "update", "disconnect"];
/// Where Docker listens.
pub const SOCKET: &str = "/var/run/docker.sock";
const PING_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Making and starting a container takes under a second on an idle machine; a busy disk takes its time.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// What has no deadline of its own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// Inspections at a time.
const AT_ONCE: usize = 8;
