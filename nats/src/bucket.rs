//! Key-value buckets with typed values.
//!
//! Every write is a compare-and-set or create-only, so that a retry after an unknown outcome is safe: the caller reads again and
//! sees what it finds.

use crate::dialect::{Dialect, live};
use crate::reader::{Broken, Entry, Read, Reader, everything};
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{self, Operation};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, Republish, StorageType};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use ployz_core::wire::v1::subject::{CERTIFICATES, DEPLOY_STATUS, INVITES, LOCKS, MACHINES};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A failed operation on the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It did not answer, or not in time. The outcome of a write is then unknown.
    #[error("the store does not answer: cannot {operation}: {detail}")]
    Away {
        /// What was being done.
        operation: &'static str,
        /// The library's words.
        detail: String,
    },
    /// Another writer was faster; read again.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// A value that is not what it should be.
    #[error("{key} in the store is damaged: {detail}")]
    Damaged {
        /// Which key.
        key: String,
        /// How.
        detail: String,
        /// The value's revision, where it was read as a whole: to write over it.
        revision: Option<u64>,
    },
}

impl StoreError {
    /// With the revision of what is damaged.
    fn at(self, at: u64) -> Self {
        match self {
            Self::Damaged { key, detail, .. } => Self::Damaged { key, detail, revision: Some(at) },
            other => other,
        }
    }
}

/// A value with the revision it was read at.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    /// The value.
    pub value: T,
    /// Its revision.
    pub revision: u64,
}

/// A change of a bucket.
#[derive(Debug, Clone)]
pub enum Change<T> {
    /// Put.
    Put(String, T),
    /// Gone.
    Gone(String),
    /// There, but this build cannot read it (damage, or a newer release's words): what was known of it stands.
    Unreadable(String),
    /// Everything there was at the start of the watch has been said.
    Caught,
    /// The watch was interrupted and goes on.
    Hiccup(String),
}

impl<T> Change<T> {
    /// With the value read; one that `read` gives nothing for is unreadable.
    pub(crate) fn read<U>(self, read: impl FnOnce(&str, T) -> Option<U>) -> Change<U> {
        match self {
            Self::Put(key, value) => match read(&key, value) {
                Some(value) => Change::Put(key, value),
                None => Change::Unreadable(key),
            },
            Self::Gone(key) => Change::Gone(key),
            Self::Unreadable(key) => Change::Unreadable(key),
            Self::Caught => Change::Caught,
            Self::Hiccup(error) => Change::Hiccup(error),
        }
    }
}

/// What an operation on the store gives.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An open bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    /// For single keys.
    pub kv: kv::Store,
    client: Client,
    dialect: Dialect,
}

impl Bucket {
    /// Opens one that is there.
    pub async fn open(client: &Client, dialect: Dialect, name: &'static str) -> Result<Self> {
        let opened = dialect.context(client).get_key_value(name).await;
        let kv = opened.map_err(|error| away("open the buckets", error))?;
        Ok(Self { kv, client: client.clone(), dialect })
    }

    fn stream(&self) -> String {
        stream_of(&self.kv.name)
    }
}

/// Made as a stream of our own: a bucket as the library makes it allows roll-ups, with which a member that may
/// write one key can wipe all others. One that is there is given what the build before did not set.
pub(crate) async fn ensure_bucket(js: &Context, bucket: &str) -> Result<()> {
    let name = stream_of(bucket);
    let (republish, max_message_size) = (Some(republished(&name)), largest(bucket));
    let Ok(found) = js.get_stream(&name).await else {
        let config = StreamConfig {
            name,
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            allow_rollup: false,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            num_replicas: 1,
            max_messages: -1,
            max_bytes: -1,
            republish,
            max_message_size,
            ..Default::default()
        };
        return js.create_stream(config).await.map(drop).map_err(|error| away("create a bucket", error));
    };
    let found = found.cached_info().config.clone();
    if same_republish(&found, &name) && found.max_message_size == max_message_size {
        return Ok(());
    }
    let wanted = StreamConfig { republish, max_message_size, ..found };
    js.update_stream(wanted).await.map(drop).map_err(|error| away("change a bucket", error))
}

/// All that a stream takes, said again below its name, for those who may not make consumers.
pub(crate) fn republished(stream: &str) -> Republish {
    Republish { source: ">".into(), destination: format!("{}.>", live(stream)), headers_only: false }
}

/// Whether a stream republishes as it should.
pub(crate) fn same_republish(found: &StreamConfig, stream: &str) -> bool {
    let wanted = republished(stream);
    found.republish.as_ref().is_some_and(|found| {
        (&found.source, &found.destination, found.headers_only)
            == (&wanted.source, &wanted.destination, wanted.headers_only)
    })
}

