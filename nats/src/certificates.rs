//! The bucket of certificates. Who can read it is said in decision 0011; what may be written is checked by who writes.

use crate::bucket::{Result, StoreError, away, create, ensure_bucket, get, keys, update};
use crate::store::Store;
use async_nats::Client;
use async_nats::jetstream::{self, kv};
use ployz_core::wire::v1::certificate::CertificateRecord;
use ployz_core::wire::v1::subject::{CERTIFICATES, DOMAIN};

/// Makes the bucket where it is missing.
pub async fn ensure(client: &Client) -> Result<()> {
    ensure_bucket(&jetstream::with_domain(client.clone(), DOMAIN), CERTIFICATES).await
}

/// The open bucket.
pub struct Certificates(kv::Store);

impl Certificates {
    /// Opens it.
    pub async fn open(store: &Store) -> Result<Self> {
        let js = jetstream::with_domain(store.client().clone(), DOMAIN);
        let opened = js.get_key_value(CERTIFICATES).await;
        opened.map(Self).map_err(|error| away("open the certificates", error))
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
        for _ in 0..CAS_ATTEMPTS {
            let written = match self.revision(key).await? {
                None => create(&self.0, key, record).await,
                Some(revision) => update(&self.0, key, record, revision).await,
            };
            match written {
                Err(StoreError::Conflict(_)) => continue,
                other => return other.map(drop),
            }
        }
        Err(StoreError::Conflict(key.to_owned()))
    }

    /// Deletes what is under a key; false where nothing is. One that was written meanwhile stays, and is a conflict.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let Some(revision) = self.revision(key).await? else { return Ok(false) };
        let removed = self.0.delete_expect_revision(key, Some(revision)).await;
        removed.map_err(|error| match error.kind() {
            kv::DeleteErrorKind::WrongLastRevision => StoreError::Conflict(key.to_owned()),
            _ => away("remove a certificate", error),
        })?;
        Ok(true)
    }

    async fn revision(&self, key: &str) -> Result<Option<u64>> {
        let entry = self.0.entry(key).await.map_err(|error| away("read", error))?;
        Ok(entry.filter(|entry| entry.operation == kv::Operation::Put).map(|entry| entry.revision))
    }
}

const CAS_ATTEMPTS: usize = 5;
