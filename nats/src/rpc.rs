//! Commands between machines: request and reply over the store's connection.
//!
//! A machine that is not connected is a named failure, at once unless it was connected a moment ago. Answers go only to inboxes,
//! never to a subject a caller could choose. Each command carries an envelope that its sender signed; who receives it judges
//! that before a room hears of it ([`Router`]).

use crate::store::Store;
use async_nats::{Client, HeaderMap, RequestError, RequestErrorKind, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::envelope::{self, Refusal, Refused};
use ployz_core::wire::v1::peer::{PeerAnswer, PeerCommand};
use ployz_core::wire::v1::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Why a machine did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No ployzd subscribes to the machine's commands.
    #[error("its ployzd is not connected")]
    NotConnected,
    /// It is connected and did not answer in time.
    #[error("no answer within {}s", .0.as_secs())]
    TimedOut(Duration),
    /// Anything else; the library's words.
    #[error("{0}")]
    Failed(String),
}

impl NoAnswer {
    fn of(error: &RequestError, limit: Duration) -> Self {
        match error.kind() {
            RequestErrorKind::NoResponders => Self::NotConnected,
            RequestErrorKind::TimedOut => Self::TimedOut(limit),
            _ => Self::Failed(ployz_core::text::chain(error)),
        }
    }
}

/// The answer of a machine's ployzd to one request, asked once. `limit` bounds the whole exchange.
pub async fn once(
    store: &Store,
    machine: &MachineId,
    name: &str,
    text: Bytes,
    limit: Duration,
) -> Result<Bytes, NoAnswer> {
    let mut headers = HeaderMap::new();
    if let Some(sealed) = store.seal(machine, name, &text) {
        headers.insert(envelope::HEADER, sealed);
    }
    let request = async_nats::Request::new().payload(text).headers(headers).timeout(Some(limit));
    let asked = store.client().send_request(subject::rpc(store.network(), machine, name), request).await;
    let reply = asked.map_err(|error| NoAnswer::of(&error, limit))?;
    store.presence().heard(machine);
    Ok(reply.payload)
}

/// The same. A machine that is not connected is waited for: `least` in any case, longer if it was connected a moment ago.
pub async fn request(
    store: &Store,
    machine: &MachineId,
    name: &str,
    text: Bytes,
    limit: Duration,
    least: Duration,
) -> Result<Bytes, NoAnswer> {
    let send = || once(store, machine, name, text.clone(), limit);
    connected(least, send, |waited| store.presence().should_wait(machine, waited)).await
}

/// The answer to a command as its room has it; what keeps a machine from answering is a failure that names it.
pub async fn answered<A: DeserializeOwned>(
    store: &Store,
    machine: &MachineId,
    name: &str,
    command: &impl Serialize,
    limit: Duration,
) -> Result<A, DeployFailure> {
    let failure =
        |code, why: String| DeployFailure::new(code, format!("no answer to {name}: {why}")).on(machine);
    let away = |why| failure(ErrorCode::MachineUnreachable, why);
    let text = serde_json::to_vec(command).map_err(|error| away(error.to_string()))?;
    let reply = request(store, machine, name, text.into(), limit, Duration::ZERO).await;
    let reply = reply.map_err(|error| away(error.to_string()))?;
    let answer = serde_json::from_slice(&reply);
    answer.map_err(|error| failure(ErrorCode::InvalidRequest, format!("invalid response: {error}")))
}

/// Asks one machine about the network itself.
pub async fn ask(store: &Store, machine: &MachineId, command: &PeerCommand) -> Result<PeerAnswer, NoAnswer> {
    let failed = |error: serde_json::Error| NoAnswer::Failed(error.to_string());
    let text = Bytes::from(serde_json::to_vec(command).map_err(failed)?);
    let reply = match command {
        // Asked again and again by those who wait: it says how it is now.
        PeerCommand::Ping => once(store, machine, command.name(), text, PEER_TIMEOUT).await?,
        _ => request(store, machine, command.name(), text, PEER_TIMEOUT, Duration::ZERO).await?,
    };
    serde_json::from_slice(&reply).map_err(failed)
}

/// Whether a machine's ployzd is connected now.
pub async fn ping(store: &Store, machine: &MachineId, limit: Duration) -> Result<(), NoAnswer> {
    let text = serde_json::to_vec(&PeerCommand::Ping).unwrap_or_default();
    once(store, machine, PeerCommand::Ping.name(), text.into(), limit).await.map(drop)
}

/// What is answered to `send` by a machine that may be about to connect again: while it is not connected it is asked again for
/// `least`, and for as long as `goes_on` says after so much waiting.
pub async fn connected<T, W, G>(
    least: Duration,
    send: impl Fn() -> W,
    goes_on: impl Fn(Duration) -> G,
) -> Result<T, NoAnswer>
where
    W: Future<Output = Result<T, NoAnswer>>,
    G: Future<Output = bool>,
{
    let began = Instant::now();
    loop {
        match send().await {
            Err(NoAnswer::NotConnected) => {
                let waited = began.elapsed();
                if waited >= least && !goes_on(waited).await {
                    return Err(NoAnswer::NotConnected);
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            answer => return answer,
        }
    }
}

/// A command as it came, with who asks and where the answer goes.
pub struct Request {
    /// The command, as its room writes it.
    pub payload: Bytes,
    /// The machine that asks.
    pub sender: Sender,
    /// To answer it.
    pub reply: Reply,
}

/// The machine that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Which.
    pub machine: MachineId,
    /// Whether it signed. Without, the machine is the one whose inbox the answer goes to: of a version that does not sign.
    pub signed: bool,
}

/// What is known of a command before it is taken.
pub struct Incoming<'a> {
    /// The command, as its subject ended.
    pub command: &'a str,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Its envelope, unread.
    pub envelope: Option<&'a str>,
    /// The machine whose inbox the answer goes to: what an unsigned command says of its sender.
    pub inbox: Option<MachineId>,
}

