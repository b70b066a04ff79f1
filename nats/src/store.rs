//! A machine's connection to the store, and the records of the network: members, invites, reservations.
//!
//! Every write is a compare-and-set or create-only ([`crate::bucket`]).

use crate::bucket::{
    Bucket, Change, Result, StoreError, Stored, all, away, compare_and_set, count, create, ensure_bucket,
    get, keys, readable, stream_of, update, watch,
};
use crate::dialect::Dialect;
use crate::events::Publisher;
use crate::presence::Presence;
use async_nats::jetstream::kv::Operation;
use async_nats::{Client, ConnectOptions};
use futures_util::Stream;
use ployz_core::id::{InviteId, MachineId, Namespace, NetworkId};
use ployz_core::key::PublicKey;
use ployz_core::mesh::belief;
use ployz_core::wire::v1::deploy::DeployLock;
use ployz_core::wire::v1::envelope::Signer;
use ployz_core::wire::v1::record::{DestroyRecord, InviteRecord, MachineMembership, NameLock, SubnetLock};
use ployz_core::wire::v1::subject::{self, CLIENT_PORT, INVITES, LOCKS, MACHINES};
use serde::Deserialize;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

/// An open store.
#[derive(Clone)]
pub struct Store {
    client: Client,
    network: NetworkId,
    dialect: Dialect,
    machines: Bucket,
    invites: Bucket,
    locks: Bucket,
    presence: Arc<Presence>,
    signer: Option<Arc<Signer>>,
}

/// What slices' and names' reservations have in common.
#[derive(Deserialize)]
struct Reservation {
    owner: PublicKey,
    #[serde(default)]
    invite: Option<InviteId>,
}

/// Connects to the server on this machine's overlay address.
pub async fn connect(overlay: Ipv6Addr, seed: &str, machine: &MachineId) -> Result<Client> {
    let at = SocketAddrV6::new(overlay, CLIENT_PORT, 0, 0);
    ConnectOptions::with_nkey(seed.to_owned())
        .name(format!("ployzd {machine}"))
        .custom_inbox_prefix(subject::inbox(machine))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .connection_timeout(REQUEST_TIMEOUT)
        .ping_interval(Duration::from_secs(5))
        .connect(format!("nats://{at}"))
        .await
        .map_err(|error| away("connect", error))
}

impl Store {
    /// Opens the buckets; the founder makes those that are missing.
    pub async fn open(client: Client, network: &NetworkId, founder: bool) -> Result<Self> {
        // The founder's ployzd is in the store's own account.
        let dialect =
            if founder { Dialect::Domain } else { Dialect::of(&client, &stream_of(MACHINES)).await };
        if founder {
            for bucket in [MACHINES, INVITES, LOCKS] {
                ensure_bucket(&dialect.context(&client), bucket).await?;
            }
        }
        let open = |bucket| Bucket::open(&client, dialect, bucket);
        let (machines, invites, locks) = tokio::try_join!(open(MACHINES), open(INVITES), open(LOCKS))?;
        let presence = Arc::default();
        Ok(Self {
            client,
            network: network.clone(),
            dialect,
            machines,
            invites,
            locks,
            presence,
            signer: None,
        })
    }

    /// With what is known of the other machines from sessions before this one.
    pub fn knowing(self, presence: Arc<Presence>) -> Self {
        Self { presence, ..self }
    }

    /// With the hand that signs this machine's commands to others.
    pub fn signing(self, signer: Arc<Signer>) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// The envelope of a command to a machine ([`ployz_core::wire::v1::envelope`]).
    pub(crate) fn seal(&self, machine: &MachineId, command: &str, payload: &[u8]) -> Option<String> {
        let (now, nonce) = (ployz_host::clock::now(), ployz_host::random::bytes());
        Some(self.signer.as_ref()?.seal(&self.network, machine, command, payload, now, nonce))
    }

    /// What is known of the other machines' connections.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The connection, for requests between machines.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A writer of routing events over this connection.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(&self.client, &self.network, self.dialect)
    }

    /// How this connection asks the store.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
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

    /// Who holds a namespace for a deploy.
    pub async fn deploy_lock(&self, namespace: &Namespace) -> Result<Option<Stored<DeployLock>>> {
        get(&self.locks, &subject::deploy_lock(namespace)).await
    }

    /// The destruction of the network that an operator asks for.
    pub async fn destroy_record(&self) -> Result<Option<Stored<DestroyRecord>>> {
        get(&self.locks, subject::DESTROY_LOCK).await
    }

    /// Writes it; over one that is there, which is an earlier try's.
    pub async fn put_destroy_record(&self, record: &DestroyRecord) -> Result<u64> {
        compare_and_set(|| async {
            Ok::<_, StoreError>(match self.destroy_record().await? {
                None => create(&self.locks, subject::DESTROY_LOCK, record).await,
                Some(found) => update(&self.locks, subject::DESTROY_LOCK, record, found.revision).await,
            })
        })
        .await
    }

    /// Gives a reservation back, if it still is the one that was read.
    pub async fn unlock(&self, key: &str, revision: u64) -> Result<()> {
        let done = self.locks.kv.delete_expect_revision(key, Some(revision)).await;
        done.map_err(|error| away("release a reservation", error))
    }

    /// All reservations that were made under an invite: key, revision, invite, owner.
    pub async fn reservations(&self) -> Result<Vec<(String, u64, InviteId, PublicKey)>> {
        let mut found = Vec::new();
        // Other locks are not made under an invite.
        let of_invites = |key: &String| key.starts_with("subnet.") || key.starts_with("name.");
        for key in keys(&self.locks).await?.into_iter().filter(of_invites) {
            let lock: Option<Option<Stored<Reservation>>> = readable(get(&self.locks, &key).await)?;
            let lock = lock.flatten();
            if let Some(Stored { value: Reservation { owner, invite: Some(invite) }, revision }) = lock {
                found.push((key, revision, invite, owner));
            }
        }
        Ok(found)
    }

    /// Puts a member back that the store has never heard of, its reservation first, or whose record another hand made unreadable or
    /// another machine's. One that was deleted stays deleted.
    pub async fn restore_machine(&self, machine: &MachineMembership) -> Result<bool> {
        let key = machine.id.as_str();
        let known = self.machines.kv.entry(key).await.map_err(|error| away("read", error))?;
        if let Some(known) = known {
            let found = serde_json::from_slice(&known.value);
            let stands = found.is_ok_and(|found: MachineMembership| belief::is_same(&found, machine));
            if known.operation != Operation::Put || stands {
                return Ok(false);
            }
            return update(&self.machines, key, machine, known.revision).await.map(|_| true);
        }
        self.keep_subnet(machine).await?;
        create(&self.machines, key, machine).await?;
        Ok(true)
    }

    /// Takes the slice that a machine has already, unless it is taken.
    pub async fn keep_subnet(&self, machine: &MachineMembership) -> Result<()> {
        let lock = SubnetLock { subnet: machine.subnet, owner: machine.public_key, invite: None };
        match self.lock_subnet(&lock).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All taken slices, but for what cannot be read: to take one of those is a conflict all the same.
    pub async fn subnet_locks(&self) -> Result<Vec<Stored<SubnetLock>>> {
        let keys = keys(&self.locks).await?;
        let reads = keys.iter().filter(|key| key.starts_with("subnet."));
        let reads = reads.map(async |key| readable(get(&self.locks, key).await));
        let found: Vec<Option<Option<Stored<SubnetLock>>>> =
            futures_util::future::try_join_all(reads).await?;
        Ok(found.into_iter().flatten().flatten().collect())
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

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
