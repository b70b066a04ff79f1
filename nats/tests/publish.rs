//! The writer and the stream, with exactly the rights that they need.

#![allow(clippy::unwrap_used)]

mod common;

use async_nats::jetstream::{self, stream::Config};
use common::{LAYOUTS, Mesh, instance, live, machine, until};
use ployz_core::routing::{Key, State, Value};
use ployz_core::wire::v1::subject::{DOMAIN, ROUTING_EVENTS, routing};
use ployz_nats::events::{Current, PublishError, ensure_stream};
use ployz_nats::permissions as rights;
use std::time::Duration;

#[tokio::test]
async fn one_key_is_written_compared_and_taken_away() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "write").await;
        let publisher = mesh.publisher().await;
        let (key, value) = instance(1, 0);
        assert_eq!(publisher.current(&key).await.unwrap(), Current { value: None, sequence: 0 });
        let first = publisher.put_at(&key, &value, 0).await.unwrap();
        let conflict = publisher.put_at(&key, &value, 0).await.unwrap_err();
        assert!(matches!(&conflict, PublishError::Conflict(about) if *about == key), "{conflict}");
        assert_eq!(
            publisher.current(&key).await.unwrap(),
            Current { value: Some(value.clone()), sequence: first }
        );
        let second = publisher.put(&key, &value).await.unwrap();
        assert!(matches!(publisher.remove_at(&key, first).await, Err(PublishError::Conflict(_))));
        let gone = publisher.remove_at(&key, second).await.unwrap();
        assert_eq!(publisher.current(&key).await.unwrap(), Current { value: None, sequence: gone });
        assert!(matches!(publisher.put(&key, &machine(1).1).await, Err(PublishError::Kind(_))));

        let feed = mesh.feed::<State>();
        let now = until(&mut feed.watch(), "live", live).await;
        assert_eq!((&*now.view, now.sequence), (&State::default(), gone));
    }
}

#[tokio::test]
async fn one_message_a_key_is_kept_and_nobody_takes_it_back() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "kept").await;
        let publisher = mesh.publisher().await;
        let (key, value) = machine(1);
        for _ in 0..5 {
            publisher.put(&key, &value).await.unwrap();
        }
        let js = jetstream::with_domain(mesh.founder().await, DOMAIN);
        let mut stream = js.get_stream(ROUTING_EVENTS).await.unwrap();
        let state = stream.info().await.unwrap().state.clone();
        assert_eq!((state.messages, state.last_sequence), (1, 5));
        assert!(stream.delete_message(5).await.is_err() && stream.purge().await.is_err());
    }
}

#[tokio::test]
async fn the_stream_is_put_right_and_its_replicas_stay() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "stream").await;
        let founder = mesh.founder().await;
        let js = jetstream::with_domain(founder.clone(), DOMAIN);
        let config = |stream: jetstream::stream::Stream| stream.cached_info().config.clone();
        let right = config(js.get_stream(ROUTING_EVENTS).await.unwrap());
        ensure_stream(&founder, &mesh.network).await.unwrap();
        js.update_stream(Config { max_bytes: 1000, description: Some("x".into()), ..right.clone() })
            .await
            .unwrap();
        ensure_stream(&founder, &mesh.network).await.unwrap();
        assert_eq!(config(js.get_stream(ROUTING_EVENTS).await.unwrap()), right);
    }
}

/// That the lists suffice is seen by all these tests: they run with nothing else.
#[tokio::test]
async fn a_machine_writes_its_own_keys_and_services_only() {
    for layout in LAYOUTS {
        let mesh = Mesh::start(layout, "rights").await;
        let publisher = mesh.publisher().await;
        let service: Key = "service.shop.web".parse().unwrap();
        let text = r#"{"kind":"service","deploy":"00112233445566aa","revision":"r","instances":[]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        publisher.put(&service, &value).await.unwrap();
        let (_, value) = machine(3);
        let other: Key = "machine.n3".parse().unwrap();
        // What is not allowed is not answered; the server's word goes to the connection's log.
        let refused = tokio::time::timeout(Duration::from_millis(300), publisher.put(&other, &value)).await;
        assert!(!matches!(refused, Ok(Ok(_))));
        assert_eq!(publisher.current(&other).await.unwrap().sequence, 0);
        let rights = rights::publisher(&mesh.network, &mesh.machine);
        assert!(rights.publish.contains(&format!("{}.machine.n2", routing(&mesh.network))));
    }
}
