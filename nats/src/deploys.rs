//! The durable records of deploys in the store: where each stands, what was decided, and who may go on.
//!
//! A decision is created and never overwritten; the stream itself refuses a second one. Everything else is
//! compare-and-set, so after an unknown outcome the caller reads again and sees what it finds.

use crate::bucket::{self as store, Bucket, Change, StoreError, Stored, away, decode, encode};
use crate::dialect::Dialect;
use crate::store::Store;
use async_nats::Client;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DirectGetErrorKind, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use futures_util::Stream;
use ployz_core::deploy::step;
use ployz_core::id::{DeployId, Namespace, NetworkId};
use ployz_core::wire::v1::deploy::{Decision, DeployCommit, DeployLock, DeployStatus};
use ployz_core::wire::v1::subject::{self, DEPLOY_COMMITS, DEPLOY_STATUS, DOMAIN, LOCKS};
use std::time::Duration;

/// The records, over the store's connection.
#[derive(Clone)]
pub struct Records {
    js: Context,
    dialect: Dialect,
    network: NetworkId,
    status: Bucket,
}

/// What is at a lock's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockSeen {
    /// Who holds it; `None` = nobody.
    pub lock: Option<DeployLock>,
    /// What a compare-and-set has to expect.
    pub sequence: u64,
}

/// A decision as a message of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What it is about.
    pub subject: String,
    /// Its number.
    pub sequence: u64,
    /// When the store took it, Unix seconds.
    pub at: u64,
}

type Result<T> = std::result::Result<T, StoreError>;

/// What the founder makes: the bucket, the stream, and locks that run out by themselves.
pub async fn ensure(client: &Client, network: &NetworkId) -> Result<()> {
    let js = jetstream::with_domain(client.clone(), DOMAIN);
    store::ensure_bucket(&js, DEPLOY_STATUS).await?;
    let locks = js.get_stream(bucket(LOCKS)).await.map_err(|error| away("look up the locks", error))?;
    let found = locks.cached_info().config.clone();
    if !found.allow_message_ttl {
        let wanted = Config { allow_message_ttl: true, ..found };
        js.update_stream(wanted).await.map_err(|error| away("enable expiry of locks", error))?;
    }
    if js.get_stream(DEPLOY_COMMITS).await.is_ok() {
        return Ok(());
    }
    let made = js.create_stream(commits(network)).await;
    made.map(drop).map_err(|error| away("create the stream of decisions", error))
}

fn commits(network: &NetworkId) -> Config {
    Config {
        name: DEPLOY_COMMITS.into(),
        subjects: vec![subject::deploy_commits(network)],
        storage: StorageType::File,
        // One message a subject, and the first stays: nobody can decide twice, whatever he expects.
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages: -1,
        max_bytes: MAX_BYTES,
        // Only the founder may delete, and does what `deploy::prune` says; no member has the right.
        deny_delete: false,
        deny_purge: true,
        allow_rollup: false,
        allow_direct: true,
        num_replicas: 1,
        ..Default::default()
    }
}

impl Records {
    /// Opens them.
    pub async fn open(store: &Store) -> Result<Self> {
        let dialect = store.dialect();
        let status = Bucket::open(store.client(), dialect, DEPLOY_STATUS).await?;
        let js = dialect.context(store.client());
        Ok(Self { js, dialect, network: store.network().clone(), status })
    }

    /// Where the latest deploy of a namespace stands.
    pub async fn status(&self, namespace: &Namespace) -> Result<Option<Stored<DeployStatus>>> {
        store::get(&self.status, namespace.as_str()).await
    }

    /// Writes it: over the revision that was read, or, with `None`, as the first of its namespace.
    pub async fn put_status(&self, status: &DeployStatus, over: Option<u64>) -> Result<u64> {
        let key = status.namespace.as_str();
        let done = match over {
            Some(revision) => store::update(&self.status, key, status, revision).await,
            None => store::create(&self.status, key, status).await,
        };
        let error = match done {
            Ok(revision) => return Ok(revision),
            Err(error) => error,
        };
        // Not answered, or answered to a repetition of itself: the store tells.
        match self.status(&status.namespace).await? {
            Some(found) if found.value == *status && Some(found.revision) != over => Ok(found.revision),
            _ => Err(error),
        }
    }

    /// Where the latest deploys of all namespaces stand, but for what cannot be read.
    pub async fn statuses(&self) -> Result<Vec<DeployStatus>> {
        let mut found = Vec::new();
        for key in store::keys(&self.status).await? {
            let read: Option<Option<Stored<DeployStatus>>> =
                store::readable(store::get(&self.status, &key).await)?;
            found.extend(read.flatten().map(|stored| stored.value));
        }
        Ok(found)
    }

    /// Follows them: all there are, then every change.
    pub async fn watch(&self) -> Result<impl Stream<Item = Change<DeployStatus>> + use<>> {
        store::watch(&self.status).await
    }

    /// What was decided on a deploy.
    pub async fn decision(&self, namespace: &Namespace, deploy: &DeployId) -> Result<Option<Decision>> {
        let subject = subject::deploy_commit(&self.network, namespace, deploy);
        let found = self.last(DEPLOY_COMMITS, &subject).await?;
        found.map(|message| decode(&subject, &message.payload)).transpose()
    }

