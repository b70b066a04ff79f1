//! An issuer over a real store and a node in memory, and machines that present its tokens.

use super::*;
use crate::lifecycle::Daemon;
use crate::network::context::Shared;
use crate::network::sync;
use crate::network::tests::Server;
use crate::node::environment::Environment;
use crate::node::reconcile::Reconciler;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::tests::Fake;
use crate::state::Disk;
use ployz_core::config::{Config, Layer};
use std::path::PathBuf;

/// A store's server; its directory holds the issuer's state.
struct World {
    server: Server,
}

/// One run of the issuer's ployzd.
struct Issuer {
    mesh: Arc<Network>,
    store: Store,
    following: tokio::task::JoinHandle<()>,
}

impl World {
    fn new(name: &str) -> Self {
        Self { server: Server::start(&format!("issue-{name}")) }
    }

    /// The issuer as its state on disk and the store have it: the first run creates the network.
    async fn issuer(&self) -> Issuer {
        let data = self.server.dir.0.join("state");
        let text = format!("data_dir = \"{}\"\nadvertise_endpoints = [\"192.0.2.7\"]\n", data.display());
        let config = Config::resolve(&[Layer::from_toml("config.toml", &text).unwrap()]).unwrap();
        let shared = Arc::new(Shared {
            disk: Disk::open(&data).unwrap(),
            around: Environment { config, libexec: PathBuf::new(), nats_user: None, underlay_mtu: 1500 },
            reconciler: Reconciler::new(Supervisor::Fake(Fake::bare())),
            identities: Default::default(),
            doubts: Default::default(),
        });
        let name = "prod".parse().unwrap();
        if shared.disk.network(&name).unwrap().is_none() {
            let daemon = Daemon::new(shared.clone(), |_| unreachable!("nothing is started here"));
            daemon.create(&name).await.unwrap();
        }
        let network = shared.disk.network(&name).unwrap().unwrap();
        let keys = shared.disk.keys(&name).unwrap().unwrap();
        let (requests, _) = tokio::sync::mpsc::channel(16);
        let mesh = Arc::new(Network::new(shared, network, keys, requests).unwrap());
        mesh.reconcile(Trigger::Startup).await;
        let store = self.server.store(&mesh.network().id).await;
        sync::found(&store, &mesh).await.unwrap();
        mesh.store.send_replace(Some(store.clone()));
        let (here, followed) = (mesh.clone(), store.clone());
        let following = tokio::spawn(async move {
            let _ = sync::follow(&here, &followed).await;
        });
        Issuer { mesh, store, following }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Issuer {
    /// A fresh invite, and where the tunnel of its one-time key ends.
    async fn invite(&self) -> (InviteId, Ipv6Addr) {
        let made = create(&self.mesh, 600, &[]).await.unwrap();
        let record = self.store.invite(&made.invite_id).await.unwrap().unwrap().value;
        (made.invite_id, self.mesh.network().prefix().guest(&record.one_time_key))
    }

    fn own_address(&self, request: &RedeemRequest) -> Ipv6Addr {
        self.mesh.network().prefix().address(&request.public_key)
    }

    async fn redeem(&self, from: Ipv6Addr, request: &RedeemRequest) -> Result<RedeemResponse> {
        redeem(&self.mesh, from, request.clone()).await
    }

    async fn confirm(&self, from: Ipv6Addr, invite: &InviteId) -> Result<RedeemResponse> {
        confirm(&self.mesh, from, ConfirmRequest { invite_id: invite.clone() }).await
    }

    async fn reserved(&self) -> usize {
        self.store.reservations().await.unwrap().len()
    }
}

fn machine(invite: &InviteId, name: &str) -> RedeemRequest {
    let keys = crate::keys::fresh(None);
    RedeemRequest {
        invite_id: invite.clone(),
        name: name.parse().unwrap(),
        public_key: keys.wireguard.public(),
        nats_key: crate::keys::nats_key(&keys).unwrap(),
        verify_key: crate::keys::verify_key(&keys).unwrap(),
        endpoints: Vec::new(),
        topology: Default::default(),
    }
}

fn code(done: Result<RedeemResponse>) -> ErrorCode {
    done.map(|done| done.membership.id).unwrap_err().code
}

#[tokio::test]
async fn a_machine_is_a_member_once_however_often_it_asks_and_no_other_uses_its_token() {
    let world = World::new("twice");
    let issuer = world.issuer().await;
    let (invite, guest) = issuer.invite().await;
    let request = machine(&invite, "n2");
    let first = issuer.redeem(guest, &request).await.unwrap();
    assert_eq!(issuer.redeem(guest, &request).await.unwrap().membership, first.membership);
    assert_eq!(code(issuer.redeem(guest, &machine(&invite, "n3")).await), ErrorCode::TokenConsumed);
    assert!(issuer.store.machine(&first.membership.id).await.unwrap().is_none(), "not before it confirms");
    let own = issuer.own_address(&request);
    for _ in 0..2 {
        let confirmed = issuer.confirm(own, &invite).await.unwrap();
        assert_eq!(confirmed.membership, first.membership);
        assert_eq!(confirmed.machines.len(), 2);
    }
    assert_eq!(code(issuer.redeem(guest, &machine(&invite, "n3")).await), ErrorCode::TokenConsumed);
    assert_eq!(issuer.reserved().await, 2, "one name and one subnet");
    let stored = issuer.store.invite(&invite).await.unwrap().unwrap().value;
    assert!(matches!(stored.state, InviteState::Consumed { .. }), "{stored:?}");
}

#[tokio::test]
async fn what_was_reserved_is_the_same_s_again_and_free_when_its_invite_has_lapsed() {
    let world = World::new("lapsed");
    let issuer = world.issuer().await;
    let (invite, guest) = issuer.invite().await;
    let request = machine(&invite, "n2");
    // Dead between the reservation and the record of the redemption.
    let first = reserve(&issuer.mesh, &issuer.store, &request).await.unwrap();
    let joined = issuer.redeem(guest, &request).await.unwrap().membership;
    assert_eq!((joined.id, joined.subnet), (first.id, first.subnet));
    assert_eq!(issuer.reserved().await, 2);
    let stored = issuer.store.invite(&invite).await.unwrap().unwrap();
    let late = InviteRecord { expires_at: 1, ..stored.value };
    issuer.store.update_invite(&late, stored.revision).await.unwrap();
    until_known(&issuer.mesh, |peers| peers.invites.contains(&late)).await.unwrap();
    tidy(&issuer.mesh, &issuer.store).await.unwrap();
    assert_eq!(issuer.store.invite(&invite).await.unwrap().unwrap().value.state, InviteState::Expired);
    assert_eq!(issuer.reserved().await, 0);
}

#[tokio::test]
async fn only_the_address_of_the_tunnel_says_who_asks() {
    let world = World::new("from");
    let issuer = world.issuer().await;
    let ((invite, guest), (_, other)) = (issuer.invite().await, issuer.invite().await);
    let request = machine(&invite, "n2");
    let own = issuer.own_address(&request);
    for from in [other, own, issuer.mesh.network().machine.overlay_ip] {
        assert_eq!(code(issuer.redeem(from, &request).await), ErrorCode::InvalidToken);
    }
    assert_eq!(issuer.reserved().await, 0, "who is refused reserves nothing");
    assert_eq!(code(issuer.confirm(own, &invite).await), ErrorCode::InvalidToken, "not redeemed");
    issuer.redeem(guest, &request).await.unwrap();
    for from in [guest, other] {
        assert_eq!(code(issuer.confirm(from, &invite).await), ErrorCode::InvalidToken);
    }
    let mut taken = machine(&invite, "n3");
    taken.public_key = issuer.mesh.network().machine.public_key;
    let (next, at) = issuer.invite().await;
    taken.invite_id = next;
    assert_eq!(code(issuer.redeem(at, &taken).await), ErrorCode::InvalidToken, "another machine's key");
}

#[tokio::test]
async fn machines_that_come_at_once_get_names_and_subnets_of_their_own() {
    let world = World::new("many");
    let issuer = world.issuer().await;
    let mut asks = Vec::new();
    for _ in 0..8 {
        let (invite, guest) = issuer.invite().await;
        asks.push((guest, machine(&invite, "web")));
    }
    let joined =
        futures_util::future::join_all(asks.iter().map(|(guest, ask)| issuer.redeem(*guest, ask))).await;
    let joined: Vec<_> = joined.into_iter().map(|done| done.unwrap().membership).collect();
    let names: std::collections::BTreeSet<_> = joined.iter().map(|one| one.id.clone()).collect();
    let subnets: std::collections::BTreeSet<_> = joined.iter().map(|one| one.subnet.to_string()).collect();
    assert_eq!((names.len(), subnets.len()), (8, 8), "{joined:?}");
    assert!(!subnets.contains(&issuer.mesh.network().subnet().to_string()));
    assert!(names.iter().all(|name| name.as_str().starts_with("web")));
}

#[tokio::test]
async fn a_revoked_invite_gives_back_what_was_reserved_and_is_not_confirmed() {
    let world = World::new("revoked");
    let issuer = world.issuer().await;
    let (invite, guest) = issuer.invite().await;
    let request = machine(&invite, "n2");
    issuer.redeem(guest, &request).await.unwrap();
    assert_eq!(issuer.reserved().await, 2);
    for _ in 0..2 {
        revoke(&issuer.mesh, &invite).await.unwrap();
    }
    assert_eq!(issuer.reserved().await, 0);
    assert_eq!(code(issuer.confirm(issuer.own_address(&request), &invite).await), ErrorCode::TokenRevoked);
    assert_eq!(code(issuer.redeem(guest, &request).await), ErrorCode::TokenRevoked);
}

#[tokio::test]
async fn an_issuer_that_died_anywhere_is_followed_by_one_that_finishes() {
    let world = World::new("died");
    let issuer = world.issuer().await;
    let (invite, guest) = issuer.invite().await;
    let request = machine(&invite, "n2");
    let first = issuer.redeem(guest, &request).await.unwrap().membership;
    drop(issuer);
    let issuer = world.issuer().await;
    assert_eq!(issuer.redeem(guest, &request).await.unwrap().membership, first);
    // Dead between the decision and the record of the member.
    let stored = issuer.store.invite(&invite).await.unwrap().unwrap();
    let Ok(Next::Write(state)) = stored.value.confirm(&request.public_key, clock::now()) else { panic!() };
    let changed = InviteRecord { state, ..stored.value };
    issuer.store.update_invite(&changed, stored.revision).await.unwrap();
    assert!(issuer.store.machine(&first.id).await.unwrap().is_none());
    drop(issuer);
    let issuer = world.issuer().await;
    until_known(&issuer.mesh, |peers| peers.invites.contains(&changed)).await.unwrap();
    tidy(&issuer.mesh, &issuer.store).await.unwrap();
    assert_eq!(issuer.store.machine(&first.id).await.unwrap().unwrap().value, first);
    let confirmed = issuer.confirm(issuer.own_address(&request), &invite).await.unwrap();
    assert_eq!(confirmed.membership, first);
}
