//! The bucket of certificates: for who writes it ([`Certificates`]), and followed by a gateway ([`Session`]). Who can read it is
//! said in decision 0011; what may be written is checked by who writes.

use crate::bucket::{
    Bucket, Change, Result, StoreError, Stored, away, compare_and_set, create, ensure_bucket, get, keys,
    stream_of, update, watch_bytes,
};
use crate::dialect::Dialect;
use crate::store::Store;
use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::certificate::CertificateRecord;
use ployz_core::wire::v1::subject::{self, CERTIFICATES, DOMAIN};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Makes the bucket where it is missing.
pub async fn ensure(client: &Client) -> Result<()> {
    ensure_bucket(&jetstream::with_domain(client.clone(), DOMAIN), CERTIFICATES).await
}

/// The open bucket.
pub struct Certificates(Bucket);

impl Certificates {
    /// Opens it.
    pub async fn open(store: &Store) -> Result<Self> {
        Bucket::open(store.client(), store.dialect(), CERTIFICATES).await.map(Self)
    }

    /// All keys, sorted.
    pub async fn keys(&self) -> Result<Vec<String>> {
        keys(&self.0).await
    }

    /// The certificate under a key.
    pub async fn get(&self, key: &str) -> Result<Option<CertificateRecord>> {
        Ok(get(&self.0, key).await?.map(|stored| stored.value))
    }

    /// Puts a certificate under a key, in the place of what is there, readable or not.
    pub async fn put(&self, key: &str, record: &CertificateRecord) -> Result<()> {
        let written = compare_and_set(|| async {
            Ok::<_, StoreError>(match self.revision(key).await? {
                None => create(&self.0, key, record).await,
                Some(revision) => update(&self.0, key, record, revision).await,
            })
        });
        written.await.map(drop)
    }

    /// Deletes what is under a key; false where nothing is. One that was written meanwhile stays, and is a conflict.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let Some(revision) = self.revision(key).await? else { return Ok(false) };
        let removed = self.0.kv.delete_expect_revision(key, Some(revision)).await;
        removed.map_err(|error| match error.kind() {
            kv::DeleteErrorKind::WrongLastRevision => StoreError::Conflict(key.to_owned()),
            _ => away("remove a certificate", error),
        })?;
        Ok(true)
    }

    async fn revision(&self, key: &str) -> Result<Option<u64>> {
        let entry = self.0.kv.entry(key).await.map_err(|error| away("read", error))?;
        Ok(entry.filter(|entry| entry.operation == kv::Operation::Put).map(|entry| entry.revision))
    }
}

/// What a gateway has of the bucket from one connection: all there is, then [`Change::Caught`], then every change.
pub struct Session {
    /// The connection lives as long as this.
    _bucket: Bucket,
    events: mpsc::Receiver<Event>,
    changes: BoxStream<'static, Change<Stored<Bytes>>>,
}

/// Why a session is over.
pub type Lost = Box<dyn std::error::Error + Send + Sync>;

impl Session {
    /// Connects as the gateway of this machine to the server at an address, with the seed of its user.
    pub async fn open(
        server: SocketAddr,
        seed: &str,
        machine: &MachineId,
    ) -> std::result::Result<Self, Lost> {
        let (tell, events) = mpsc::channel(16);
        let connecting = ConnectOptions::with_nkey(seed.to_owned())
            .name(format!("ployz-gateway certificates {machine}"))
            .custom_inbox_prefix(subject::sidecar_inbox(machine, "gateway"))
            .request_timeout(Some(REQUEST_TIMEOUT))
            .connection_timeout(REQUEST_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .event_callback(move |event| {
                let _ = tell.try_send(event);
                std::future::ready(())
            })
            .connect(format!("nats://{server}"));
        let client = timeout(2 * REQUEST_TIMEOUT, connecting).await??;
        let dialect = Dialect::of(&client, &stream_of(CERTIFICATES)).await;
        let bucket = timeout(REQUEST_TIMEOUT, Bucket::open(&client, dialect, CERTIFICATES)).await??;
        let changes = timeout(2 * REQUEST_TIMEOUT, watch_bytes(&bucket)).await??.boxed();
        Ok(Self { _bucket: bucket, events, changes })
    }

    /// The next change; cancel-safe. The library connects again by itself and does not say what it missed, so the first
    /// event of a loss ends the session: an error, after which it is to be dropped.
    pub async fn next(&mut self) -> std::result::Result<Change<Stored<CertificateRecord>>, Lost> {
        loop {
            // Cancel-safe: both channels keep what was not taken.
            let change = tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(Event::Connected | Event::LameDuckMode | Event::ClientError(_)) => continue,
                    Some(event) => return Err(event.to_string().into()),
                    None => return Err("the connection ended".into()),
                },
                change = self.changes.next() => change.ok_or("the watch ended")?,
            };
            if let Change::Hiccup(error) = change {
                return Err(error.into());
            }
            return Ok(change.read(|_, Stored { value, revision }| {
                // Its error is not shown: it may quote the value, which is a private key.
                serde_json::from_slice(&value).ok().map(|value| Stored { value, revision })
            }));
        }
    }
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(5);
