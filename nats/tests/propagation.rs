//! A thousand routes, each change followed. It prints how long that took and asserts nothing about it; to measure:
//! `cargo test --release -p ployz-routing --test propagation -- --nocapture`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{LAYOUTS, Mesh, instance, live, until};
use ployz_core::routing::State;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_among_a_thousand_routes_is_followed() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "propagation").await;
        let publisher = mesh.publisher().await;
        for n in 0..1000 {
            let (key, value) = instance(n, 0);
            publisher.put(&key, &value).await.unwrap();
        }
        let feed = mesh.feed::<State>();
        let begun = Instant::now();
        let mut snapshots = feed.watch();
        until(&mut snapshots, "live", live).await;
        println!("first rebuild: {:?}", begun.elapsed());
        let mut times = Vec::new();
        for n in 0..500u32 {
            let (key, value) = instance(n % 1000, n + 1);
            let begun = Instant::now();
            let sequence = publisher.put(&key, &value).await.unwrap();
            until(&mut snapshots, "seen", |now| now.sequence >= sequence).await;
            times.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(u64::from(n % 7))).await;
        }
        times.sort();
        println!("write to view: p50 {:?} p99 {:?} max {:?}", times[250], times[495], times[499]);
        println!("{:?}", feed.stats().read());
    }
}
