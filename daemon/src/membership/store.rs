//! The store's buckets, typed. The only module that knows async-nats.
//!
//! Every write is a compare-and-set or create-only, so that a retry after an unknown outcome is safe: the caller
//! reads again and sees what it finds.

use crate::mesh::presence::Presence;
use crate::nats::config::{CLIENT_PORT, DOMAIN};
use async_nats::jetstream::kv::{self, Operation};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ployz_core::id::{InviteId, MachineId, NetworkId};
use ployz_core::key::PublicKey;
use ployz_core::wire::v1::record::{InviteRecord, MachineMembership, NameLock, SubnetLock};
use ployz_core::wire::v1::subject::{self, INVITES, LOCKS, MACHINES};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

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
    /// Somebody else was faster; read again.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// A value that is not what it should be.
    #[error("{key} in the store is damaged: {detail}")]
    Damaged {
        /// Which key.
        key: String,
        /// How.
        detail: String,
    },
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
    /// Put, with how many changes are still to come.
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

/// An open store.
#[derive(Clone)]
pub struct Store {
    client: Client,
    network: NetworkId,
    machines: kv::Store,
    invites: kv::Store,
    locks: kv::Store,
    presence: Arc<Presence>,
}

/// What slices' and names' reservations have in common.
#[derive(Deserialize)]
struct Reservation {
    owner: PublicKey,
    #[serde(default)]
    invite: Option<InviteId>,
}

type Result<T> = std::result::Result<T, StoreError>;

/// Connects to the server on this machine's overlay address.
pub async fn connect(overlay: Ipv6Addr, seed: &str, machine: &MachineId) -> Result<Client> {
    let at = SocketAddrV6::new(overlay, CLIENT_PORT, 0, 0);
    ConnectOptions::with_nkey(seed.to_owned())
        .name(format!("ployzd {machine}"))
        .custom_inbox_prefix(subject::inbox(machine))
        .request_timeout(Some(REQUEST))
        .connection_timeout(REQUEST)
        .ping_interval(Duration::from_secs(5))
        .connect(format!("nats://{at}"))
        .await
        .map_err(|error| away("connect", error))
}

