//! Following the store: connect, publish this machine's record, take in everybody else's.
//!
//! Whatever goes wrong here is a health value and another try; the data plane keeps what it has.

use crate::keys;
use crate::network::context::{Health, Network};
use crate::network::{records, routes};
use futures_util::{Stream, StreamExt};
use ployz_core::adopt::Trigger;
use ployz_core::wire::v1::api::Phase;
use ployz_core::wire::v1::record::{InviteRecord, MachineMembership};
use ployz_host::clock;
use ployz_nats::bucket::{Change, StoreError, Stored, compare_and_set};
use ployz_nats::rpc::Router;
use ployz_nats::store::{self, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Connects and follows, for ever.
pub async fn run(mesh: Arc<Network>, router: Box<dyn Fn() -> Router + Send + Sync>) {
    loop {
        let error = match Box::pin(session(&mesh, &router())).await {
            Ok(()) => "the connection ended".to_owned(),
            Err(error) => ployz_core::text::chain(error.as_ref()),
        };
        unhealthy(&mesh, error);
        mesh.store.send_replace(None);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn session(mesh: &Arc<Network>, router: &Router) -> Result<(), AnyError> {
    let network = mesh.network();
    let seed = mesh.keys.nats_seed.expose();
    let client = store::connect(network.machine.overlay_ip, seed, &network.machine.id).await?;
    let signer =
        keys::signer(&mesh.keys, &network.machine.id).ok_or("keys.json holds no valid signing key")?;
    let store = Store::open(client, &network.id, network.is_founder()).await?;
    let store = store.knowing(mesh.presence.clone()).signing(Arc::new(signer));
    if network.is_founder() {
        ployz_nats::events::ensure_stream(store.client(), &network.id).await?;
        ployz_nats::deploys::ensure(store.client(), &network.id).await?;
        ployz_nats::certificates::ensure(store.client()).await?;
        found(&store, mesh).await?;
        publish_drafts(&store, mesh).await?;
    }
    publish(&store, mesh).await?;
    if let Err(error) = routes::publish(&store, &network).await {
        // Its name is not answered until the next session; everything else works.
        tracing::warn!(error = %ployz_core::text::chain(&error), "cannot publish this machine's route");
    }
    let commands = Router::subscribe(&store, &network.machine.id).await?;
    mesh.store.send_replace(Some(store.clone()));
    // Both end with this future; neither keeps a network that was left.
    tokio::select! {
        result = follow(mesh, &store) => result,
        () = router.run(commands) => Err("the subscription for commands ended".into()),
    }
}

/// The founder's own place: its node subnet and its record, made once. A store that came back empty is given the members
/// that are still known, so that nobody's tunnels are taken for removed.
pub async fn found(store: &Store, mesh: &Network) -> Result<(), StoreError> {
    let (own, known) = (mesh.network().machine, mesh.peers.borrow().machines.clone());
    for machine in known.iter().filter(|machine| machine.id != own.id) {
        if store.restore_machine(machine).await? {
            tracing::warn!(
                machine = %machine.id,
                "the store had no record of a machine: restored from this machine's copy"
            );
        }
    }
    store.keep_subnet(&own).await?;
    match store.create_machine(&own).await {
        Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Brings this machine's record in the store to what it is; writes only what differs.
pub async fn publish(store: &Store, mesh: &Network) -> Result<(), StoreError> {
    compare_and_set(|| async {
        let own = mesh.network().machine;
        let (value, revision) = match store.machine(&own.id).await {
            Ok(Some(Stored { value, revision })) => (Some(value), revision),
            Ok(None) => return Ok(Ok(())), // not a member (yet, or any more): `follow` and the join decide
            Err(StoreError::Damaged { revision: Some(revision), .. }) => (None, revision),
            Err(error) => return Err(error),
        };
        let wanted = records::own(&own, value.as_ref());
        if value.as_ref() == Some(&wanted) {
            return Ok(Ok(()));
        }
        let wanted = MachineMembership { updated_at: clock::now(), ..wanted };
        Ok(store.update_machine(&wanted, revision).await.map(drop))
    })
    .await
}

/// Puts the invites into the store that were made while the network did not run. Cut short, it is done again: an invite that
/// is there already was put by the time before.
async fn publish_drafts(store: &Store, mesh: &Network) -> Result<(), StoreError> {
    let drafts = mesh.peers.borrow().drafts.clone();
    for draft in drafts {
        if draft.expires_at > clock::now() {
            match store.create_invite(&draft).await {
                Ok(_) | Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if let Err(error) = mesh.learn(|peers| peers.drafts.retain(|other| other.id != draft.id)) {
            tracing::warn!(
                invite = %draft.id,
                error = %ployz_core::text::chain(&error),
                "cannot write the invites to disk"
            );
        }
    }
    Ok(())
}

/// Takes in every member and invite, until the watch ends or the store is away.
pub async fn follow(mesh: &Arc<Network>, store: &Store) -> Result<(), AnyError> {
    let mut machines = pin!(store.watch_machines().await?);
    let mut invites = pin!(store.watch_invites().await?);
    let mut seen = Seen::default();
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    loop {
        // Cancel-safe: streams and intervals lose nothing when another arm wins.
        tokio::select! {
            change = next(&mut machines) => seen.machine(change?, mesh),
            change = next(&mut invites) => seen.invite(change?, mesh),
            () = mesh.late_news.notified() => {
                tracing::debug!("watch is behind, restarting it");
                machines.set(store.watch_machines().await?);
                invites.set(store.watch_invites().await?);
                seen = Seen::default();
                continue;
            }
            _ = check.tick() => {
                if let Err(error) = store.ping().await {
                    // The watches may be silent for long after this; a new session reads everything again.
                    wait_until_back(mesh, store, error).await;
                    return Ok(());
                }
                if mesh.network().is_founder() || seen.caught() {
                    healthy(mesh);
                }
                // No more often than this, or two would write against each other for ever.
                if seen.caught() && records::is_own_stale(mesh, &seen.machines, &seen.unreadable) {
                    publish(store, mesh).await?;
                }
                continue;
            }
        }
        if seen.caught() {
            let network = mesh.network();
            let own = network.machine.id.clone();
            let joining = matches!(network.lifecycle, crate::state::Stored::Joining { .. });
            if !joining && !seen.machines.contains_key(own.as_str()) {
                // A picture without this machine is not one to take tunnels down by.
                return Err(
                    "the store has no record of this machine; keeping the members known before".into()
                );
            }
            let members = records::believed(mesh, &network, &seen.machines, &seen.unreadable);
            mesh.learn(|peers| {
                let own_open = |invite: &InviteRecord| invite.issuer == own && !invite.is_over(clock::now());
                let kept = seen.invites.iter().filter(|(key, invite)| {
                    invite.id.as_str() == *key
                        && own_open(invite)
                        && records::may_join(&network, &members, invite)
                });
                peers.invites = kept.map(|(_, invite)| invite.clone()).collect();
                peers.machines = members.clone();
            })?;
            healthy(mesh);
        }
    }
}

async fn next<T>(stream: &mut (impl Stream<Item = Change<T>> + Unpin)) -> Result<Change<T>, AnyError> {
    stream.next().await.ok_or_else(|| "the watch ended".into())
}

async fn wait_until_back(mesh: &Network, store: &Store, first: StoreError) {
    unhealthy(mesh, first.to_string());
    while let Err(error) = store.ping().await {
        unhealthy(mesh, error.to_string());
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

fn healthy(mesh: &Network) {
    let fine = Health { healthy: true, since: None, error: None };
    mesh.sync.send_if_modified(|health| {
        let changed = *health != fine;
        if changed {
            tracing::info!("the store is connected");
            *health = fine;
        }
        changed
    });
    mesh.phase.send_if_modified(|phase| {
        let start = *phase == Phase::Bootstrapping;
        if start {
            *phase = Phase::Running;
        }
        start
    });
}

fn unhealthy(mesh: &Network, error: String) {
    mesh.sync.send_if_modified(|health| {
        let since =
            if health.healthy { Some(clock::now()) } else { health.since.or_else(|| Some(clock::now())) };
        if health.healthy || health.error.as_deref() != Some(&error) {
            tracing::warn!(error, "the store is unavailable");
            mesh.request_reconcile(Trigger::StoreAway);
        }
        *health = Health { healthy: false, since, error: Some(error) };
        true
    });
}

#[derive(Default)]
struct Seen {
    machines: BTreeMap<String, MachineMembership>,
    invites: BTreeMap<String, InviteRecord>,
    /// Keys of members whose value cannot be read.
    unreadable: BTreeSet<String>,
    caught_machines: bool,
    caught_invites: bool,
}

impl Seen {
    /// Only a complete picture may take somebody away.
    fn caught(&self) -> bool {
        self.caught_machines && self.caught_invites
    }

    fn machine(&mut self, change: Change<MachineMembership>, mesh: &Network) {
        match &change {
            Change::Unreadable(key) => drop(self.unreadable.insert(key.clone())),
            Change::Put(key, _) | Change::Gone(key) => drop(self.unreadable.remove(key)),
            Change::Caught | Change::Hiccup(_) => {}
        }
        let before = |key: &str| mesh.peers.borrow().machines.iter().find(|m| m.id.as_str() == key).cloned();
        take(&mut self.machines, &mut self.caught_machines, change, before);
    }

    fn invite(&mut self, change: Change<InviteRecord>, mesh: &Network) {
        let before = |key: &str| mesh.peers.borrow().invites.iter().find(|i| i.id.as_str() == key).cloned();
        take(&mut self.invites, &mut self.caught_invites, change, before);
    }
}

fn take<T>(
    values: &mut BTreeMap<String, T>,
    caught: &mut bool,
    change: Change<T>,
    before: impl FnOnce(&str) -> Option<T>,
) {
    match change {
        Change::Put(key, value) => {
            values.insert(key, value);
        }
        Change::Gone(key) => {
            values.remove(&key);
        }
        Change::Unreadable(key) => {
            if !values.contains_key(&key)
                && let Some(known) = before(&key)
            {
                values.insert(key, known);
            }
        }
        Change::Caught => *caught = true,
        Change::Hiccup(error) => tracing::debug!(error, "a watch was interrupted"),
    }
}

const RETRY_DELAY: Duration = Duration::from_millis(500);
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
