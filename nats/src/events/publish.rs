//! Writes routing events: whole values of single keys, each with a deadline.
//!
//! Nothing is tried twice here: whether a write that was not answered took place is unknown, and only the caller knows
//! whether saying it again is right (a plain [`Publisher::put`]: always).

use crate::dialect::Dialect;
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::DirectGetErrorKind;
use ployz_core::id::NetworkId;
use ployz_core::routing::{Event, Key, Value};
use ployz_core::wire::v1::subject::{self, ROUTING_EVENTS};
use std::error::Error;
use std::time::Duration;
use tokio::time::timeout;

/// A failed write or read of the stream.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It did not answer, not in time, or refused. The outcome of a write is then unknown.
    #[error("the stream of routing events does not answer: cannot {operation} {subject}")]
    Away {
        /// What was being done.
        operation: &'static str,
        /// To which key.
        subject: String,
        /// The library's words.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The key is not at the sequence that the caller expected: read it again. Also the answer to one's own write that
    /// was said twice.
    #[error("{0} was changed meanwhile")]
    Conflict(Key),
    /// The value is one of another kind of key.
    #[error("invalid value for {0}")]
    Kind(Key),
    /// What the stream holds of the key cannot be read.
    #[error("{key} in the stream is damaged")]
    Damaged {
        /// Which.
        key: Key,
        /// At which sequence, so that it can be replaced.
        sequence: u64,
        /// How.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// What the stream holds of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Its value, if it has one.
    pub value: Option<Value>,
    /// What to expect in a compare-and-set; 0 when the stream holds nothing of it.
    pub sequence: u64,
}

/// Writes routing events over a connection that somebody else owns.
#[derive(Clone)]
pub struct Publisher {
    js: Context,
    subject: String,
}

type Result<T> = std::result::Result<T, PublishError>;

impl Publisher {
    /// Over a connection of a user with at least [`crate::permissions::publisher`].
    pub fn new(client: &Client, network: &NetworkId, dialect: Dialect) -> Self {
        Self { js: dialect.context(client), subject: subject::routing(network) }
    }

    /// Sets a key; the sequence it is now at. On disk when this returns.
    pub async fn put(&self, key: &Key, value: &Value) -> Result<u64> {
        self.write(key, Some(value), None).await
    }

    /// Sets a key that is at `sequence`; 0 when it must not be there.
    pub async fn put_at(&self, key: &Key, value: &Value, sequence: u64) -> Result<u64> {
        self.write(key, Some(value), Some(sequence)).await
    }

    /// Takes a key away.
    pub async fn remove(&self, key: &Key) -> Result<u64> {
        self.write(key, None, None).await
    }

    /// Takes a key away that is at `sequence`.
    pub async fn remove_at(&self, key: &Key, sequence: u64) -> Result<u64> {
        self.write(key, None, Some(sequence)).await
    }

    /// What the stream holds of a key.
    pub async fn current(&self, key: &Key) -> Result<Current> {
        let ask = async {
            // Makes no request: asking for the stream would need a right more.
            let stream =
                self.js.get_stream_no_info(ROUTING_EVENTS).await.map_err(|error| away("read", key, error))?;
            match stream.direct_get_last_for_subject(self.of(key)).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(away("read", key, error)),
            }
        };
        let found = timeout(REQUEST_TIMEOUT, ask).await.map_err(|late| away("read", key, late))??;
        let Some(message) = found else { return Ok(Current { value: None, sequence: 0 }) };
        let sequence = message.sequence;
        match Event::parse(&key.to_string(), &message.payload) {
            Ok(event) => Ok(Current { value: event.value, sequence }),
            Err(error) => Err(PublishError::Damaged { key: key.clone(), sequence, source: error.into() }),
        }
    }

    async fn write(&self, key: &Key, value: Option<&Value>, expected: Option<u64>) -> Result<u64> {
        if value.is_some_and(|value| !value.fits(key)) {
            return Err(PublishError::Kind(key.clone()));
        }
        let mut message = PublishMessage::build();
        message = match value {
            Some(value) => {
                let text = serde_json::to_vec(value).map_err(|error| away("encode", key, error))?;
                message.payload(text.into())
            }
            None => message.ttl(TOMBSTONE_TTL),
        };
        if let Some(sequence) = expected {
            message = message.expected_last_subject_sequence(sequence);
        }
        let say = async { self.js.send_publish(self.of(key), message).await?.await };
        match timeout(REQUEST_TIMEOUT, say).await {
            Ok(Ok(ack)) => Ok(ack.sequence),
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(PublishError::Conflict(key.clone()))
            }
            Ok(Err(error)) => Err(away("write", key, error)),
            Err(late) => Err(away("write", key, late)),
        }
    }

    fn of(&self, key: &Key) -> String {
        format!("{}.{key}", self.subject)
    }
}

pub(crate) fn away(
    operation: &'static str,
    subject: impl ToString,
    source: impl Error + Send + Sync + 'static,
) -> PublishError {
    PublishError::Away { operation, subject: subject.to_string(), source: source.into() }
}

/// Longer than a founder's restart takes to refuse, shorter than an operator's patience.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the message that a key is gone stays. It is for followers that are connected and have not read it yet; who
/// connects later rebuilds from what is there. A follower that hears nothing for seconds rebuilds as well.
const TOMBSTONE_TTL: Duration = Duration::from_secs(3600);