/// Says who asks, or why the command is refused.
pub type Gate = Box<dyn Fn(&Incoming<'_>) -> Result<Sender, Refusal> + Send + Sync>;

/// Where the answer to one command goes. Dropped without an answer, the caller waits until its own deadline.
pub struct Reply {
    client: Client,
    to: Subject,
}

impl Reply {
    /// Sends the answer and returns when it has been handed to the server: what happens next may end this process.
    pub async fn send(self, answer: &impl Serialize) {
        let text = serde_json::to_vec(answer).unwrap_or_default();
        let _ = self.client.publish(self.to, Bytes::from(text)).await;
        let _ = self.client.flush().await;
    }
}

type Handler = Box<dyn Fn(Request) + Send + Sync>;

/// Who answers which commands of this machine. A handler returns at once; what takes time it spawns.
pub struct Router {
    gate: Gate,
    rooms: BTreeMap<&'static str, Handler>,
}

impl Router {
    /// Without rooms; every command passes the gate first.
    pub fn new(gate: impl Fn(&Incoming<'_>) -> Result<Sender, Refusal> + Send + Sync + 'static) -> Self {
        Self { gate: Box::new(gate), rooms: BTreeMap::new() }
    }

    /// Commands `<room>` and `<room>.<command>` are this handler's.
    pub fn on(mut self, room: &'static str, handler: impl Fn(Request) + Send + Sync + 'static) -> Self {
        self.rooms.insert(room, Box::new(handler));
        self
    }

    /// Subscribes to this machine's commands.
    pub async fn subscribe(
        store: &Store,
        machine: &MachineId,
    ) -> Result<Commands, async_nats::SubscribeError> {
        let prefix = subject::rpc(store.network(), machine, "");
        let requests = store.client().subscribe(subject::rpc_all(store.network(), machine)).await?;
        Ok(Commands { client: store.client().clone(), machine: machine.clone(), prefix, requests })
    }

    /// Hands every command to its handler, until the subscription ends. What the gate or no room takes is refused.
    pub async fn run(&self, mut commands: Commands) {
        while let Some(message) = commands.requests.next().await {
            let Some(to) = message.reply.filter(|reply| is_inbox(reply)) else { continue };
            let Some(command) = message.subject.strip_prefix(commands.prefix.as_str()) else { continue };
            let headers = message.headers.as_ref();
            let incoming = Incoming {
                command,
                payload: &message.payload,
                envelope: headers.and_then(|found| found.get(envelope::HEADER)).map(|value| value.as_str()),
                inbox: to.split('.').nth(1).and_then(|name| name.parse().ok()),
            };
            let judged = (self.gate)(&incoming);
            let taken =
                judged.and_then(|sender| Ok((sender, self.handler(command).ok_or(Refusal::UnknownCommand)?)));
            let reply = Reply { client: commands.client.clone(), to };
            match taken {
                Ok((sender, handler)) => handler(Request { payload: message.payload, sender, reply }),
                Err(refusal) => reply.send(&Refused::new(&commands.machine, command, &refusal)).await,
            }
        }
    }

    fn handler(&self, command: &str) -> Option<&Handler> {
        self.rooms.get(command.split('.').next()?)
    }
}

/// Whether answers may go to a subject: an inbox, or what a border of the store's accounts put in the place of one.
fn is_inbox(subject: &str) -> bool {
    subject.starts_with("_INBOX.") || subject.starts_with("_R_.")
}

/// A subscription to a machine's commands.
pub struct Commands {
    client: Client,
    machine: MachineId,
    prefix: String,
    requests: Subscriber,
}

const PEER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const RECONNECT_GRACE: Duration = Duration::from_secs(10);

    #[test]
    fn a_command_goes_to_the_room_of_its_first_word() {
        let router = Router::new(|_| Err(Refusal::Unsigned)).on("ping", |_| {}).on("deploy", |_| {});
        for (command, known) in [
            ("ping", true),
            ("deploy.start", true),
            ("deploys.start", false),
            ("mesh.prepare_destroy", false),
            ("", false),
        ] {
            assert_eq!(router.handler(command).is_some(), known, "{command:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_connected_is_waited_for_only_so_long() {
        let (asked, absent) = (Cell::new(0), || Err(NoAnswer::NotConnected));
        let send = |from| {
            asked.set(asked.get() + 1);
            let there = asked.get() >= from;
            async move { if there { Ok("answer") } else { absent() } }
        };
        let long_away = |_| async { false };
        assert_eq!(connected(RECONNECT_GRACE, || send(8), long_away).await.ok(), Some("answer"));
        asked.set(0);
        let began = Instant::now();
        let error = connected(RECONNECT_GRACE, || send(u32::MAX), long_away).await.unwrap_err();
        assert_eq!(error, NoAnswer::NotConnected);
        assert!(began.elapsed() >= RECONNECT_GRACE && began.elapsed() < RECONNECT_GRACE + 2 * RETRY_DELAY);
        asked.set(0);
        assert!(
            connected(Duration::ZERO, || send(2), long_away).await.is_err(),
            "a question is not put again"
        );
        assert_eq!(asked.get(), 1);
        asked.set(0);
        let back_soon = |waited| async move { waited < Duration::from_secs(2) };
        assert_eq!(connected(Duration::ZERO, || send(4), back_soon).await.ok(), Some("answer"));
        assert!(connected(Duration::ZERO, || send(u32::MAX), back_soon).await.is_err());
    }
}
