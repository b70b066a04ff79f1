//! Letting machines in: invites made, redeemed, confirmed, revoked and lapsed. Each step is one compare-and-set
//! on the invite; a machine is a member only when its record is there, and that is the last step.

use crate::failure::{Failure, Result};
use crate::network::context::Network;
use crate::node::nats::config::is_user_key;
use crate::state::{Keys, NetworkFile, PeersFile};
use ed25519_dalek::SigningKey;
use ployz_core::address::{NodeSubnet, offered};
use ployz_core::adopt::{Component, Trigger};
use ployz_core::id::{InviteId, MachineId};
use ployz_core::key::PrivateKey;
use ployz_core::mesh::invite::{Next, Refusal};
use ployz_core::wire::v1::api::{ErrorCode, InviteRow};
use ployz_core::wire::v1::join::{ConfirmRequest, RedeemRequest, RedeemResponse};
use ployz_core::wire::v1::record::{
    InviteRecord, InviteState, Lifecycle, MachineMembership, NameLock, RegionRole, StorageParticipation,
    SubnetLock,
};
use ployz_core::wire::v1::token::{Token, verifying_key};
use ployz_host::clock;
use ployz_nats::bucket::{StoreError, Stored, compare_and_set};
use ployz_nats::store::Store;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// A token and its invite.
pub struct Made {
    /// The token.
    pub token: Zeroizing<String>,
    /// Its invite.
    pub invite_id: InviteId,
    /// Unix seconds.
    pub expires_at: u64,
    /// What the operator should know about it.
    pub warnings: Vec<String>,
}

impl Made {
    /// From what [`draw`] gave. Endpoints that only the token has are forgotten by both sides once they are in.
    pub fn new(record: &InviteRecord, token: Zeroizing<String>, network: &NetworkFile) -> Self {
        let only_there = network.machine.endpoints.is_empty();
        let warnings = if only_there { vec![ONLY_IN_THE_TOKEN.to_owned()] } else { Vec::new() };
        Self { token, invite_id: record.id.clone(), expires_at: record.expires_at, warnings }
    }
}

/// A fresh invite; its token names these endpoints before the machine's own.
pub async fn create(mesh: &Arc<Network>, ttl_secs: u64, endpoints: &[SocketAddr]) -> Result<Made> {
    let store = store(mesh)?;
    let network = mesh.network();
    let (record, token) = draw(&network, &mesh.keys, ttl_secs, endpoints)?;
    store.create_invite(&record).await?;
    take_in(mesh, &record).await?;
    tracing::info!(
        target: "audit",
        network = %network.name,
        invite = %record.id,
        expires_at = record.expires_at,
        "invite created"
    );
    Ok(Made::new(&record, token, &network))
}

/// An invite that is nowhere yet, and its token. Refused when the token would name no address: it could not be used.
pub fn draw(
    network: &NetworkFile,
    keys: &Keys,
    ttl_secs: u64,
    endpoints: &[SocketAddr],
) -> Result<(InviteRecord, Zeroizing<String>)> {
    let issuer_endpoints = offered(endpoints.iter().copied(), &network.machine.endpoints);
    if issuer_endpoints.is_empty() {
        let message =
            "this machine has no address that another machine can dial, so a token would be useless";
        return Err(Failure::new(ErrorCode::NoEndpoint, message));
    }
    let one_time_key = PrivateKey::from_random(ployz_host::random::bytes());
    let now = clock::now();
    let record = InviteRecord {
        id: InviteId::from_bytes(ployz_host::random::bytes()),
        issuer: network.machine.id.clone(),
        one_time_key: one_time_key.public(),
        created_at: now,
        expires_at: now.saturating_add(ttl_secs),
        state: InviteState::Active,
    };
    let token = Token {
        version: 1,
        invite_id: record.id.clone(),
        network_id: network.id.clone(),
        network_name: network.name.clone(),
        plan: network.plan,
        issuer: network.machine.id.clone(),
        issuer_public_key: network.machine.public_key,
        issuer_overlay_ip: network.machine.overlay_ip,
        issuer_endpoints,
        issuer_verify_key: network.machine.verify_key.clone(),
        one_time_key,
        expires_at: record.expires_at,
    };
    Ok((record, token.sign(&signing_key(keys)?)))
}

