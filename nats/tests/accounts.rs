//! The borders of the store: what a member reads and writes across them, and that no user makes the server write what the
//! user itself may not.

#![allow(clippy::unwrap_used)]

mod common;

use async_nats::Client;
use async_nats::jetstream::{self, kv};
use common::{FOLLOWER, LAYOUTS, Layout, Mesh, RESOLVER};
use futures_util::StreamExt;
use ployz_core::wire::v1::certificate::CertificateRecord;
use ployz_core::wire::v1::deploy::{Decision, DeployLock};
use ployz_core::wire::v1::record::NameLock;
use ployz_core::wire::v1::subject::{self, CERTIFICATES, DOMAIN};
use ployz_nats::bucket::{Change, StoreError};
use ployz_nats::certificates::{self, Certificates, Session};
use ployz_nats::deploys::{self, Records};
use ployz_nats::permissions::{self, Rights};
use ployz_nats::rpc::{self, Router, Sender};
use ployz_nats::store::Store;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

/// All streams and buckets as the founder makes them; and the founder's own view of them.
async fn founded(mesh: &Mesh) -> Store {
    let client = mesh.founder().await;
    let store = Store::open(client.clone(), &mesh.network, true).await.unwrap();
    deploys::ensure(&client, &mesh.network).await.unwrap();
    certificates::ensure(&client).await.unwrap();
    store
}

/// A member's store, as soon as its leaf reaches the founder.
async fn member(mesh: &Mesh) -> Store {
    mesh.publisher().await;
    Store::open(mesh.daemon().await, &mesh.network, false).await.unwrap()
}

async fn certificates_of(mesh: &Mesh) -> kv::Store {
    let js = jetstream::with_domain(mesh.founder().await, DOMAIN);
    js.get_key_value(CERTIFICATES).await.unwrap()
}

fn certificate(n: u64) -> CertificateRecord {
    let text = format!(r#"{{"chain":"c","key":"k","machine":"n2","imported_at":{n}}}"#);
    serde_json::from_str(&text).unwrap()
}

/// A gate that takes every command.
fn taking_all() -> Router {
    Router::new(|_| Ok(Sender { machine: "n9".parse().unwrap(), signed: false }))
}

#[tokio::test]
async fn records_are_read_compared_and_written() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "records").await;
        let founder = Records::open(&founded(&mesh).await).await.unwrap();
        let store = member(&mesh).await;
        let lock: NameLock = serde_json::from_str(&format!(
            r#"{{"owner":"{}=","invite":"00112233445566aa"}}"#,
            "A".repeat(43)
        ))
        .unwrap();
        let name = "n9".parse().unwrap();
        let revision = store.lock_name(&name, &lock).await.unwrap();
        assert!(matches!(store.lock_name(&name, &lock).await, Err(StoreError::Conflict(_))));
        assert_eq!(store.reservations().await.unwrap().len(), 1);
        store.unlock(&subject::name_lock(&name), revision).await.unwrap();
        assert!(store.reservations().await.unwrap().is_empty());

        let records = Records::open(&store).await.unwrap();
        let (space, deploy) = ("shop".parse().unwrap(), "00112233445566aa");
        let text = format!(r#"{{"deploy":"{deploy}","owner":"n2","expires_at":1}}"#);
        let held: DeployLock = serde_json::from_str(&text).unwrap();
        let at = records.put_lock(&space, &held, 0, Duration::from_secs(60)).await.unwrap();
        assert!(matches!(
            records.put_lock(&space, &held, 0, Duration::from_secs(60)).await,
            Err(StoreError::Conflict(_))
        ));
        assert_eq!(records.lock(&space).await.unwrap().lock, Some(held));
        records.unlock(&space, at).await.unwrap();
        let decision = Decision::Abandoned {
            version: 1,
            namespace: space.clone(),
            deploy: deploy.parse().unwrap(),
            by: mesh.machine.clone(),
            at: 1,
        };
        assert_eq!(records.decide(&space, &decision).await.unwrap(), decision);
        assert_eq!(founder.decided_from(1).await.unwrap().map(|decided| decided.sequence), Some(1));
    }
}

