//! Certificates of services in the store: checked before they are written, listed without their keys, removed.
//!
//! Who can read the bucket is said in decision 0011.

use crate::failure::{Failure, Result};
use crate::network::context::Network;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::certificate::{
    BadChain, CertificateFacts, CertificateImport, CertificateRecord, CertificateRow, MOST_BYTES,
    only_certificates, store_key,
};
use ployz_host::clock;
use ployz_nats::bucket::StoreError;
use ployz_nats::certificates::Certificates;
use ployz_nats::store::Store;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Checks and stores a certificate, in the place of the one with the same first name.
pub async fn import(mesh: &Network, import: CertificateImport) -> Result<CertificateRow> {
    let (facts, record) = checked(import, &mesh.network().machine.id, clock::now())?;
    let named = |error| conflict(error, facts.name());
    open(mesh).await?.put(&store_key(facts.name()), &record).await.map_err(named)?;
    tracing::info!(
        target: "audit",
        name = facts.name(),
        fingerprint = facts.fingerprint,
        "certificate imported"
    );
    Ok(row(facts, &record))
}

/// All of them, by name. One that cannot be read is named in the log and left out.
pub async fn list(mesh: &Network) -> Result<Vec<CertificateRow>> {
    let bucket = open(mesh).await?;
    let mut rows = Vec::new();
    for key in bucket.keys().await? {
        match bucket.get(&key).await {
            Ok(Some(record)) => match CertificateFacts::of_pem(&record.chain) {
                Ok(facts) => rows.push(row(facts, &record)),
                Err(error) => tracing::warn!(key, %error, "a certificate in the store is invalid"),
            },
            Ok(None) => {}
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::warn!(key, %error, "a certificate in the store cannot be read")
            }
            Err(error) => return Err(error.into()),
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// Takes the certificate with this first name out; its old values leave the disk when the store compacts its files.
pub async fn remove(mesh: &Network, name: &str) -> Result<()> {
    let bucket = open(mesh).await?;
    let missing = || {
        Failure::new(ErrorCode::CertificateNotFound, format!("there is no certificate {name} in the store"))
    };
    if !ployz_core::wire::v1::certificate::is_name(name) {
        return Err(missing());
    }
    // One that was imported meanwhile is not what was meant.
    let removed = bucket.delete(&store_key(name)).await.map_err(|error| conflict(error, name))?;
    if !removed {
        return Err(missing());
    }
    tracing::info!(target: "audit", name, "certificate removed");
    Ok(())
}

/// A conflict names the certificate and not its key.
fn conflict(error: StoreError, name: &str) -> StoreError {
    match error {
        StoreError::Conflict(_) => StoreError::Conflict(format!("the certificate of {name}")),
        other => other,
    }
}

async fn open(mesh: &Network) -> Result<Certificates> {
    let store: Option<Store> = mesh.store.borrow().clone();
    let store = store.ok_or_else(|| StoreError::Away {
        operation: "use the certificates",
        detail: "this machine is not connected to it".into(),
    })?;
    Ok(Certificates::open(&store).await?)
}

fn row(facts: CertificateFacts, record: &CertificateRecord) -> CertificateRow {
    CertificateRow {
        name: facts.name().to_owned(),
        facts,
        machine: record.machine.clone(),
        imported_at: record.imported_at,
    }
}

/// Everything that is asked of a certificate; errors hold nothing of the key.
fn checked(
    import: CertificateImport,
    machine: &MachineId,
    now: u64,
) -> Result<(CertificateFacts, CertificateRecord)> {
    let chain = only_certificates(&import.chain);
    let refused = |error: BadChain| {
        let code = match error {
            BadChain::Expired { .. } | BadChain::NotYet { .. } => ErrorCode::CertificateExpired,
            _ => ErrorCode::CertificateInvalid,
        };
        Failure::because(code, "the certificate cannot be used", &error)
    };
    let facts = CertificateFacts::of_pem(&chain).map_err(refused)?;
    facts.check(now).map_err(refused)?;
    fits(&chain, import.key.expose())?;
    let record = CertificateRecord { chain, key: import.key, machine: machine.clone(), imported_at: now };
    Ok((facts, record))
}

fn fits(chain: &str, key: &str) -> Result<()> {
    let invalid = |message: &str| Failure::new(ErrorCode::CertificateInvalid, message);
    let mismatch = |message: &str| Failure::new(ErrorCode::CertificateKeyMismatch, message);
    if key.len() > MOST_BYTES {
        return Err(mismatch("the private key is too large"));
    }
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let chain = chain.map_err(|_| invalid("the certificate cannot be read"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| mismatch("the key contains no PEM private key"))?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(mismatch("the private key does not match the certificate"))
        }
        Err(error) => Err(Failure::because(
            ErrorCode::CertificateInvalid,
            "certificate and key cannot be served",
            &error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(not_after: i32) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec!["a.org".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn check(chain: String, key: String) -> Result<CertificateFacts> {
        let now = 1_700_000_000;
        checked(CertificateImport { chain, key: key.into() }, &"n1".parse().unwrap(), now).map(|done| done.0)
    }

    #[test]
    fn what_can_be_served_is_taken_and_everything_else_has_its_code() {
        let (chain, key) = made(2100);
        assert_eq!(check(chain.clone(), key.clone()).unwrap().names, ["a.org"]);
        let code =
            |chain: &str, key: &str| check(chain.to_owned(), key.to_owned()).map(drop).unwrap_err().code;
        let (old, old_key) = made(2021);
        assert_eq!(code(&old, &old_key), ErrorCode::CertificateExpired);
        assert_eq!(code(&chain, &old_key), ErrorCode::CertificateKeyMismatch);
        assert_eq!(code(&chain, "junk"), ErrorCode::CertificateKeyMismatch);
        assert_eq!(code("junk", &key), ErrorCode::CertificateInvalid);
        assert_eq!(code(&key, &key), ErrorCode::CertificateInvalid);
    }

    #[test]
    fn no_error_holds_anything_of_the_key() {
        let (chain, _) = made(2100);
        let (_, key) = made(2100);
        let secret = key.lines().nth(1).unwrap().to_owned();
        let failure = check(chain, key).unwrap_err();
        assert!(!format!("{failure:?}").contains(&secret));
    }
}