/// All invites, oldest first.
pub async fn list(mesh: &Network) -> Result<Vec<InviteRow>> {
    let mut invites = store(mesh)?.invite_list().await?;
    invites.sort_by_key(|invite| (invite.created_at, invite.id.clone()));
    let now = clock::now();
    Ok(invites.into_iter().map(|invite| row(invite, now)).collect())
}

/// An invite as listed.
pub fn row(invite: InviteRecord, now: u64) -> InviteRow {
    InviteRow {
        status: invite.status(now).to_owned(),
        consumed_by: match &invite.state {
            InviteState::Consumed { joiner, .. } => Some(joiner.id.clone()),
            _ => None,
        },
        invite_id: invite.id,
        expires_at: invite.expires_at,
        issuer: invite.issuer,
    }
}

/// Takes an invite back, and what was reserved under it.
pub async fn revoke(mesh: &Arc<Network>, id: &InviteId) -> Result<()> {
    let store = store(mesh)?;
    let revoked = compare_and_set(|| async {
        let stored = find(&store, id).await?;
        let next = stored.value.revoke(clock::now()).map_err(refusal)?;
        let Next::Write(state) = next else { return Ok::<_, Failure>(Ok(None)) };
        let changed = InviteRecord { state, ..stored.value };
        Ok(store.update_invite(&changed, stored.revision).await.map(|_| Some(changed)))
    });
    let Some(changed) = revoked.await? else { return Ok(()) };
    tracing::info!(target: "audit", invite = %id, "invite revoked");
    release(&store).await?;
    take_in(mesh, &changed).await
}

/// A machine presents a token through the tunnel of the one-time key.
pub async fn redeem(mesh: &Arc<Network>, from: Ipv6Addr, request: RedeemRequest) -> Result<RedeemResponse> {
    let store = store(mesh)?;
    let redeemed = compare_and_set(|| async {
        let stored = find(&store, &request.invite_id).await?;
        let network = mesh.network();
        // Only who holds the one-time key can send from its address.
        if stored.value.issuer != network.machine.id
            || from != network.prefix().guest(&stored.value.one_time_key)
        {
            return Err(Failure::new(ErrorCode::InvalidToken, "the invite does not belong to this tunnel"));
        }
        // Asked first without reserving anything: a used or expired invite must not take a subnet.
        let trial = || placeholder(mesh, &request);
        match stored.value.redeem(&request.public_key, clock::now(), trial).map_err(refusal)? {
            Next::Already(state) => return Ok(Ok((state, None))),
            Next::Write(_) => {}
        }
        check(mesh, &request)?;
        let joiner = reserve(mesh, &store, &request).await?;
        let state = InviteState::Redeemed { joiner: Box::new(joiner.clone()) };
        let changed = InviteRecord { state: state.clone(), ..stored.value };
        // After a conflict, what was reserved is either what the winner holds, or is given back when the invite is closed.
        Ok(store.update_invite(&changed, stored.revision).await.map(|_| (state, Some((changed, joiner)))))
    });
    let (state, written) = redeemed.await?;
    if let Some((changed, joiner)) = written {
        tracing::info!(
            target: "audit",
            invite = %changed.id,
            machine = %joiner.id,
            key = %joiner.public_key,
            "invite redeemed"
        );
        take_in(mesh, &changed).await?;
    }
    answer(mesh, &state)
}

