//! A machine and a real store: what it puts there, and what it takes from it.

use super::*;
use crate::network::tests::{Machine, Server, invite, member, network, until};
use crate::state::Stored as Lifecycle;
use ployz_core::address::AddressPlan;
use ployz_core::wire::v1::record::InviteState;

async fn subnets(store: &Store) -> Vec<String> {
    let mut all: Vec<_> =
        store.subnet_locks().await.unwrap().iter().map(|lock| lock.value.subnet.to_string()).collect();
    all.sort();
    all
}

fn following(machine: &Machine, store: &Store) -> tokio::task::JoinHandle<Result<(), AnyError>> {
    let (mesh, store) = (machine.mesh.clone(), store.clone());
    tokio::spawn(async move { follow(&mesh, &store).await })
}

/// Ends a follower that is not to have ended by itself.
fn end(follower: tokio::task::JoinHandle<Result<(), AnyError>>) {
    assert!(!follower.is_finished(), "it goes on");
    follower.abort();
}

#[tokio::test]
async fn a_founder_gives_an_empty_store_the_members_it_knows_with_their_subnets() {
    let (server, mut founder) = (Server::start("found"), Machine::founder("found-n1"));
    founder.knows(&[2, 3]);
    let store = server.store(&network()).await;
    for _ in 0..2 {
        found(&store, &founder.mesh).await.unwrap();
    }
    for number in [2, 3] {
        let stored = store.machine(&member(number).id).await.unwrap().unwrap().value;
        assert_eq!((stored.public_key, stored.subnet), (member(number).public_key, member(number).subnet));
    }
    assert_eq!(
        store.machine(&founder.mesh.network().machine.id).await.unwrap().unwrap().value,
        founder.mesh.network().machine
    );
    assert_eq!(subnets(&store).await, ["10.101.1.0/24", "10.101.2.0/24", "10.101.3.0/24"]);
}

#[tokio::test]
async fn a_restore_that_is_cut_short_leaves_no_member_whose_subnet_is_free() {
    let (server, mut founder) = (Server::start("restore"), Machine::founder("restore-n1"));
    founder.knows(&[2]);
    let store = server.store(&network()).await;
    let js = async_nats::jetstream::with_domain(server.client().await, "hub");
    js.delete_key_value("locks").await.unwrap();
    found(&store, &founder.mesh).await.unwrap_err();
    assert!(store.machine(&member(2).id).await.unwrap().is_none(), "its record comes after its reservation");
    let store = server.store(&network()).await;
    found(&store, &founder.mesh).await.unwrap();
    assert!(store.machine(&member(2).id).await.unwrap().is_some());
    assert_eq!(subnets(&store).await, ["10.101.1.0/24", "10.101.2.0/24"]);
}

#[tokio::test]
async fn a_member_that_was_removed_stays_removed_and_one_that_is_there_is_not_overwritten() {
    let (server, mut founder) = (Server::start("removed"), Machine::founder("removed-n1"));
    founder.knows(&[2, 3]);
    let store = server.store(&network()).await;
    store.create_machine(&member(2)).await.unwrap();
    let js = async_nats::jetstream::with_domain(server.client().await, "hub");
    js.get_key_value("machines").await.unwrap().delete("n2").await.unwrap();
    let moved = MachineMembership { endpoints: vec![([198, 51, 100, 3], 1).into()], ..member(3) };
    store.create_machine(&moved).await.unwrap();
    found(&store, &founder.mesh).await.unwrap();
    assert!(store.machine(&member(2).id).await.unwrap().is_none());
    assert_eq!(store.machine(&member(3).id).await.unwrap().unwrap().value, moved);
    assert!(!subnets(&store).await.contains(&member(2).subnet.to_string()), "its subnet is free");
}

