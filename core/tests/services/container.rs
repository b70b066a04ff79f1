//! Containers: which fields are identity, and the verdict on each way to differ.

use ployz_core::address::{AddressPlan, NodeSubnet};
use ployz_core::adopt::container::{container, note};
use ployz_core::adopt::{Seen, Verdict, decide::decide};
use ployz_core::deploy::revision;
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::{ContainerOwner, ContainerSpec, label};
use ployz_core::wire::v1::deploy::ImageContent;
use ployz_core::wire::v1::manifest::Service;
use serde_json::json;
use std::fmt::Write;

fn subnet() -> NodeSubnet {
    AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap().slice(2).unwrap()
}

fn spec() -> ContainerSpec {
    let service: Service = serde_json::from_value(json!({
        "name": "web", "image": "shop/web:1.4", "command": ["serve", "--root", "/a b"],
        "env": {"LOG": "info", "TOKEN": "secret"}, "ports": [{"port": 80, "publish": 8080}, {"port": 81}],
        "resources": {"cpus": 0.5, "memory": "256M"},
    }))
    .unwrap();
    let owner = ContainerOwner {
        network: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
        instance: "web-0-k3x9a".parse().unwrap(),
        slot: 0,
        machine: "node-2".parse().unwrap(),
        deploy: "00000000000000aa".parse().unwrap(),
        revision: "v1:5a667db90d553753".into(),
    };
    let mut spec = ContainerSpec::of(&service, owner, &subnet(), "10.101.2.3".parse().unwrap());
    spec.image_id = Some("sha256:1111".into());
    spec
}

/// As Docker would show a container made from the spec, with what the image brings.
fn live(spec: &ContainerSpec) -> ContainerLive {
    let mut env: std::collections::BTreeMap<String, String> =
        spec.env.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    env.insert("PATH".into(), "/bin".into());
    env.insert("PLOYZ_OF_THE_IMAGE".into(), "x".into());
    let mut labels = spec.labels();
    labels.insert("maintainer".into(), "somebody".into());
    ContainerLive {
        id: "c0ffee".into(),
        name: spec.name(),
        labels,
        image: spec.image.to_string(),
        image_id: "sha256:1111".into(),
        command: spec.command.clone(),
        env,
        networks: [(spec.bridge.clone(), Some(spec.address))].into(),
        dns: vec![spec.dns.into()],
        search: vec![spec.search()],
        publish: spec.publish.clone(),
        restart: spec.restart.to_string(),
        cpu_millis: Some(500),
        memory: Some(256 << 20),
        state: ContainerState::Running,
        started_at: Some(1_000),
        restarts: 0,
    }
}

/// This text and hash stay for ever: running containers carry them.
#[test]
fn golden_identity_v1() {
    let identity = spec().identity();
    let mut text = String::new();
    for (name, value) in identity.fields() {
        writeln!(text, "{name}={value}").unwrap();
    }
    writeln!(text, "{}", identity.fingerprint()).unwrap();
    assert!(!text.contains("secret"), "values of variables are hashed");
    crate::same_as("container-identity-v1.txt", &text);
}

/// These stay for ever too: a revision that changed with the daemon's version would replace every container.
#[test]
fn golden_revision_v1() {
    let service = json!({
        "name": "web", "image": "shop/web:1.4", "command": ["serve"], "env": {"LOG": "info"},
        "ports": [{"port": 80, "publish": 8080}, {"port": 81}], "resources": {"cpus": 0.5, "memory": "256M"},
    });
    let read = |value: &serde_json::Value| serde_json::from_value::<Service>(value.clone()).unwrap();
    let content = ImageContent("v1:c0ffee".into());
    let mut text = String::new();
    for (name, value) in revision::identity(&read(&service), Some(&content)).fields() {
        writeln!(text, "{name}={value}").unwrap();
    }
    let revision_of = |service: &serde_json::Value| revision::revision(&read(service), Some(&content), None);
    writeln!(text, "{}", revision_of(&service)).unwrap();
    crate::same_as("service-revision-v1.txt", &text);
    for (key, value) in [
        ("placement", json!({"replicas": 9})),
        ("routes", json!([{"host": "a.b", "port": 81}])),
        ("readiness", json!({"kind": "tcp", "port": 81})),
        ("rollout", json!({"parallelism": 5})),
        ("stop_grace_period", json!("1m")),
        ("ports", json!([{"port": 80, "publish": 8080}])),
    ] {
        let mut other = service.clone();
        other[key] = value;
        assert_eq!(revision_of(&other), revision_of(&service), "{key} replaces no container");
    }
    for (key, value) in [
        ("image", json!("shop/web:1.5")),
        ("command", json!([])),
        ("env", json!({})),
        ("ports", json!([{"port": 80}])),
        ("resources", json!({})),
        ("restart", json!("no")),
    ] {
        let mut other = service.clone();
        other[key] = value;
        assert_ne!(revision_of(&other), revision_of(&service), "{key} makes another container");
    }
}