/// The largest value with its headers, in bytes: some ten times what is ever written, so that one writer cannot fill
/// the memory of all who follow.
fn largest(bucket: &str) -> i32 {
    match bucket {
        LOCKS => 4 << 10,
        MACHINES => 16 << 10,
        INVITES => 32 << 10,
        CERTIFICATES | DEPLOY_STATUS => 512 << 10,
        _ => -1,
    }
}

/// The stream of a bucket.
pub(crate) fn stream_of(bucket: &str) -> String {
    format!("KV_{bucket}")
}

pub(crate) async fn get<T: DeserializeOwned>(bucket: &Bucket, key: &str) -> Result<Option<Stored<T>>> {
    match bucket.kv.entry(key).await {
        Ok(Some(entry)) if entry.operation == Operation::Put => {
            let (revision, value) = (entry.revision, decode(key, &entry.value));
            Ok(Some(Stored { value: value.map_err(|error| error.at(revision))?, revision }))
        }
        Ok(_) => Ok(None),
        Err(error) => Err(away("read", error)),
    }
}

/// How many values a bucket holds, as the server says now (`status` would answer from memory).
pub(crate) async fn count(bucket: &Bucket) -> Result<u64> {
    let info = bucket.kv.stream.get_info().await.map_err(|error| away("ask", error))?;
    Ok(info.state.messages)
}

pub(crate) async fn keys(bucket: &Bucket) -> Result<Vec<String>> {
    if bucket.dialect == Dialect::Border {
        let entries =
            everything(&bucket.client, &bucket.stream()).await.map_err(|error| away("list", error))?;
        let values = entries.into_iter().filter(|entry| operation(entry) == Operation::Put);
        let mut keys: Vec<String> = values.map(|entry| key(&bucket.kv, &entry)).collect();
        keys.sort();
        return Ok(keys);
    }
    if count(bucket).await? == 0 {
        return Ok(Vec::new());
    }
    let mut listed = bucket.kv.keys().await.map_err(|error| away("list", error))?;
    let mut keys = Vec::new();
    while let Some(key) = listed.next().await {
        keys.push(key.map_err(|error| away("list", error))?);
    }
    keys.sort();
    Ok(keys)
}

pub(crate) async fn all<T: DeserializeOwned>(bucket: &Bucket) -> Result<Vec<T>> {
    let mut values = Vec::new();
    for key in keys(bucket).await? {
        let read: Option<Option<Stored<T>>> = readable(get(bucket, &key).await)?;
        values.extend(read.flatten().map(|stored| stored.value));
    }
    Ok(values)
}

/// `None` for a value that cannot be read: it costs its writer, and not who lists it with others.
pub(crate) fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::warn!(%error, "left out of a list");
            Ok(None)
        }
        read => read.map(Some),
    }
}

pub(crate) async fn create<T: Serialize>(bucket: &Bucket, key: &str, value: &T) -> Result<u64> {
    bucket.kv.create(key, encode(key, value)?).await.map_err(|error| match error.kind() {
        kv::CreateErrorKind::AlreadyExists => StoreError::Conflict(key.to_owned()),
        _ => away("write", error),
    })
}

pub(crate) async fn update<T: Serialize>(
    bucket: &Bucket,
    key: &str,
    value: &T,
    revision: u64,
) -> Result<u64> {
    bucket.kv.update(key, encode(key, value)?, revision).await.map_err(|error| match error.kind() {
        kv::UpdateErrorKind::WrongLastRevision => StoreError::Conflict(key.to_owned()),
        _ => away("write", error),
    })
}

/// Reads, decides and writes by compare-and-set; again while another writer was faster, 20 times at most. An attempt
/// gives what its write gave, or an error of its own, which ends it, for what it refuses.
pub async fn compare_and_set<T, E, W>(mut attempt: impl FnMut() -> W) -> std::result::Result<T, E>
where
    E: From<StoreError>,
    W: Future<Output = std::result::Result<Result<T>, E>>,
{
    for _ in 1..CAS_ATTEMPTS {
        match attempt().await? {
            Err(StoreError::Conflict(_)) => continue,
            outcome => return outcome.map_err(E::from),
        }
    }
    attempt().await?.map_err(E::from)
}

/// All there is, then [`Change::Caught`], then every change; each value with its revision.
pub(crate) async fn watch_bytes(bucket: &Bucket) -> Result<BoxStream<'static, Change<Stored<Bytes>>>> {
    match bucket.dialect {
        Dialect::Domain => Ok(consumed(bucket).await?.boxed()),
        Dialect::Border => Ok(republished_changes(bucket).await?.boxed()),
    }
}

