//! The stream of routing events, as the founder makes it.

use crate::bucket::{republished, same_republish};
use crate::events::publish::{PublishError, away};
use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode, context::GetStreamErrorKind};
use ployz_core::id::NetworkId;
use ployz_core::wire::v1::subject::{self, DOMAIN, ROUTING_EVENTS};

/// Makes the stream, or gives the one that is there the settings it should have. Replicas and placement stay: they
/// belong to whoever grows the store. Needs a user that may use the whole JetStream API, as the founder's.
pub async fn ensure_stream(client: &Client, network: &NetworkId) -> Result<(), PublishError> {
    let js = jetstream::with_domain(client.clone(), DOMAIN);
    let wanted = config(network);
    let found = match js.get_stream(ROUTING_EVENTS).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_absent(&error.kind()) => {
            let made = js.create_stream(wanted).await;
            return made.map(|_| ()).map_err(|error| away("create", ROUTING_EVENTS, error));
        }
        Err(error) => return Err(away("look up", ROUTING_EVENTS, error)),
    };
    if same(&found, &wanted) {
        return Ok(());
    }
    let next = Config { num_replicas: found.num_replicas, placement: found.placement, ..wanted };
    js.update_stream(next).await.map(|_| ()).map_err(|error| away("change", ROUTING_EVENTS, error))
}

fn config(network: &NetworkId) -> Config {
    Config {
        name: ROUTING_EVENTS.into(),
        subjects: vec![format!("{}.>", subject::routing(network))],
        retention: RetentionPolicy::Limits,
        // Routes outlive a power cut of the founder.
        storage: StorageType::File,
        // The last value of a key says all there is to say, so a snapshot is the stream itself. Per subject the old
        // message always makes room.
        max_messages_per_subject: 1,
        // For the stream as a whole it is the other way round: the oldest message is some key's only one, and a key
        // must not vanish because another one came. A full stream refuses.
        discard: DiscardPolicy::New,
        max_bytes: MAX_BYTES,
        max_message_size: MAX_MESSAGE,
        max_messages: -1,
        // A route does not end because nobody changes it.
        max_age: std::time::Duration::ZERO,
        // Keys that are gone leave a message, instances are never used twice: without an end of their own those
        // messages would fill the stream. See `publish::TOMBSTONE_TTL`.
        allow_message_ttl: true,
        // Reads of one key without a consumer.
        allow_direct: true,
        // What is taken away must be said by an event; a message that vanishes is seen by nobody. A roll-up would let
        // whoever may write one key wipe all the others.
        deny_delete: true,
        deny_purge: true,
        allow_rollup: false,
        republish: Some(republished(ROUTING_EVENTS)),
        num_replicas: 1,
        ..Default::default()
    }
}

/// Whether a stream has the settings that matter here.
fn same(found: &Config, wanted: &Config) -> bool {
    let of = |config: &Config| {
        (
            (config.subjects.clone(), config.max_messages_per_subject, config.discard),
            (config.max_bytes, config.max_message_size, config.max_messages, config.max_age),
            (config.allow_message_ttl, config.allow_direct),
            (config.deny_delete, config.deny_purge, config.allow_rollup),
            same_republish(config, ROUTING_EVENTS),
        )
    };
    of(found) == of(wanted)
}

fn is_absent(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Some 500,000 instances; what followers hold in memory is bounded by it too.
const MAX_BYTES: i64 = 256 << 20;
/// A service with 10,000 instances is about 200 KiB.
const MAX_MESSAGE: i32 = 1 << 20;
