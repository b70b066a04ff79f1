//! Key-value buckets with typed values.
//!
//! Every write is a compare-and-set or create-only, so that a retry after an unknown outcome is safe: the caller reads again and
//! sees what it finds.

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{self, Operation};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, StorageType};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
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

/// Made as a stream of our own: a bucket as the library makes it allows roll-ups, with which a member that may
/// write one key can wipe all others.
pub(crate) async fn ensure_bucket(js: &Context, bucket: &str) -> Result<()> {
    let config = StreamConfig {
        name: format!("KV_{bucket}"),
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
        ..Default::default()
    };
    match js.get_stream(&config.name).await {
        Ok(_) => Ok(()),
        Err(_) => js.create_stream(config).await.map(|_| ()).map_err(|error| away("create a bucket", error)),
    }
}

pub(crate) async fn get<T: DeserializeOwned>(bucket: &kv::Store, key: &str) -> Result<Option<Stored<T>>> {
    match bucket.entry(key).await {
        Ok(Some(entry)) if entry.operation == Operation::Put => {
            let (revision, value) = (entry.revision, decode(key, &entry.value));
            Ok(Some(Stored { value: value.map_err(|error| error.at(revision))?, revision }))
        }
        Ok(_) => Ok(None),
        Err(error) => Err(away("read", error)),
    }
}

/// How many values a bucket holds, as the server says now (`status` would answer from memory).
pub(crate) async fn count(bucket: &kv::Store) -> Result<u64> {
    let info = bucket.stream.get_info().await.map_err(|error| away("ask", error))?;
    Ok(info.state.messages)
}

pub(crate) async fn keys(bucket: &kv::Store) -> Result<Vec<String>> {
    if count(bucket).await? == 0 {
        return Ok(Vec::new());
    }
    let mut listed = bucket.keys().await.map_err(|error| away("list", error))?;
    let mut keys = Vec::new();
    while let Some(key) = listed.next().await {
        keys.push(key.map_err(|error| away("list", error))?);
    }
    keys.sort();
    Ok(keys)
}

pub(crate) async fn all<T: DeserializeOwned>(bucket: &kv::Store) -> Result<Vec<T>> {
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

pub(crate) async fn create<T: Serialize>(bucket: &kv::Store, key: &str, value: &T) -> Result<u64> {
    bucket.create(key, encode(key, value)?).await.map_err(|error| match error.kind() {
        kv::CreateErrorKind::AlreadyExists => StoreError::Conflict(key.to_owned()),
        _ => away("write", error),
    })
}

pub(crate) async fn update<T: Serialize>(
    bucket: &kv::Store,
    key: &str,
    value: &T,
    revision: u64,
) -> Result<u64> {
    bucket.update(key, encode(key, value)?, revision).await.map_err(|error| match error.kind() {
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
pub(crate) async fn watch_bytes(
    bucket: &kv::Store,
) -> Result<impl Stream<Item = Change<Stored<Bytes>>> + use<>> {
    let empty = count(bucket).await? == 0;
    let changes = bucket.watch_with_history(">").await.map_err(|error| away("watch", error))?;
    let first = futures_util::stream::iter(empty.then_some(Change::Caught));
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
        futures_util::stream::iter(said)
    });
    Ok(first.chain(rest))
}

/// The same, of values that are read.
pub(crate) async fn watch<T: DeserializeOwned + Send + 'static>(
    bucket: &kv::Store,
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