/// By what the stream republishes.
async fn republished_changes(bucket: &Bucket) -> Result<impl Stream<Item = Change<Stored<Bytes>>> + use<>> {
    let opened = Reader::open(&bucket.client, &bucket.stream()).await;
    let (reader, kv) = (opened.map_err(|error| away("watch", error))?, bucket.kv.clone());
    Ok(stream::unfold((reader, false), move |(mut reader, mut caught)| {
        let kv = kv.clone();
        async move {
            let change = loop {
                match reader.next().await {
                    Ok(Read::Entry(entry)) => break said(&kv, entry),
                    Ok(Read::Even) if caught => {}
                    Ok(Read::Even) => {
                        caught = true;
                        break Change::Caught;
                    }
                    Err(Broken::Ended) => return None,
                    Err(broken) => break Change::Hiccup(broken.to_string()),
                }
            };
            Some((change, (reader, caught)))
        }
    }))
}

fn said(kv: &kv::Store, entry: Entry) -> Change<Stored<Bytes>> {
    let key = key(kv, &entry);
    match operation(&entry) {
        Operation::Put => Change::Put(key, Stored { value: entry.payload, revision: entry.sequence }),
        Operation::Delete | Operation::Purge => Change::Gone(key),
    }
}

fn key(kv: &kv::Store, entry: &Entry) -> String {
    entry.subject.strip_prefix(&kv.prefix).unwrap_or(&entry.subject).to_owned()
}

fn operation(entry: &Entry) -> Operation {
    match entry.headers.get("KV-Operation").map(|operation| operation.as_str()) {
        Some("DEL") => Operation::Delete,
        Some("PURGE") => Operation::Purge,
        _ => Operation::Put,
    }
}

/// By a consumer.
async fn consumed(bucket: &Bucket) -> Result<impl Stream<Item = Change<Stored<Bytes>>> + use<>> {
    let empty = count(bucket).await? == 0;
    let changes = bucket.kv.watch_with_history(">").await.map_err(|error| away("watch", error))?;
    let first = stream::iter(empty.then_some(Change::Caught));
    let mut caught = empty;
    let rest = changes.flat_map(move |item| {
        let mut said = Vec::new();
        match item {
            Err(error) => said.push(Change::Hiccup(error.to_string())),
            Ok(entry) => {
                said.push(match entry.operation {
                    Operation::Put => {
                        Change::Put(entry.key, Stored { value: entry.value, revision: entry.revision })
                    }
                    Operation::Delete | Operation::Purge => Change::Gone(entry.key),
                });
                if !caught && entry.delta == 0 {
                    caught = true;
                    said.push(Change::Caught);
                }
            }
        }
        stream::iter(said)
    });
    Ok(first.chain(rest))
}

/// The same, of values that are read.
pub(crate) async fn watch<T: DeserializeOwned + Send + 'static>(
    bucket: &Bucket,
) -> Result<impl Stream<Item = Change<T>> + use<T>> {
    Ok(watch_bytes(bucket).await?.map(|change| {
        change.read(|key, stored| match decode(key, &stored.value) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(%error, "unreadable record");
                None
            }
        })
    }))
}

pub(crate) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Bytes> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|error| StoreError::Damaged {
        key: key.to_owned(),
        detail: error.to_string(),
        revision: None,
    })
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| StoreError::Damaged {
        key: key.to_owned(),
        detail: error.to_string(),
        revision: None,
    })
}

pub(crate) fn away(operation: &'static str, error: impl std::error::Error) -> StoreError {
    StoreError::Away { operation, detail: ployz_core::text::chain(&error) }
}

/// Each conflict is another writer's success: so many in a row are a fault.
const CAS_ATTEMPTS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::ready;

    #[tokio::test]
    async fn only_a_conflict_is_tried_again_and_not_for_ever() {
        let lost = || StoreError::Conflict("a".into());
        let refusal = || away("read", std::fmt::Error);
        for (outcome, tries) in [
            (Ok(Err(lost())), CAS_ATTEMPTS),
            (Ok(Err(refusal())), 1), // unknown: its caller decides
            (Err(refusal()), 1),
            (Err(lost()), 1),
            (Ok(Ok(())), 1),
        ] {
            let attempts = Cell::new(0);
            let attempt = || {
                attempts.set(attempts.get() + 1);
                ready(outcome.clone())
            };
            let ended: Result<()> = compare_and_set(attempt).await;
            assert_eq!(attempts.get(), tries);
            assert_eq!(ended.is_ok(), matches!(outcome, Ok(Ok(()))));
        }
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            ready(Ok(if attempts.get() < 3 { Err(lost()) } else { Ok("won") }))
        };
        let ended: Result<&str> = compare_and_set(attempt).await;
        assert_eq!((ended.unwrap(), attempts.get()), ("won", 3));
    }
}
