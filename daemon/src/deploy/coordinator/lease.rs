//! The right to change one namespace: a lock in the store that runs out by itself and is renewed while it is held.
//!
//! It is not what keeps deploys whole (the decision is), it keeps coordinators from working against each other.

use crate::failure::{Failure, Result};
use ployz_core::id::{DeployId, MachineId, Namespace};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::DeployLock;
use ployz_host::clock;
use ployz_nats::bucket::StoreError;
use ployz_nats::deploys::Records;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A lock that is held. Dropped without [`Lease::release`], it runs out.
pub struct Lease {
    records: Records,
    namespace: Namespace,
    held: DeployLock,
    state: Arc<State>,
    ends: CancellationToken,
    renewing: tokio::task::JoinHandle<()>,
}

struct State {
    sequence: AtomicU64,
    expires_at: AtomicU64,
    lost: AtomicBool,
}

/// Takes a namespace. One that is held is waited for if the holder is this machine: its predecessor died, because this
/// process carries out one deploy a namespace at a time.
pub async fn take(
    records: &Records,
    namespace: &Namespace,
    deploy: &DeployId,
    owner: &MachineId,
    say: &(dyn Fn(&str) + Send + Sync),
) -> Result<Lease> {
    let mut reported = false;
    for _ in 0..TRIES {
        let seen = records.lock(namespace).await?;
        match seen.lock {
            Some(lock) if lock.owner != *owner => return Err(held(namespace, &lock)),
            Some(_) => {
                if !reported {
                    say("waiting for the lock of this machine's earlier, interrupted deploy to expire");
                    reported = true;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            None => {
                let lock = fresh(deploy, owner);
                match records.put_lock(namespace, &lock, seen.sequence, LOCK_TTL).await {
                    Ok(sequence) => return Ok(Lease::hold(records, namespace, lock, sequence)),
                    Err(StoreError::Conflict(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Err(Failure::new(
        ErrorCode::DeployInProgress,
        format!("timed out waiting for the lock of namespace {namespace}"),
    ))
}

fn held(namespace: &Namespace, lock: &DeployLock) -> Failure {
    let left = lock.expires_at.saturating_sub(clock::now());
    let message = format!(
        "{} is deploying to namespace {namespace} (deploy {}); if it died, its lock expires in {left}s",
        lock.owner, lock.deploy
    );
    Failure::new(ErrorCode::DeployInProgress, message)
}

fn fresh(deploy: &DeployId, owner: &MachineId) -> DeployLock {
    DeployLock { deploy: deploy.clone(), owner: owner.clone(), expires_at: clock::now() + LOCK_TTL.as_secs() }
}

impl Lease {
    fn hold(records: &Records, namespace: &Namespace, lock: DeployLock, sequence: u64) -> Self {
        let state = Arc::new(State {
            sequence: AtomicU64::new(sequence),
            expires_at: AtomicU64::new(lock.expires_at),
            lost: AtomicBool::new(false),
        });
        let (records, namespace, ends) = (records.clone(), namespace.clone(), CancellationToken::new());
        let renewal = renew(records.clone(), namespace.clone(), lock.clone(), state.clone(), ends.clone());
        Self { records, namespace, held: lock, state, ends, renewing: tokio::spawn(renewal) }
    }

    /// Unix seconds until which a machine may do what its holder asks.
    pub fn not_after(&self) -> u64 {
        self.state.expires_at.load(Ordering::Acquire)
    }

    /// Whether it is still held.
    pub fn holds(&self) -> bool {
        !self.state.lost.load(Ordering::Acquire) && clock::now() < self.not_after()
    }

    /// Gives it back; one that cannot be given back runs out. A renewal under way is waited for: cut off, it could be written
    /// after all and keep others out until it runs out.
    pub async fn release(mut self) {
        self.ends.cancel();
        let _ = (&mut self.renewing).await;
        if let Err(error) = self.unlock().await {
            tracing::warn!(
                namespace = %self.namespace,
                deploy = %self.held.deploy,
                %error,
                "the deploy lock was not released"
            );
        }
    }

    async fn unlock(&self) -> std::result::Result<(), StoreError> {
        let sequence = self.state.sequence.load(Ordering::Acquire);
        match self.records.unlock(&self.namespace, sequence).await {
            // A renewal that was written and whose answer was lost.
            Err(StoreError::Conflict(key)) => match self.records.lock(&self.namespace).await? {
                seen if is(&seen.lock, &self.held) => {
                    self.records.unlock(&self.namespace, seen.sequence).await
                }
                _ => Err(StoreError::Conflict(key)),
            },
            other => other,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn is(lock: &Option<DeployLock>, held: &DeployLock) -> bool {
    lock.as_ref().is_some_and(|lock| lock.deploy == held.deploy && lock.owner == held.owner)
}

async fn renew(
    records: Records,
    namespace: Namespace,
    held: DeployLock,
    state: Arc<State>,
    ends: CancellationToken,
) {
    let mut pause = RENEW_INTERVAL;
    // Told to end between two renewals, never within one.
    while ends.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let lock = fresh(&held.deploy, &held.owner);
        match records.put_lock(&namespace, &lock, state.sequence.load(Ordering::Acquire), LOCK_TTL).await {
            Ok(sequence) => {
                state.sequence.store(sequence, Ordering::Release);
                state.expires_at.store(lock.expires_at, Ordering::Release);
                pause = RENEW_INTERVAL;
            }
            // A renewal that was written but not answered has moved the sequence on: what is there tells.
            Err(error) => match records.lock(&namespace).await {
                Ok(seen) if is(&seen.lock, &held) => {
                    state.sequence.store(seen.sequence, Ordering::Release);
                    pause = RETRY_DELAY;
                }
                Ok(_) => {
                    tracing::warn!(%namespace, deploy = %held.deploy, %error, "the deploy lock is lost");
                    return state.lost.store(true, Ordering::Release);
                }
                Err(_) => pause = RETRY_DELAY,
            },
        }
    }
}

/// How long a lock lasts. Long enough for a founder's restart, short enough to be waited for.
const LOCK_TTL: Duration = Duration::from_secs(20);
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_secs(1);
const TRIES: usize = 45;