/// The machine runs with its own key: the invite is consumed, which decides it, and its record is made. Whoever asks
/// again, or the issuer itself, makes a record that is missing after a crash between the two.
pub async fn confirm(mesh: &Arc<Network>, from: Ipv6Addr, request: ConfirmRequest) -> Result<RedeemResponse> {
    let store = store(mesh)?;
    let confirmed = compare_and_set(|| async {
        let stored = find(&store, &request.invite_id).await?;
        let network = mesh.network();
        let key = match &stored.value.state {
            InviteState::Redeemed { joiner } | InviteState::Consumed { joiner, .. } => joiner.public_key,
            _ => {
                let why = stored.value.confirm(&stored.value.one_time_key, clock::now()).err();
                return Err(refusal(why.unwrap_or(Refusal::NotRedeemed)));
            }
        };
        if from != network.prefix().address(&key) {
            return Err(Failure::new(ErrorCode::InvalidToken, "the invite was redeemed by another machine"));
        }
        let state = match stored.value.confirm(&key, clock::now()).map_err(refusal)? {
            Next::Already(state) => return Ok(Ok((key, state))),
            Next::Write(state) => state,
        };
        let changed = InviteRecord { state: state.clone(), ..stored.value };
        Ok(store.update_invite(&changed, stored.revision).await.map(|_| {
            tracing::info!(target: "audit", invite = %changed.id, %key, "invite consumed");
            (key, state)
        }))
    });
    let (key, state) = confirmed.await?;
    if let InviteState::Consumed { joiner, .. } = &state {
        make_member(&store, joiner).await?;
    }
    until_known(mesh, |peers| peers.machines.iter().any(|machine| machine.public_key == key)).await?;
    answer(mesh, &state)
}

/// Closes invites whose time has passed, finishes what a crash left half done, and gives back what was reserved.
pub async fn lapse_loop(mesh: Arc<Network>) {
    loop {
        tokio::time::sleep(EXPIRY_INTERVAL).await;
        let Ok(store) = store(&mesh) else { continue };
        if let Err(error) = tidy(&mesh, &store).await {
            tracing::warn!(%error, "cannot tidy up invites");
        }
    }
}

async fn tidy(mesh: &Arc<Network>, store: &Store) -> Result<()> {
    let known = mesh.peers.borrow().clone();
    let now = clock::now();
    let mut closed = false;
    if known.invites.iter().any(|invite| invite.is_over(now)) {
        mesh.learn(|peers| peers.invites.retain(|invite| !invite.is_over(now)))?;
    }
    for invite in &known.invites {
        if invite.lapse(now).is_some() {
            lapse(mesh, store, &invite.id).await?;
            closed = true;
        } else if let InviteState::Consumed { joiner, .. } = &invite.state
            && !known.machines.iter().any(|machine| machine.public_key == joiner.public_key)
        {
            make_member(store, joiner).await?;
        }
    }
    if closed { release(store).await } else { Ok(()) }
}

async fn lapse(mesh: &Arc<Network>, store: &Store, id: &InviteId) -> Result<()> {
    let stored = find(store, id).await?;
    let Some(state) = stored.value.lapse(clock::now()) else { return Ok(()) };
    let changed = InviteRecord { state, ..stored.value };
    match store.update_invite(&changed, stored.revision).await {
        Err(StoreError::Conflict(_)) => return Ok(()), // looked at again soon
        other => other?,
    };
    tracing::info!(target: "audit", invite = %id, "invite expired");
    take_in(mesh, &changed).await
}

/// Gives back what was reserved under invites that are over, unless its owner became a member.
async fn release(store: &Store) -> Result<()> {
    for (key, revision, invite, owner) in store.reservations().await? {
        let over = match store.invite(&invite).await? {
            None => true,
            Some(found) => match &found.value.state {
                InviteState::Revoked { .. } | InviteState::Expired => true,
                // Another machine's attempt under the same invite that came too late.
                InviteState::Redeemed { joiner } | InviteState::Consumed { joiner, .. } => {
                    joiner.public_key != owner
                }
                InviteState::Active => false,
            },
        };
        if over {
            store.unlock(&key, revision).await?;
        }
    }
    Ok(())
}