#[tokio::test]
async fn a_machine_publishes_what_is_its_own_to_say_and_only_when_that_changed() {
    let (server, machine) = (Server::start("publish"), Machine::new("publish-n2", 2));
    let store = server.store(&network()).await;
    let id = machine.mesh.network().machine.id;
    publish(&store, &machine.mesh).await.unwrap();
    assert!(store.machine(&id).await.unwrap().is_none(), "who is no member does not make itself one");
    let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let stored = MachineMembership { labels: labels.clone(), ..machine.mesh.network().machine };
    let first = store.create_machine(&stored).await.unwrap();
    publish(&store, &machine.mesh).await.unwrap();
    assert_eq!(store.machine(&id).await.unwrap().unwrap().revision, first, "nothing to say");
    let moved = vec![([198, 51, 100, 2], 51820).into()];
    machine
        .mesh
        .change_network(|network| {
            network.machine.endpoints = moved.clone();
            network.machine.topology.region = Some("eu".into());
        })
        .unwrap();
    publish(&store, &machine.mesh).await.unwrap();
    let now = store.machine(&id).await.unwrap().unwrap().value;
    assert_eq!((&now.endpoints, now.topology.region.as_deref()), (&moved, Some("eu")));
    assert_eq!(now.labels, labels, "an operator's labels stay");
    assert!(now.updated_at > stored.updated_at);
}

#[tokio::test]
async fn invites_made_before_the_store_was_there_are_put_into_it_once() {
    let (server, mut founder) = (Server::start("drafts"), Machine::founder("drafts-n1"));
    let store = server.store(&network()).await;
    let (open, over) = (invite(1, 600), invite(1, -1));
    founder.mesh.learn(|peers| peers.drafts = vec![open.clone(), over]).unwrap();
    publish_drafts(&store, &founder.mesh).await.unwrap();
    assert_eq!(store.invite_list().await.unwrap(), std::slice::from_ref(&open));
    assert!(founder.mesh.peers.borrow().drafts.is_empty());
    let on_disk = founder.mesh.shared.disk.peers(&founder.mesh.network().name).unwrap();
    assert!(on_disk.drafts.is_empty());
    // Killed in front of the write to disk; the invite was used since.
    founder.mesh.learn(|peers| peers.drafts = vec![open.clone()]).unwrap();
    let used = InviteRecord { state: InviteState::Revoked { at: 9 }, ..open.clone() };
    let revision = store.invite(&open.id).await.unwrap().unwrap().revision;
    store.update_invite(&used, revision).await.unwrap();
    publish_drafts(&store, &founder.mesh).await.unwrap();
    assert_eq!(store.invite_list().await.unwrap(), [used]);
    assert!(founder.mesh.peers.borrow().drafts.is_empty());
    founder.asked();
}

#[tokio::test]
async fn members_come_and_go_with_their_records() {
    let (server, mut machine) = (Server::start("follow"), Machine::new("follow-n2", 2));
    machine.knows(&[1, 4]);
    let store = server.store(&network()).await;
    for record in [member(1), member(3), machine.mesh.network().machine] {
        store.create_machine(&record).await.unwrap();
    }
    let (own, others) = (invite(2, 600), invite(1, 600));
    let over = InviteRecord { state: InviteState::Expired, ..invite(2, -600) };
    for invite in [&own, &over, &others] {
        store.create_invite(invite).await.unwrap();
    }
    // Another's invite under a name of its own: its key would become a peer of this machine's tunnel.
    let bucket = async_nats::jetstream::with_domain(server.client().await, "hub");
    let bucket = bucket.get_key_value("invites").await.unwrap();
    bucket.put("x", serde_json::to_vec(&invite(2, 600)).unwrap().into()).await.unwrap();
    machine.mesh.phase.send_replace(Phase::Bootstrapping);
    let follower = following(&machine, &store);
    until("n4 has no record, n3 has one", || machine.names() == ["n1", "n2", "n3"]).await;
    assert_eq!(machine.mesh.peers.borrow().invites, [own]);
    until("the store is connected", || machine.mesh.sync.borrow().healthy).await;
    assert_eq!(*machine.mesh.phase.borrow(), Phase::Running);
    assert_eq!(machine.asked(), [Trigger::MembersChanged]);
    let bucket = async_nats::jetstream::with_domain(server.client().await, "hub");
    bucket.get_key_value("machines").await.unwrap().delete("n3").await.unwrap();
    until("n3 is removed", || machine.names() == ["n1", "n2"]).await;
    machine.mesh.late_news.notify_one();
    store.create_machine(&member(5)).await.unwrap();
    until("n5 has joined", || machine.names() == ["n1", "n2", "n5"]).await;
    end(follower);
}