/// What a build before made is given what it did not set; a value that no record has is refused, and the streams say what they take.
#[tokio::test]
async fn buckets_of_the_build_before_are_put_right() {
    let mesh = Mesh::start(Layout::Accounts, "right").await;
    founded(&mesh).await;
    let founder = mesh.founder().await;
    let js = jetstream::with_domain(founder.clone(), DOMAIN);
    let config = async || js.get_stream("KV_machines").await.unwrap().cached_info().config.clone();
    let right = config().await;
    assert_eq!(right.max_message_size, 16 << 10);
    assert_eq!(right.republish.as_ref().unwrap().destination, "ployz.live.KV_machines.>");
    js.update_stream(jetstream::stream::Config { max_message_size: -1, republish: None, ..right.clone() })
        .await
        .unwrap();
    Store::open(founder, &mesh.network, true).await.unwrap();
    assert_eq!(config().await, right);
    let bucket = js.get_key_value(subject::MACHINES).await.unwrap();
    bucket.put("n3", vec![b'x'; 15 << 10].into()).await.unwrap();
    assert!(bucket.put("n3", vec![b'x'; 17 << 10].into()).await.is_err());
}

/// In both directions across the border between the founder and a member.
#[tokio::test]
async fn commands_are_answered_across_the_border() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "commands").await;
        let (founder, n1) = (founded(&mesh).await, "n1".parse().unwrap());
        let member = member(&mesh).await;
        for (asks, asked, machine) in [(&founder, &member, &mesh.machine), (&member, &founder, &n1)] {
            let router = taking_all().on("ping", |request| {
                tokio::spawn(async move { request.reply.send(&"here").await });
            });
            let commands = Router::subscribe(asked, machine).await.unwrap();
            asked.client().flush().await.unwrap();
            let answers = tokio::spawn(async move { router.run(commands).await });
            let ask = async || rpc::once(asks, machine, "ping", "{}".into(), Duration::from_secs(1)).await;
            let until = tokio::time::Instant::now() + Duration::from_secs(10);
            // The leaf says a moment later that there is a subscription.
            while ask().await != Ok(r#""here""#.into()) {
                assert!(tokio::time::Instant::now() < until, "{machine} does not answer in {layout:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answers.abort();
        }
    }
}

/// More than two pages, then changes, some of them while the link is cut.
#[tokio::test]
async fn a_large_bucket_is_read_whole_and_followed() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "bucket").await;
        founded(&mesh).await;
        let bucket = certificates_of(&mesh).await;
        let value = serde_json::to_vec(&certificate(1)).unwrap();
        for from in (0..2500).step_by(100) {
            let puts = (from..from + 100).map(|n| bucket.put(format!("k{n}"), value.clone().into()));
            futures_util::future::try_join_all(puts).await.unwrap();
        }
        bucket.delete("k7").await.unwrap();
        let store = member(&mesh).await;
        let certificates = Certificates::open(&store).await.unwrap();
        assert_eq!(certificates.keys().await.unwrap().len(), 2499);

        let seed = mesh.seed(FOLLOWER);
        let mut session = Session::open(mesh.leaf.client, &seed, &mesh.machine).await.unwrap();
        let mut next =
            async || timeout(Duration::from_secs(10), session.next()).await.expect("a change").unwrap();
        let mut seen = 0;
        loop {
            match next().await {
                Change::Put(..) => seen += 1,
                Change::Gone(key) => assert_eq!(key, "k7"),
                Change::Caught => break,
                _ => panic!("neither a key nor the end"),
            }
        }
        assert_eq!(seen, 2499);
        certificates.put("own", &certificate(2)).await.unwrap();
        assert!(matches!(next().await, Change::Put(key, put) if key == "own" && put.value.imported_at == 2));
        if layout == Layout::Accounts {
            // A consumer that missed something ends the session; the reader reads it.
            mesh.link.cut();
        }
        bucket.put("k8", serde_json::to_vec(&certificate(3)).unwrap().into()).await.unwrap();
        bucket.delete("k9").await.unwrap();
        assert!(matches!(next().await, Change::Put(key, put) if key == "k8" && put.value.imported_at == 3));
        assert!(matches!(next().await, Change::Gone(key) if key == "k9"));
    }
}

/// Each right of each user, with answers to wherever a user must not write.
#[tokio::test]
async fn no_answer_of_the_server_is_written_anywhere() {
    let changed = attack(Layout::Accounts).await;
    assert!(changed.is_empty(), "{changed:?}");
    // That the attack is one: in one account with the streams it works.
    assert!(!attack(Layout::One).await.is_empty());
}