/// What a machine says about itself: keys that are keys, and that nobody else has.
fn check(mesh: &Network, request: &RedeemRequest) -> Result<()> {
    let bad = |what: &str| Err(Failure::new(ErrorCode::InvalidToken, format!("the machine's {what}")));
    if !is_user_key(&request.nats_key) {
        return bad("NATS key is not a user's public key");
    }
    if verifying_key(&request.verify_key).is_none() {
        return bad("signing key is not a key");
    }
    let peers = mesh.peers.borrow();
    let joining = peers.invites.iter().filter_map(InviteRecord::joiner);
    let mut all = peers.machines.iter().chain(joining);
    if all.any(|other| other.public_key == request.public_key || other.nats_key == request.nats_key) {
        return bad("keys are another machine's");
    }
    Ok(())
}

/// Reserves a slice and a name for a machine, each create-only.
async fn reserve(mesh: &Network, store: &Store, request: &RedeemRequest) -> Result<MachineMembership> {
    let plan = mesh.network().plan;
    let mut machine = placeholder(mesh, request);
    machine.id = reserve_name(mesh, store, request).await?;
    let held = store.subnet_locks().await?;
    let mine = |lock: &&Stored<SubnetLock>| {
        lock.value.owner == request.public_key && lock.value.invite.as_ref() == Some(&request.invite_id)
    };
    if let Some(lock) = held.iter().find(mine) {
        return Ok(MachineMembership { subnet: lock.value.subnet, ..machine });
    }
    let mut taken: Vec<NodeSubnet> = held.iter().map(|lock| lock.value.subnet).collect();
    taken.extend(mesh.peers.borrow().machines.iter().map(|machine| machine.subnet));
    loop {
        let Some(subnet) = plan.first_free(|slice| taken.contains(slice)) else {
            let message = format!("all {} node subnets are taken", plan.capacity());
            return Err(Failure::new(ErrorCode::SubnetExhausted, message));
        };
        let lock = SubnetLock { subnet, owner: request.public_key, invite: Some(request.invite_id.clone()) };
        match store.lock_subnet(&lock).await {
            Ok(_) => return Ok(MachineMembership { subnet, ..machine }),
            Err(StoreError::Conflict(_)) => taken.push(subnet),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The name asked for, or one near it when another machine has it or is about to.
async fn reserve_name(mesh: &Network, store: &Store, request: &RedeemRequest) -> Result<MachineId> {
    let near = request.name.with_suffix(&ployz_core::id::hex(&request.public_key.as_bytes()[..4]));
    let lock = NameLock { owner: request.public_key, invite: request.invite_id.clone() };
    for name in [request.name.clone(), near] {
        if mesh.peers.borrow().machines.iter().any(|machine| machine.id == name) {
            continue;
        }
        match store.lock_name(&name, &lock).await {
            Ok(_) => return Ok(name),
            Err(StoreError::Conflict(_)) => {
                if store.name_lock(&name).await?.is_some_and(|found| found.value == lock) {
                    return Ok(name);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(ErrorCode::InvalidArgument, format!("the name {} is taken", request.name)))
}

fn placeholder(mesh: &Network, request: &RedeemRequest) -> MachineMembership {
    let network = mesh.network();
    let now = clock::now();
    MachineMembership {
        id: request.name.clone(),
        public_key: request.public_key,
        overlay_ip: network.prefix().address(&request.public_key),
        subnet: network.subnet(),
        endpoints: request.endpoints.clone(),
        nats_key: request.nats_key.clone(),
        verify_key: request.verify_key.clone(),
        lifecycle: Lifecycle::Active,
        storage: StorageParticipation::Candidate,
        region_role: RegionRole::Compute,
        protocol: 0,
        topology: request.topology.clone(),
        labels: Default::default(),
        created_at: now,
        updated_at: now,
    }
}

async fn make_member(store: &Store, joiner: &MachineMembership) -> Result<()> {
    match store.create_machine(joiner).await {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict(_)) => {
            let same =
                store.machine(&joiner.id).await?.is_some_and(|m| m.value.public_key == joiner.public_key);
            if same {
                return Ok(());
            }
            Err(Failure::new(ErrorCode::InvalidToken, format!("the name {} was taken meanwhile", joiner.id)))
        }
        Err(error) => Err(error.into()),
    }
}

fn answer(mesh: &Network, state: &InviteState) -> Result<RedeemResponse> {
    let (InviteState::Redeemed { joiner } | InviteState::Consumed { joiner, .. }) = state else {
        return Err(refusal(Refusal::NotRedeemed));
    };
    let network = mesh.network();
    Ok(RedeemResponse {
        network_id: network.id,
        network_name: network.name,
        plan: network.plan,
        membership: (**joiner).clone(),
        machines: mesh.peers.borrow().machines.clone(),
    })
}

/// Returns when the invite's peers are part of the tunnel. The watch brings the change, as to everybody else: one
/// writer of what is known, no older news over newer.
async fn take_in(mesh: &Arc<Network>, invite: &InviteRecord) -> Result<()> {
    until_known(mesh, |peers| {
        let known = peers.invites.iter().find(|known| known.id == invite.id);
        known == Some(invite) || (known.is_none() && !invite.is_heard(clock::now()))
    })
    .await?;
    let outcome = mesh.reconcile(Trigger::Invite).await;
    match outcome.failures.get(&Component::Wireguard) {
        None => Ok(()),
        Some(error) => Err(Failure::new(ErrorCode::ComponentHeld, "the tunnel could not take the invite")
            .with(vec![error.clone()])),
    }
}

async fn until_known(mesh: &Network, mut known: impl FnMut(&PeersFile) -> bool) -> Result<()> {
    let mut peers = mesh.peers.subscribe();
    // Cancel-safe: the watch keeps its value.
    if let Ok(Ok(_)) = tokio::time::timeout(WATCH_TIMEOUT, peers.wait_for(&mut known)).await {
        return Ok(());
    }
    // A restart of the store between two of our looks leaves the watch silent for a while.
    mesh.late_news.notify_waiters();
    match tokio::time::timeout(NEW_WATCH_TIMEOUT, peers.wait_for(known)).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Failure::new(
            ErrorCode::StoreUnavailable,
            "timed out waiting for the store to confirm the change",
        )),
    }
}

async fn find(store: &Store, id: &InviteId) -> Result<Stored<InviteRecord>> {
    let found = store.invite(id).await?;
    found.ok_or_else(|| Failure::new(ErrorCode::InviteNotFound, format!("there is no invite {id}")))
}

fn refusal(refusal: Refusal) -> Failure {
    let code = match refusal {
        Refusal::Expired => ErrorCode::TokenExpired,
        Refusal::Consumed => ErrorCode::TokenConsumed,
        Refusal::Revoked => ErrorCode::TokenRevoked,
        Refusal::NotRedeemed => ErrorCode::InvalidToken,
    };
    Failure::new(code, refusal.to_string())
}

fn store(mesh: &Network) -> Result<Store> {
    let away = || {
        let health = mesh.sync.borrow().clone();
        Failure::new(ErrorCode::StoreUnavailable, "the store is not connected")
            .with(health.error.into_iter().collect())
    };
    mesh.store.borrow().clone().ok_or_else(away)
}

fn signing_key(keys: &Keys) -> Result<SigningKey> {
    let damaged = || Failure::new(ErrorCode::IoError, "keys.json holds no valid signing key");
    crate::keys::decode_seed(keys.signing_seed.expose())
        .map(|seed| SigningKey::from_bytes(&seed))
        .ok_or_else(damaged)
}

const ONLY_IN_THE_TOKEN: &str = "only the token names an address of this machine: after both restart, they cannot find each \
other; set it in advertise_endpoints in config.toml, then `systemctl restart ployzd`";
/// After this the watch is made again.
const WATCH_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long the watch may take to bring what was just written.
const NEW_WATCH_TIMEOUT: Duration = Duration::from_secs(5);
const EXPIRY_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
