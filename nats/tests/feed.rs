//! Feeds on real servers: whatever happens in between, they end where a feed that starts now ends, and say how far what
//! they serve can be trusted.

#![allow(clippy::unwrap_used)]

mod common;

use common::{LAYOUTS, Mesh, instance, live, machine, until};
use ployz_core::routing::{Freshness, Key, State, Value};
use ployz_nats::events::{Feed, Publisher, View};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something like a gateway's table.
#[derive(Debug, PartialEq)]
struct Backends(BTreeMap<String, Vec<Ipv4Addr>>);

impl View for Backends {
    fn of(state: &State) -> Self {
        let ready = |running: &BTreeMap<_, ployz_core::routing::InstanceRoute>| {
            running.values().filter(|instance| instance.ready).map(|instance| instance.address).collect()
        };
        Self(state.instances.iter().map(|(service, running)| (service.to_string(), ready(running))).collect())
    }
}

/// Writes until it is answered; the number it has now.
async fn say(publisher: &Publisher, n: u32, slot: Option<u32>) -> u64 {
    let (key, value) = instance(n, slot.unwrap_or_default());
    for _ in 0..200 {
        let said = async {
            match slot {
                Some(_) => publisher.put(&key, &value).await,
                None => publisher.remove(&key).await,
            }
        };
        match tokio::time::timeout(Duration::from_millis(500), said).await {
            Ok(Ok(sequence)) => return sequence,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("{key} cannot be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_views_end_equal_to_a_fresh_rebuild() {
    for layout in LAYOUTS {
        let mut mesh = Mesh::start(layout, "equal").await;
        let publisher = mesh.publisher().await;
        let near = common::proxy::Proxy::start(mesh.leaf.client).await;
        let gateway = Feed::<Backends>::start(mesh.settings(near.at, None));
        let dns = Feed::<State>::start(mesh.settings(near.at, None));
        until(&mut dns.watch(), "an empty stream is live", live).await;
        near.noise(true);
        let mut last = 0;
        for round in 0..30u32 {
            for n in 0..20 {
                let slot = (!(n * 7 + round).is_multiple_of(5)).then_some(round);
                last = say(&publisher, (n * 13 + round * 5) % 60, slot).await;
            }
            match round {
                4 | 15 => near.cut(),
                8 | 20 => mesh.link.cut(),
                12 => {
                    mesh.hub.kill();
                    mesh.hub.start();
                }
                18 => {
                    mesh.leaf.kill();
                    mesh.leaf.start();
                }
                _ => {}
            }
        }
        near.noise(false);
        assert!(near.done() > 0, "nothing was lost");
        let ended =
            until(&mut dns.watch(), "the end is reached", |now| live(now) && now.sequence == last).await;
        let backends =
            until(&mut gateway.watch(), "the end is reached", |now| live(now) && now.sequence == last).await;
        let fresh = mesh.feed::<State>();
        let again = until(&mut fresh.watch(), "a fresh one is live", live).await;
        assert_eq!(*ended.view, *again.view);
        assert_eq!(*backends.view, Backends::of(&again.view));
        let stats = dns.stats().read();
        assert!(stats.rebuilds > 1 && stats.gaps + stats.losses > 0, "{stats:?}");
        assert_eq!((stats.freshness, stats.sequence), (Freshness::Live, last));
    }
}

#[tokio::test]
async fn a_cold_start_without_nats_serves_the_last_good_state_and_becomes_live() {
    for layout in LAYOUTS {
        let mut mesh = Mesh::start(layout, "cold").await;
        let publisher = mesh.publisher().await;
        let last = say(&publisher, 1, Some(2)).await;
        let settings = mesh.settings(mesh.leaf.client, Some("state"));
        let feed = Feed::<State>::start(settings.clone());
        let known = until(&mut feed.watch(), "live", |now| live(now) && now.sequence == last).await;
        feed.stop().await;
        let before = unix();
        mesh.leaf.kill();

        let feed = Feed::<State>::start(settings.clone());
        let first = feed.watch().borrow().clone();
        assert_eq!((&first.view, first.sequence), (&known.view, last));
        let Freshness::LastGood(since) = first.freshness else { panic!("{:?}", first.freshness) };
        assert!(since <= before && since + 5 > before, "{since} is not about {before}");
        let never = Feed::<State>::start(mesh.settings(mesh.leaf.client, None));
        assert_eq!(never.watch().borrow().freshness, Freshness::Empty);
        assert_eq!(never.stats().read().age, None);

        mesh.leaf.start();
        for feed in [&feed, &never] {
            let now = until(&mut feed.watch(), "live again", live).await;
            assert_eq!((&now.view, now.sequence), (&known.view, last));
        }
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_as_good_as_none() {
    for layout in LAYOUTS {
        let mut mesh = Mesh::start(layout, "damaged").await;
        mesh.leaf.kill();
        let settings = mesh.settings(mesh.leaf.client, Some("state"));
        std::fs::write(settings.snapshot.as_ref().unwrap(), "ployz-routing 1 00\n{}").unwrap();
        let feed = Feed::<State>::start(settings);
        assert_eq!(feed.watch().borrow().freshness, Freshness::Empty);
        feed.stop().await;
    }
}

#[tokio::test]
async fn a_founder_that_hangs_makes_it_the_last_good_state_until_it_goes_on() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "hang").await;
        let publisher = mesh.publisher().await;
        let (key, value) = machine(7);
        let last = publisher.put(&key, &value).await.unwrap();
        let feed = mesh.feed::<State>();
        let mut snapshots = feed.watch();
        let known = until(&mut snapshots, "live", |now| live(now) && now.sequence == last).await;
        let before = unix();
        mesh.hub.signal("-STOP");
        let away = until(&mut snapshots, "away", |now| !live(now)).await;
        mesh.hub.signal("-CONT");
        let Freshness::LastGood(since) = away.freshness else { panic!("{:?}", away.freshness) };
        assert!(since + 2 >= before && since <= before + 2, "{since} is not about {before}");
        assert!(std::sync::Arc::ptr_eq(&away.view, &known.view), "what is served is the same");
        until(&mut snapshots, "live again", live).await;
    }
}

#[tokio::test]
async fn an_unchanged_rebuild_hands_out_the_same_view() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "same").await;
        let publisher = mesh.publisher().await;
        let last = say(&publisher, 1, Some(1)).await;
        let near = common::proxy::Proxy::start(mesh.leaf.client).await;
        let feed = Feed::<State>::start(mesh.settings(near.at, None));
        let mut snapshots = feed.watch();
        let known = until(&mut snapshots, "live", |now| live(now) && now.sequence == last).await;
        near.cut();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while feed.stats().read().rebuilds < 2 {
            assert!(tokio::time::Instant::now() < deadline, "not rebuilt");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let again = snapshots.borrow().clone();
        assert!(std::sync::Arc::ptr_eq(&again.view, &known.view));
        assert!(live(&again), "away for too short a time to be said");
    }
}

/// More than a consumer sends without being told that it arrived: flow control works, and the rights suffice for it.
#[tokio::test]
async fn a_large_stream_is_taken_in() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "large").await;
        let publisher = mesh.publisher().await;
        let service = |n: usize| -> (Key, Value) {
            let text = format!(
                r#"{{"kind":"service","deploy":"00112233445566aa","revision":"{}","instances":[]}}"#,
                "r".repeat(16 << 10)
            );
            (format!("service.shop.web{n}").parse().unwrap(), serde_json::from_str(&text).unwrap())
        };
        for n in 0..600 {
            let (key, value) = service(n);
            publisher.put(&key, &value).await.unwrap();
        }
        let feed = mesh.feed::<State>();
        let now = until(&mut feed.watch(), "9 MB are live", live).await;
        assert_eq!((now.view.services.len(), feed.stats().read().losses), (600, 0));
    }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