impl Store {
    /// Opens the buckets; the founder makes those that are missing.
    pub async fn open(client: Client, network: &NetworkId, founder: bool) -> Result<Self> {
        let js = jetstream::with_domain(client.clone(), DOMAIN);
        if founder {
            for bucket in [MACHINES, INVITES, LOCKS] {
                ensure_bucket(&js, bucket).await?;
            }
        }
        let open = |bucket: &'static str| {
            let js = js.clone();
            async move { js.get_key_value(bucket).await.map_err(|error| away("open the buckets", error)) }
        };
        let (machines, invites, locks) = tokio::try_join!(open(MACHINES), open(INVITES), open(LOCKS))?;
        let presence = Arc::default();
        Ok(Self { client, network: network.clone(), machines, invites, locks, presence })
    }

    /// With what is known of the other machines from sessions before this one.
    pub fn knowing(self, presence: Arc<Presence>) -> Self {
        Self { presence, ..self }
    }

    /// What is known of the other machines' connections.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The connection, for requests between machines.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The network it serves.
    pub fn network(&self) -> &NetworkId {
        &self.network
    }

    /// One read through to the founder.
    pub async fn ping(&self) -> Result<()> {
        count(&self.machines).await.map(|_| ())
    }

    /// A member.
    pub async fn machine(&self, id: &MachineId) -> Result<Option<Stored<MachineMembership>>> {
        get(&self.machines, id.as_str()).await
    }

    /// Makes a member's record; [`StoreError::Conflict`] when the name is taken.
    pub async fn create_machine(&self, machine: &MachineMembership) -> Result<u64> {
        create(&self.machines, machine.id.as_str(), machine).await
    }

    /// Changes a member's record.
    pub async fn update_machine(&self, machine: &MachineMembership, revision: u64) -> Result<u64> {
        update(&self.machines, machine.id.as_str(), machine, revision).await
    }

    /// An invite.
    pub async fn invite(&self, id: &InviteId) -> Result<Option<Stored<InviteRecord>>> {
        get(&self.invites, id.as_str()).await
    }

    /// All invites.
    pub async fn invite_list(&self) -> Result<Vec<InviteRecord>> {
        all(&self.invites).await
    }

    /// Stores a new invite.
    pub async fn create_invite(&self, invite: &InviteRecord) -> Result<u64> {
        create(&self.invites, invite.id.as_str(), invite).await
    }

    /// Changes an invite.
    pub async fn update_invite(&self, invite: &InviteRecord, revision: u64) -> Result<u64> {
        update(&self.invites, invite.id.as_str(), invite, revision).await
    }

    /// Takes a slice; [`StoreError::Conflict`] when it is taken.
    pub async fn lock_subnet(&self, lock: &SubnetLock) -> Result<u64> {
        create(&self.locks, &subject::subnet_lock(&lock.subnet), lock).await
    }

    /// Takes a name; [`StoreError::Conflict`] when it is taken.
    pub async fn lock_name(&self, name: &MachineId, lock: &NameLock) -> Result<u64> {
        create(&self.locks, &subject::name_lock(name), lock).await
    }

    /// Who holds a name.
    pub async fn name_lock(&self, name: &MachineId) -> Result<Option<Stored<NameLock>>> {
        get(&self.locks, &subject::name_lock(name)).await
    }

    /// Gives a reservation back, if it still is the one that was read.
    pub async fn unlock(&self, key: &str, revision: u64) -> Result<()> {
        let done = self.locks.delete_expect_revision(key, Some(revision)).await;
        done.map_err(|error| away("release a reservation", error))
    }

    /// All reservations that were made under an invite: key, revision, invite, owner.
    pub async fn reservations(&self) -> Result<Vec<(String, u64, InviteId, PublicKey)>> {
        let mut found = Vec::new();
        // Locks of namespaces belong to deploys and are not made under an invite.
        for key in keys(&self.locks).await?.into_iter().filter(|key| !key.starts_with("deploy.")) {
            let lock: Option<Stored<Reservation>> = get(&self.locks, &key).await?;
            if let Some(Stored { value: Reservation { owner, invite: Some(invite) }, revision }) = lock {
                found.push((key, revision, invite, owner));
            }
        }
        Ok(found)
    }

    /// Puts a member back that the store has never heard of. One that was deleted stays deleted.
    pub async fn restore_machine(&self, machine: &MachineMembership) -> Result<bool> {
        let known = self.machines.entry(machine.id.as_str()).await.map_err(|error| away("read", error))?;
        if known.is_some() {
            return Ok(false);
        }
        create(&self.machines, machine.id.as_str(), machine).await?;
        Ok(true)
    }

    /// All taken slices.
    pub async fn subnet_locks(&self) -> Result<Vec<Stored<SubnetLock>>> {
        let keys = keys(&self.locks).await?;
        let reads = keys.iter().filter(|key| key.starts_with("subnet.")).map(|key| get(&self.locks, key));
        let found = futures_util::future::try_join_all(reads).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Follows the members: all there are, then [`Change::Caught`], then every change.
    pub async fn watch_machines(&self) -> Result<impl Stream<Item = Change<MachineMembership>> + use<>> {
        watch(&self.machines).await
    }

    /// Follows the invites in the same way.
    pub async fn watch_invites(&self) -> Result<impl Stream<Item = Change<InviteRecord>> + use<>> {
        watch(&self.invites).await
    }
}

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
            Ok(Some(Stored { value: decode(key, &entry.value)?, revision: entry.revision }))
        }
        Ok(_) => Ok(None),
        Err(error) => Err(away("read", error)),
    }
}

/// How many values a bucket holds, as the server says now (`status` would answer from memory).
async fn count(bucket: &kv::Store) -> Result<u64> {
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

async fn all<T: DeserializeOwned>(bucket: &kv::Store) -> Result<Vec<T>> {
    let mut values = Vec::new();
    for key in keys(bucket).await? {
        values.extend(get(bucket, &key).await?.map(|stored: Stored<T>| stored.value));
    }
    Ok(values)
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

pub(crate) async fn watch<T: DeserializeOwned + Send + 'static>(
    bucket: &kv::Store,
) -> Result<impl Stream<Item = Change<T>> + use<T>> {
    let empty = count(bucket).await? == 0;
    let changes = bucket.watch_with_history(">").await.map_err(|error| away("watch", error))?;
    let first = futures_util::stream::iter(empty.then_some(Change::Caught));
    let mut caught = empty;
    let rest = changes.flat_map(move |item| {
        let mut said = Vec::new();
        match item {
            Err(error) => said.push(Change::Hiccup(error.to_string())),
            Ok(entry) => {
                match entry.operation {
                    Operation::Put => match decode(&entry.key, &entry.value) {
                        Ok(value) => said.push(Change::Put(entry.key, value)),
                        Err(error) => {
                            tracing::warn!("{error}");
                            said.push(Change::Unreadable(entry.key));
                        }
                    },
                    Operation::Delete | Operation::Purge => said.push(Change::Gone(entry.key)),
                }
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

pub(crate) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Bytes> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from)
        .map_err(|error| StoreError::Damaged { key: key.to_owned(), detail: error.to_string() })
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Damaged { key: key.to_owned(), detail: error.to_string() })
}

pub(crate) fn away(operation: &'static str, error: impl std::error::Error) -> StoreError {
    StoreError::Away { operation, detail: ployz_core::text::chain(&error) }
}

const REQUEST: Duration = Duration::from_secs(5);