#[tokio::test]
async fn a_record_that_claims_another_ones_name_or_addresses_is_not_taken_in() {
    let (server, machine) = (Server::start("claims"), Machine::founder("claims-n1"));
    let store = server.store(&network()).await;
    found(&store, &machine.mesh).await.unwrap();
    let overlay = MachineMembership { overlay_ip: member(1).overlay_ip, ..member(3) };
    let elsewhere = AddressPlan::new("192.168.0.0/16".parse().unwrap(), 24).unwrap().slice(4).unwrap();
    let subnet = MachineMembership { subnet: elsewhere, ..member(4) };
    for record in [&overlay, &subnet, &member(2)] {
        store.create_machine(record).await.unwrap();
    }
    let name = serde_json::to_vec(&member(6)).unwrap();
    let js = async_nats::jetstream::with_domain(server.client().await, "hub");
    js.get_key_value("machines").await.unwrap().put("n5", name.into()).await.unwrap();
    let follower = following(&machine, &store);
    until("n2 is a member", || machine.names() == ["n1", "n2"]).await;
    // The same of a change of a record that was taken in.
    let revision = store.machine(&member(2).id).await.unwrap().unwrap().revision;
    let claims = MachineMembership { overlay_ip: member(1).overlay_ip, ..member(2) };
    store.update_machine(&claims, revision).await.unwrap();
    until("n2 claims the address of n1", || doubted(&machine).contains(&"n2".to_owned())).await;
    assert_eq!(machine.names(), ["n1", "n2"], "what was believed before stands");
    assert_eq!(known(&machine, 2), member(2));
    end(follower);
}

fn doubted(machine: &Machine) -> Vec<String> {
    machine.mesh.shared.doubts.borrow().iter().flatten().map(|doubt| doubt.key.clone()).collect()
}

fn known(machine: &Machine, number: u8) -> MachineMembership {
    let peers = machine.mesh.peers.borrow();
    peers.machines.iter().find(|known| known.id == member(number).id).unwrap().clone()
}

/// Another member wrote its own signing key, an older protocol and the store into the record of the bootstrap node, a user of its
/// choice into that of n3, and a machine of its own on the subnet of n3.
#[tokio::test]
async fn a_record_gives_no_machine_another_identity_and_its_owner_repairs_it() {
    let (server, mut machine) = (Server::start("identity"), Machine::new("identity-n2", 2));
    machine.knows(&[1, 3]);
    let store = server.store(&network()).await;
    let thief = member(9);
    let founder = MachineMembership { verify_key: thief.verify_key.clone(), protocol: 0, ..member(1) };
    let user = MachineMembership { nats_key: thief.nats_key.clone(), ..member(3) };
    let ghost = MachineMembership { subnet: member(3).subnet, created_at: 0, ..thief.clone() };
    let second = MachineMembership { storage: member(1).storage, created_at: 0, ..member(8) };
    let own = MachineMembership { subnet: thief.subnet, ..machine.mesh.network().machine };
    for record in [&founder, &user, &ghost, &second, &own] {
        store.create_machine(record).await.unwrap();
    }
    let follower = following(&machine, &store);
    until("the others' four are doubted, its own is repaired", || {
        doubted(&machine) == ["n1", "n3", "n8", "n9"]
    })
    .await;
    assert_eq!(machine.names(), ["n1", "n2", "n3"]);
    assert_eq!((known(&machine, 1), known(&machine, 3)), (member(1), member(3)));
    let repaired = store.machine(&own.id).await.unwrap().unwrap().value;
    assert_eq!(repaired.subnet, member(2).subnet);
    end(follower);
}