async fn attack(layout: Layout) -> Vec<String> {
    let mesh = Mesh::start(layout, "attack").await;
    founded(&mesh).await;
    let founder = mesh.founder().await;
    let js = jetstream::with_domain(founder.clone(), DOMAIN);
    for subject in victims(&mesh) {
        js.publish(subject, "genuine".into()).await.unwrap().await.unwrap();
    }
    mesh.publisher().await;
    // What comes to the founder's ployzd that it did not ask for.
    let mut stray = founder.subscribe(format!("{}.>", subject::inbox(&"n1".parse().unwrap()))).await.unwrap();
    founder.flush().await.unwrap();
    let before = held(&js).await;
    let (gateway, dns) = (
        permissions::follower(&mesh.machine, FOLLOWER).and(permissions::bucket_reader(CERTIFICATES)),
        permissions::follower(&mesh.machine, RESOLVER),
    );
    let daemon = permissions::member(&mesh.network, &mesh.machine);
    try_all(&mesh.daemon().await, &daemon, &mesh).await;
    let servers: &[SocketAddr] = match layout {
        Layout::One => &[mesh.leaf.client],
        Layout::Accounts => &[mesh.leaf.client, mesh.hub.client],
    };
    for server in servers {
        try_all(&mesh.sidecar(*server, FOLLOWER).await, &gateway, &mesh).await;
        try_all(&mesh.sidecar(*server, RESOLVER).await, &dns, &mesh).await;
    }
    tokio::time::sleep(SETTLE_DELAY).await;
    let after = held(&js).await;
    let mut changed: Vec<String> = before
        .iter()
        .filter(|(key, value)| after.get(*key) != Some(value))
        .map(|(key, _)| key.clone())
        .collect();
    // What a member wrote by its own right has a name of its own.
    changed.extend(
        after
            .into_keys()
            .filter(|key| !before.contains_key(key) && !key.contains(OWN) && !daemon.publish.contains(key)),
    );
    while let Ok(Some(message)) = timeout(Duration::from_millis(50), stray.next()).await {
        changed.push(message.subject.to_string());
    }
    changed
}

/// Publishes to every subject that a user may, with every reply that it may not write to, and payloads that the API takes.
async fn try_all(client: &Client, rights: &Rights, mesh: &Mesh) {
    let (rpc, routing) =
        (subject::rpc(&mesh.network, &"n1".parse().unwrap(), ""), subject::routing(&mesh.network));
    let mut replies = victims(mesh);
    replies.extend(victims(mesh).iter().map(|subject| format!("ployz.store.{subject}")));
    replies.extend(victims(mesh).iter().map(|subject| format!("$JS.{DOMAIN}.API.{subject}")));
    replies.extend(
        ["$JS.API.STREAM.DELETE.KV_locks", "$JS.hub.API.STREAM.PURGE.KV_invites", "_INBOX.n1.answer"]
            .map(String::from),
    );
    replies.extend([format!("{rpc}mesh.execute_destroy"), format!("{routing}.machine.new")]);
    for subject in &rights.publish {
        // A single key that is there, where keys are read; one of its own, where keys are written.
        let fills: &[&str] = match subject.contains("DIRECT.GET") {
            true => &["$KV.machines.victim", "victim"],
            false => &[OWN],
        };
        for (fill, reply) in fills.iter().flat_map(|fill| replies.iter().map(move |reply| (fill, reply))) {
            let to = subject.replace('*', OWN).replace('>', fill);
            let consumer = format!(
                r#"{{"stream_name":"{}","config":{{"name":"{OWN}","deliver_subject":"{reply}","ack_policy":"none","deliver_policy":"all","replay_policy":"instant"}}}}"#,
                to.split('.')
                    .find(|part| part.starts_with("KV_") || *part == "routing_events")
                    .unwrap_or_default()
            );
            for payload in ["{}", r#"{"seq":1,"next_by_subj":">","batch":9}"#, &consumer] {
                let said = client.publish_with_reply(to.clone(), reply.clone(), payload.to_owned().into());
                said.await.unwrap();
            }
        }
    }
    client.flush().await.unwrap();
}

/// A message in each stream, of others than any user here.
fn victims(mesh: &Mesh) -> Vec<String> {
    let buckets = [subject::MACHINES, subject::INVITES, subject::LOCKS, subject::DEPLOY_STATUS, CERTIFICATES];
    let mut found: Vec<String> = buckets.iter().map(|bucket| format!("$KV.{bucket}.victim")).collect();
    found.push(format!("{}.machine.n3", subject::routing(&mesh.network)));
    found.push(subject::deploy_commits(&mesh.network).replace('>', "shop.victim"));
    found
}

/// All that the streams hold: the last message of each subject, with its number.
async fn held(js: &jetstream::Context) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut names = js.stream_names();
    while let Some(name) = names.next().await {
        let mut stream = js.get_stream(name.unwrap()).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        for sequence in 1..=last {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                found.insert(message.subject.to_string(), (message.sequence, message.payload.to_vec()));
            }
        }
    }
    found
}

const OWN: &str = "own";
/// For what the servers still do with the last request.
const SETTLE_DELAY: Duration = Duration::from_millis(700);