#[test]
fn what_was_made_from_a_spec_is_adopted() {
    let spec = spec();
    assert_eq!(container(&spec, &live(&spec)), Verdict::Adopt);
    let mut later = spec.clone();
    later.owner.deploy = "00000000000000bb".parse().unwrap();
    later.stop_grace = "5m".parse().unwrap();
    assert_eq!(container(&later, &live(&spec)), Verdict::Adopt, "deploy and grace are not identity");
    let own = ContainerSpec { command: Vec::new(), image_id: None, ..spec };
    let mut found = live(&own);
    found.command = vec!["the".into(), "image's".into()];
    found.image_id = "sha256:2222".into();
    assert_eq!(container(&own, &found), Verdict::Adopt, "what the spec leaves to the image is the image's");
}

type Change = fn(&mut ContainerLive);

#[test]
fn verdict_table() {
    let cases: &[(&str, Change)] = &[
        ("as made", |_| {}),
        ("tag moved and container made anew by hand", |live| live.image_id = "sha256:2222".into()),
        ("another image", |live| live.image = "nginx".into()),
        ("other arguments", |live| {
            live.command = vec!["serve".into(), "--root".into(), "/a".into(), "b".into()]
        }),
        ("a variable changed", |live| {
            live.env.insert("TOKEN".into(), "other".into());
        }),
        ("a variable missing", |live| {
            live.env.remove("LOG");
        }),
        ("another address", |live| {
            live.networks.insert("ployz0".into(), Some("10.101.2.9".parse().unwrap()));
        }),
        ("attached to a second network", |live| {
            live.networks.insert("bridge".into(), None);
        }),
        ("attached to none of ours", |live| {
            live.networks = [("bridge".to_owned(), None)].into();
        }),
        ("another resolver", |live| live.dns = vec!["1.1.1.1".parse().unwrap()]),
        ("no port published", |live| live.publish.clear()),
        ("docker update --restart no --cpus 2 --memory 1g", |live| {
            live.restart = String::new();
            live.cpu_millis = Some(2000);
            live.memory = None;
        }),
        ("fingerprint of an older version, fields equal", |live| {
            live.labels.insert(label::CONFIG_HASH.into(), "v0:abc".into());
        }),
        ("fingerprint of an older version, a field differs", |live| {
            live.labels.insert(label::CONFIG_HASH.into(), "v0:abc".into());
            live.image = "nginx".into();
        }),
        ("fingerprint of this version differs, fields equal", |live| {
            live.labels.insert(label::CONFIG_HASH.into(), "v1:0123456789".into());
        }),
        ("our name, no labels", |live| live.labels.clear()),
        ("our name, one label missing", |live| {
            live.labels.remove(label::SERVICE);
        }),
        ("of another network", |live| {
            live.labels.insert(label::NETWORK.into(), "f".repeat(32));
        }),
        ("of an older revision", |live| {
            live.labels.insert(label::REVISION.into(), "v1:other".into());
        }),
        ("stopped by hand", |live| live.state = ContainerState::Exited(137)),
        ("restarting", |live| live.state = ContainerState::Changing),
        ("paused", |live| live.state = ContainerState::Paused),
        ("never started", |live| live.state = ContainerState::Created),
        ("dead", |live| live.state = ContainerState::Dead),
    ];
    let spec = spec();
    let mut table = String::new();
    let mut line = |what: &str, verdict: Verdict, note: Option<String>| {
        let note = note.filter(|_| verdict == Verdict::Adopt).unwrap_or_default();
        writeln!(table, "{what}\n    {} {}{note}", verdict.word(), verdict.why()).unwrap();
    };
    for (what, change) in cases {
        let mut live = live(&spec);
        change(&mut live);
        let note = note(&live);
        line(what, decide(&Seen::Present(live), |live| container(&spec, live)), note);
    }
    line("removed by hand", decide(&Seen::Absent, |live| container(&spec, live)), None);
    let away = Seen::Unknown("no answer in 2s".into());
    line("Docker away", decide(&away, |live| container(&spec, live)), None);
    crate::same_as("container-verdicts.txt", &table);
}

#[test]
fn a_spec_kept_on_disk_is_read_back_the_same() {
    let spec = spec();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ContainerSpec>(&text).unwrap(), spec);
}