/// As an issuer of an older version makes it, while the session of the joiner is open already.
#[tokio::test]
async fn a_machine_completes_the_record_that_its_issuer_made() {
    let (server, machine) = (Server::start("complete"), Machine::new("complete-n2", 2));
    let store = server.store(&network()).await;
    store.create_machine(&member(1)).await.unwrap();
    store.create_machine(&MachineMembership { protocol: 0, ..member(2) }).await.unwrap();
    let follower = following(&machine, &store);
    let mut stored = store.machine(&member(2).id).await.unwrap().unwrap().value.protocol;
    for _ in 0..500 {
        if stored == member(2).protocol {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        stored = store.machine(&member(2).id).await.unwrap().unwrap().value.protocol;
    }
    assert_eq!(stored, member(2).protocol);
    end(follower);
}

#[tokio::test]
async fn what_was_written_over_a_record_is_written_over() {
    let (server, mut founder) = (Server::start("over"), Machine::founder("over-n1"));
    let store = server.store(&network()).await;
    found(&store, &founder.mesh).await.unwrap();
    founder.knows(&[2, 3]);
    // Its own: with the answer of the server to a hostile reply subject.
    server
        .scribble("machines", "n1", "{\"type\":\"io.nats.jetstream.api.v1.consumer_create_response\"}")
        .await;
    publish(&store, &founder.mesh).await.unwrap();
    let own = store.machine(&member(1).id).await.unwrap().unwrap().value;
    assert_eq!(own.verify_key, founder.mesh.network().machine.verify_key);
    // Those of machines that may be away: by the founder.
    server.scribble("machines", "n2", "{}").await;
    let theft = MachineMembership { verify_key: member(9).verify_key, ..member(3) };
    store.create_machine(&theft).await.unwrap();
    found(&store, &founder.mesh).await.unwrap();
    for number in [2, 3] {
        assert_eq!(store.machine(&member(number).id).await.unwrap().unwrap().value, member(number));
    }
}

/// The key of a joiner becomes a peer of this machine's tunnel, and its record a member's.
#[tokio::test]
async fn an_invite_lets_no_machine_in_that_is_another() {
    let (server, mut machine) = (Server::start("letsin"), Machine::new("letsin-n2", 2));
    machine.knows(&[1, 3]);
    let store = server.store(&network()).await;
    for record in [member(1), member(3), machine.mesh.network().machine] {
        store.create_machine(&record).await.unwrap();
    }
    let letting = |joiner: MachineMembership| InviteRecord {
        state: InviteState::Redeemed { joiner: Box::new(joiner) },
        ..invite(2, 600)
    };
    let honest = letting(member(4));
    let bad = [
        MachineMembership { subnet: member(3).subnet, ..member(5) },
        MachineMembership { overlay_ip: member(1).overlay_ip, ..member(5) },
        MachineMembership { verify_key: member(1).verify_key, ..member(5) },
    ];
    for invite in bad.into_iter().map(letting).chain([honest.clone()]) {
        store.create_invite(&invite).await.unwrap();
    }
    let follower = following(&machine, &store);
    until("the honest one is known", || machine.mesh.peers.borrow().invites == [honest.clone()]).await;
    end(follower);
}

/// One value that cannot be read fails no list and no revocation.
#[tokio::test]
async fn lists_go_on_past_what_cannot_be_read() {
    let server = Server::start("lists");
    let store = server.store(&network()).await;
    let open = invite(1, 600);
    store.create_invite(&open).await.unwrap();
    store.keep_subnet(&member(2)).await.unwrap();
    for (bucket, key) in
        [("invites", "0011223344556677"), ("locks", "subnet.10-101-3-0_24"), ("locks", "name.n7")]
    {
        server.scribble(bucket, key, "what is this").await;
    }
    assert_eq!(store.invite_list().await.unwrap(), [open]);
    assert_eq!(subnets(&store).await, ["10.101.2.0/24"]);
    assert!(store.reservations().await.unwrap().is_empty());
    let taken = store.keep_subnet(&member(3)).await;
    assert!(taken.is_ok(), "taken by what cannot be read");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_leaves_its_member_as_it_was_known() {
    let (server, mut machine) = (Server::start("unread"), Machine::founder("unread-n1"));
    let store = server.store(&network()).await;
    found(&store, &machine.mesh).await.unwrap();
    machine.knows(&[2]);
    server.scribble("machines", "n2", "{\"id\": 7}").await;
    server.scribble("machines", "n9", "what is this").await;
    store.create_machine(&member(3)).await.unwrap();
    let follower = following(&machine, &store);
    until("n3 is a member", || machine.names() == ["n1", "n2", "n3"]).await;
    // One that was read in this session and is damaged then.
    server.scribble("machines", "n3", "[]").await;
    store.create_machine(&member(4)).await.unwrap();
    until("n4 is a member", || machine.names() == ["n1", "n2", "n3", "n4"]).await;
    end(follower);
}

#[tokio::test]
async fn a_store_without_this_machine_takes_no_member_away() {
    let (server, mut machine) = (Server::start("without"), Machine::new("without-n2", 2));
    machine.knows(&[1, 3]);
    let store = server.store(&network()).await;
    let error = follow(&machine.mesh, &store).await.unwrap_err();
    assert!(error.to_string().contains("no record of this machine"), "{error}");
    assert_eq!(machine.names(), ["n1", "n2", "n3"]);
    assert!(!machine.mesh.sync.borrow().healthy);
    // Before it is confirmed a machine has no record, and needs the others'.
    let invite = invite(1, 600).id;
    let joining = Lifecycle::Joining { invite, issuer: member(1).overlay_ip, until: clock::now() + 600 };
    machine.mesh.change_network(|network| network.lifecycle = joining).unwrap();
    store.create_machine(&member(1)).await.unwrap();
    let follower = following(&machine, &store);
    until("it follows while it joins", || machine.names() == ["n1"]).await;
    end(follower);
}

#[tokio::test]
async fn a_session_whose_store_went_away_ends_when_it_is_back() {
    let (server, machine) = (Server::start("back"), Machine::founder("back-n1"));
    let store = server.store(&network()).await;
    healthy(&machine.mesh);
    let js = async_nats::jetstream::with_domain(server.client().await, "hub");
    js.delete_key_value("machines").await.unwrap();
    let first = store.ping().await.unwrap_err();
    let (mesh, here) = (machine.mesh.clone(), store.clone());
    let waiting = tokio::spawn(async move { wait_until_back(&mesh, &here, first).await });
    until("the outage is known", || !machine.mesh.sync.borrow().healthy).await;
    store.ping().await.unwrap_err();
    assert!(!waiting.is_finished());
    server.store(&network()).await;
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it ends").unwrap();
}

#[test]
fn an_outage_has_one_beginning_and_each_of_its_errors_is_looked_into_once() {
    let mut machine = Machine::founder("outage");
    let mesh = machine.mesh.clone();
    let since = 77;
    mesh.sync.send_modify(|health| health.since = Some(since));
    unhealthy(&mesh, "refused".into());
    assert_eq!(mesh.sync.borrow().since, Some(since), "it was away before");
    unhealthy(&mesh, "refused".into());
    assert_eq!(machine.asked(), [Trigger::StoreAway]);
    unhealthy(&mesh, "timed out".into());
    assert_eq!(machine.asked(), [Trigger::StoreAway]);
    assert_eq!(mesh.sync.borrow().error.as_deref(), Some("timed out"));
    mesh.phase.send_replace(Phase::Stopping);
    healthy(&mesh);
    assert_eq!(*mesh.sync.borrow(), Health { healthy: true, since: None, error: None });
    assert_eq!(*mesh.phase.borrow(), Phase::Stopping, "only a start ends with the store");
    unhealthy(&mesh, "timed out".into());
    assert!(mesh.sync.borrow().since.is_some_and(|at| at > since), "a new outage");
    assert_eq!(machine.asked(), [Trigger::StoreAway]);
}

#[test]
fn only_both_pictures_together_are_complete() {
    let machine = Machine::founder("both");
    let mut seen = Seen::default();
    seen.machine(Change::Caught, &machine.mesh);
    assert!(!seen.caught());
    seen.invite(Change::Caught, &machine.mesh);
    assert!(seen.caught());
    let mut seen = Seen::default();
    seen.invite(Change::Caught, &machine.mesh);
    assert!(!seen.caught());
}