    /// Decides, unless it was decided: returns what holds.
    pub async fn decide(&self, namespace: &Namespace, decision: &Decision) -> Result<Decision> {
        let subject = subject::deploy_commit(&self.network, namespace, decision.deploy());
        let message =
            PublishMessage::build().payload(encode(&subject, decision)?).expected_last_subject_sequence(0);
        let said = self.say(&subject, message).await;
        // Whether it was ours or another's, or nobody knows: what is there now is the decision.
        match self.decision(namespace, decision.deploy()).await? {
            Some(found) => Ok(found),
            None => Err(said.err().unwrap_or(StoreError::Conflict(subject))),
        }
    }

    /// Where the decision on a deploy is.
    pub fn decision_subject(&self, namespace: &Namespace, deploy: &DeployId) -> String {
        subject::deploy_commit(&self.network, namespace, deploy)
    }

    /// The first decision that is there from this message of the stream on.
    pub async fn decided_from(&self, sequence: u64) -> Result<Option<Decided>> {
        let all = subject::deploy_commits(&self.network);
        let ask = async {
            let stream =
                self.js.get_stream_no_info(DEPLOY_COMMITS).await.map_err(|error| away("read", error))?;
            match stream.direct_get_builder().sequence(sequence).next_by_subject(all).send().await {
                Ok(message) => Ok(Some(Decided {
                    subject: message.subject.to_string(),
                    sequence: message.sequence,
                    at: u64::try_from(message.time.unix_timestamp()).unwrap_or_default(),
                })),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(away("read", error)),
            }
        };
        tokio::time::timeout(REQUEST_TIMEOUT, ask).await.map_err(|late| away("read", late))?
    }

    /// Deletes a decision; the founder's right alone.
    pub async fn forget(&self, sequence: u64) -> Result<()> {
        let ask = async {
            let stream =
                self.js.get_stream_no_info(DEPLOY_COMMITS).await.map_err(|error| away("read", error))?;
            stream.delete_message(sequence).await.map(drop).map_err(|error| away("delete", error))
        };
        tokio::time::timeout(REQUEST_TIMEOUT, ask).await.map_err(|late| away("delete", late))?
    }

    /// What a namespace is: the commit that holds, by its latest deploy's records.
    pub async fn current(&self, namespace: &Namespace) -> Result<Option<DeployCommit>> {
        match self.status(namespace).await? {
            Some(found) => self.committed(&found.value).await,
            None => Ok(None),
        }
    }

    /// The same, from a status that was read.
    pub async fn committed(&self, status: &DeployStatus) -> Result<Option<DeployCommit>> {
        let decision = self.decision(&status.namespace, &status.deploy).await?;
        let Some(deploy) = step::current(status, decision.as_ref()) else { return Ok(None) };
        let decision = match decision {
            Some(decision) if decision.deploy() == deploy => Some(decision),
            _ => self.decision(&status.namespace, deploy).await?,
        };
        match decision {
            Some(Decision::Committed(commit)) => Ok(Some(*commit)),
            _ => Err(StoreError::Damaged {
                key: subject::deploy_commit(&self.network, &status.namespace, deploy),
                detail: "the namespace was committed by this deploy, but its commit is not there".into(),
                revision: None,
            }),
        }
    }

    /// Who holds a namespace.
    pub async fn lock(&self, namespace: &Namespace) -> Result<LockSeen> {
        let key = subject::deploy_lock(namespace);
        let Some(message) = self.last(&bucket(LOCKS), &format!("$KV.{LOCKS}.{key}")).await? else {
            return Ok(LockSeen { lock: None, sequence: 0 });
        };
        let lock = match message.payload.is_empty() {
            true => None,
            false => Some(decode(&key, &message.payload)?),
        };
        Ok(LockSeen { lock, sequence: message.sequence })
    }

    /// Takes or renews the lock of a namespace, for so long.
    pub async fn put_lock(
        &self,
        namespace: &Namespace,
        lock: &DeployLock,
        over: u64,
        lasts: Duration,
    ) -> Result<u64> {
        let key = subject::deploy_lock(namespace);
        let message = PublishMessage::build()
            .payload(encode(&key, lock)?)
            .expected_last_subject_sequence(over)
            .ttl(lasts);
        self.say(&self.dialect.key(LOCKS, &key), message).await
    }

    /// Gives it back.
    pub async fn unlock(&self, namespace: &Namespace, over: u64) -> Result<()> {
        let key = subject::deploy_lock(namespace);
        let message = PublishMessage::build()
            .header("KV-Operation", "DEL")
            .expected_last_subject_sequence(over)
            .ttl(RELEASED_TTL);
        self.say(&self.dialect.key(LOCKS, &key), message).await.map(drop)
    }

    async fn say(&self, subject: &str, message: PublishMessage) -> Result<u64> {
        let work = async { self.js.send_publish(subject.to_owned(), message).await?.await };
        match tokio::time::timeout(REQUEST_TIMEOUT, work).await {
            Ok(Ok(ack)) => Ok(ack.sequence),
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(StoreError::Conflict(subject.to_owned()))
            }
            Ok(Err(error)) => Err(away("write", error)),
            Err(late) => Err(away("write", late)),
        }
    }

    async fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<async_nats::jetstream::message::StreamMessage>> {
        let ask = async {
            let stream = self.js.get_stream_no_info(stream).await.map_err(|error| away("read", error))?;
            match stream.direct_get_last_for_subject(subject).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(away("read", error)),
            }
        };
        tokio::time::timeout(REQUEST_TIMEOUT, ask).await.map_err(|late| away("read", late))?
    }
}

fn bucket(name: &str) -> String {
    format!("KV_{name}")
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the mark of a lock that was given back stays.
const RELEASED_TTL: Duration = Duration::from_secs(60);
/// Some hundred thousand deploys; a full stream refuses.
const MAX_BYTES: i64 = 2 << 30;
