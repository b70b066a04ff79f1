//! Manifests from text: lines, suggestions, meaning, and that nothing but a valid one gets through.

use ployz_core::wire::v1::manifest::{
    BadManifest, Check, Manifest, Mode, Order, Problem, Restart, Service, ServiceFlags,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const SHOP: &str = r#"version = 1
namespace = "shop"

[[services]]
name = "web"
image = "shop/web:1.4"
env = { LOG = "info" }

[[services.ports]]
name = "http"
port = 8080

[[services.routes]]
host = "shop.example.org"

[[services.routes]]
host = "api.example.org"
port = "http"

[services.placement]
replicas = 3
"#;

fn refused(text: &str) -> String {
    Manifest::from_document("deploy.toml", text).unwrap_err().to_string()
}

#[test]
fn defaults_are_written_out() {
    let manifest = Manifest::from_document("deploy.toml", SHOP).unwrap();
    let web = &manifest.services[0];
    assert_eq!(web.placement.mode, Mode::Replicated { replicas: 3 });
    assert_eq!((web.restart, web.rollout.order), (Restart::UnlessStopped, Order::StartFirst));
    let written = serde_json::to_string_pretty(&manifest).unwrap();
    crate::same_as("manifest-shop.json", &(written + "\n"));
}

#[test]
fn what_is_refused_names_file_line_and_path() {
    for (old, new, want) in [
        (
            "replicas = 3",
            "replcas = 3",
            "deploy.toml:21: services[0].placement.replcas: unknown key; did you mean replicas?",
        ),
        (
            "host = \"api",
            "host = \"a_i",
            "deploy.toml:17: services[0].routes[1].host: \"a_i.example.org\" is not a host name, *.example.org or * (names outside ASCII in punycode, xn--...)",
        ),
        (
            "port = \"http\"",
            "port = \"htp\"",
            "deploy.toml:18: services[0].routes[1].port: is not a TCP port of this service's ports; there is 8080 (http)",
        ),
        ("image = \"shop/web:1.4\"\n", "", "deploy.toml:4: services[0].image: is missing"),
        ("port = 8080", "port = ", "deploy.toml:11: string values must be quoted, expected literal string"),
    ] {
        let text = SHOP.replace(old, new);
        assert_ne!(text, SHOP);
        assert_eq!(refused(&text), want);
    }
    let json = "{\n  \"version\": 1,\n  \"namespace\": \"shop\",\n  \"services\": [\n    {\"name\": \"web\",\n     \"image\": 7}\n  ]\n}";
    assert_eq!(refused(json), "deploy.toml:6: services[0].image: must be a string, not an integer");
}

#[test]
fn a_manifest_too_long_is_refused_before_it_is_parsed() {
    let text = format!("# {}", "x".repeat(300_000));
    let error = Manifest::from_toml("long.toml", &text).unwrap_err();
    assert_eq!(error.to_string(), "long.toml: has 300002 bytes; at most 262144 are allowed");
}

#[test]
fn flags_make_the_manifest_that_a_file_would() {
    let flags = ServiceFlags {
        name: "web".into(),
        image: "nginx".into(),
        namespace: "shop".into(),
        publish: vec!["8080:80".into(), "53:53/udp".into()],
        env: vec!["A=1=2".into()],
        restart: Some("always".into()),
        command: vec!["nginx".into(), "-g".into()],
        ..ServiceFlags::default()
    };
    let manifest = Manifest::try_from(&flags).unwrap();
    let file: Manifest = serde_json::from_value(json!({"version": 1, "namespace": "shop", "services": [{
        "name": "web", "image": "nginx", "command": ["nginx", "-g"], "env": {"A": "1=2"}, "restart": "always",
        "ports": [{"name": "tcp-80", "port": 80, "publish": 8080},
                  {"name": "udp-53", "port": 53, "protocol": "udp", "publish": "53:53"}],
    }]}))
    .unwrap();
    assert_eq!(manifest, file);
    assert!(!manifest.uses_volumes());
    let volumes = ServiceFlags { volumes: vec!["data:/var/lib:ro".into(), "data:/etc/x".into()], ..flags };
    assert!(Manifest::try_from(&volumes).unwrap().uses_volumes());
}

#[test]
fn flags_are_refused_by_their_names() {
    let base = || ServiceFlags {
        name: "web".into(),
        image: "nginx".into(),
        namespace: "shop".into(),
        ..ServiceFlags::default()
    };
    let error = |flags: ServiceFlags| Manifest::try_from(&flags).unwrap_err().to_string();
    for (flags, want) in [
        (
            ServiceFlags { image: "A".into(), ..base() },
            "deploy service: --image: \"A\" is not an image reference such as nginx:1.27 or registry.example.org/team/app@sha256:...",
        ),
        (
            ServiceFlags { publish: vec!["80".into()], ..base() },
            "deploy service: --publish: \"80\" is not HOST:CONTAINER[/PROTOCOL], such as 8080:80",
        ),
        (
            ServiceFlags { publish: vec!["1:2/sctp".into()], ..base() },
            "deploy service: --publish: \"sctp\" is not one of tcp udp",
        ),
        (ServiceFlags { env: vec!["SECRET".into()], ..base() }, "deploy service: --env: expected KEY=VALUE"),
        (
            ServiceFlags { volumes: vec!["/etc:/etc".into()], ..base() },
            "deploy service: --volume: \"/etc\" is a path of the machine; only volumes can be mounted",
        ),
        (
            ServiceFlags { volumes: vec!["data:etc".into()], ..base() },
            "deploy service: --volume: \"etc\" is not an absolute path without dot segments, below /",
        ),
        (
            ServiceFlags { restart: Some("never".into()), ..base() },
            "deploy service: --restart: \"never\" is not one of unless-stopped always on-failure no",
        ),
        (
            ServiceFlags { name: "-".into(), ..base() },
            "deploy service: NAME: service name \"-\" is not valid: 1-63 characters of [a-z0-9-], first and last alphanumeric",
        ),
    ] {
        assert_eq!(error(flags), want);
    }
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_change_nothing() {
    let wanted = Manifest::from_document("deploy.toml", SHOP).unwrap();
    let json = serde_json::to_string_pretty(&wanted).unwrap();
    for text in [SHOP, &json] {
        let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        assert_eq!(Manifest::from_document("deploy", &windows).unwrap(), wanted, "{windows}");
    }
    let bad = format!("\u{feff}{}", SHOP.replace("replicas", "replcas").replace('\n', "\r\n"));
    assert!(refused(&bad).starts_with("deploy.toml:21: services[0].placement.replcas:"), "{}", refused(&bad));
}

#[test]
fn the_words_of_other_formats_lead_to_ours() {
    for (document, want) in [
        (json!({"environment": {"A": "1"}}), "environment: unknown key; did you mean env? It is a table"),
        (json!({"healthcheck": {}}), "healthcheck: unknown key; did you mean readiness?"),
        (json!({"depends_on": ["db"]}), "depends_on: unknown key; remove it: services start in any order"),
        (json!({"dependsOn": ["db"]}), "dependsOn: unknown key; remove it: services start in any order"),
        (json!({"replicas": 3}), "replicas: unknown key; did you mean placement?"),
        (json!({"count": 3}), "count: unknown key; did you mean placement?"),
        (json!({"deploy": {}}), "deploy: unknown key; did you mean placement (how many, where), rollout"),
        (json!({"expose": [80]}), "expose: unknown key; did you mean ports?"),
        (json!({"networks": ["x"]}), "networks: unknown key; remove it"),
        (json!({"labels": {}}), "labels: unknown key; containers take no labels of your own"),
        (json!({"build": "."}), "build: unknown key; images are not built here"),
        (json!({"privileged": true}), "privileged: unknown key; not supported"),
        (json!({"x-common": {}}), "x-common: unknown key; remove it: there are no extension fields"),
        (json!({"livenessProbe": {}}), "livenessProbe: unknown key; did you mean readiness?"),
        (json!({"stopGracePeriod": "1s"}), "stopGracePeriod: unknown key; did you mean stop_grace_period?"),
        (json!({"Image": "a"}), "Image: unknown key; did you mean image?"),
        (
            json!({"ports": ["8080:80"]}),
            "ports[0]: must be a table, not a string: { port = 80, publish = 8080 }",
        ),
        (json!({"ports": [80]}), "ports[0]: must be a table, not an integer: { port = 80 }"),
        (
            json!({"ports": [{"containerPort": 80}]}),
            "ports[0].containerPort: unknown key; did you mean port?",
        ),
        (json!({"ports": [{"published": 80}]}), "ports[0].published: unknown key; did you mean publish?"),
        (
            json!({"command": "serve"}),
            "command: must be a list, not a string: program and arguments one by one",
        ),
        (json!({"env": ["A=1"]}), "env: must be a table, not a list: KEY = \"value\" pairs"),
        (json!({"volumes": ["data:/x"]}), "volumes[0]: must be a table, not a string: { source = "),
        (json!({"restart": false}), "restart: must be a string, not a boolean: one of unless-stopped"),
        (json!({"readiness": {"test": ["CMD"]}}), "readiness.test: unknown key; did you mean command?"),
        (
            json!({"readiness": {"start_period": "5s"}}),
            "readiness.start_period: unknown key; did you mean deadline?",
        ),
        (json!({"rollout": {"failure_action": "x"}}), "rollout.failure_action: unknown key; remove it"),
        (json!({"resources": {"limits": {}}}), "resources.limits: unknown key; write cpus and memory here"),
    ] {
        let mut service = json!({"name": "web", "image": "nginx"});
        service.as_object_mut().unwrap().extend(document.as_object().unwrap().clone());
        let text = json!({"version": 1, "namespace": "shop", "services": [service]}).to_string();
        let said = Manifest::from_json("m", &text).unwrap_err().to_string();
        assert!(said.starts_with(&format!("m:1: services[0].{want}")), "{said}");
    }
    let compose = "version = 1\nnamespace = \"shop\"\n[services.web]\nimage = \"nginx\"\n";
    let want = "deploy.toml:3: services: must be a list, not a table: each service is one [[services]] with its name in it";
    assert_eq!(refused(compose), want);
    let kubernetes = refused("apiVersion = \"v1\"\nkind = \"Pod\"\n");
    assert!(kubernetes.contains("this is no Kubernetes object"), "{kubernetes}");
}

#[test]
fn a_check_without_the_newer_keys_is_written_as_ever() {
    let old = json!({"name": "web", "image": "nginx", "ports": [{"name": "http", "port": 80, "protocol": "tcp"}],
        "readiness": {"kind": "http", "port": 80, "path": "/up", "interval": "2s", "timeout": "2s", "threshold": 1,
            "deadline": "1m"}});
    let service: Service = serde_json::from_value(old.clone()).unwrap();
    assert_eq!(serde_json::to_value(&service).unwrap()["readiness"], old["readiness"]);
}

#[test]
fn a_record_of_a_newer_version_can_be_read() {
    let service = json!({"name": "web", "image": "nginx", "invented_later": {"x": 1}});
    assert!(serde_json::from_value::<Service>(service.clone()).is_ok());
    let document = json!({"version": 1, "namespace": "shop", "services": [service]});
    assert!(serde_json::from_value::<Manifest>(document).is_err());
}

#[test]
fn equal_meaning_has_one_fingerprint() {
    let toml = Manifest::from_document("a", SHOP).unwrap();
    let json = serde_json::to_string(&toml).unwrap();
    assert_eq!(Manifest::from_document("b", &json).unwrap().fingerprint(), toml.fingerprint());
    let other = Manifest::from_document("c", &SHOP.replace("= 3", "= 4")).unwrap();
    assert_ne!(other.fingerprint(), toml.fingerprint());
}

/// Documents that are nearly right: every value is one of a few good and bad ones.
fn nearly() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["web", "db", "a-1", "", "A", "machine"]);
    let image = prop::sample::select(vec!["nginx", "a/b:c", "r.io:5000/x@sha256:0", ":x", "x:"]);
    let port =
        prop::sample::select(vec![json!(80), json!(0), json!(65536), json!("80"), json!(-1), json!(1.5)]);
    let text =
        prop::sample::select(vec!["1s", "", "s", "99999999999999999999h", "24h", "\u{e9}", "%", "500ms"]);
    let host = prop::sample::select(vec!["a.b", "*", "*.", "*.a", ".", "a..b", "\u{e9}.org"]);
    let service = (name.clone(), image, port.clone(), text, host, 0i64..4).prop_map(
        |(name, image, port, text, host, replicas)| {
            json!({
                "name": name, "image": image, "ports": [{"port": port}],
                "routes": [{"host": host, "port": port, "timeout": text}],
                "stop_grace_period": text, "placement": {"replicas": replicas},
                "resources": {"memory": text, "cpus": replicas},
            })
        },
    );
    let drop = prop::sample::subsequence(
        vec!["ports", "routes", "stop_grace_period", "placement", "resources"],
        0..=5,
    );
    (name, prop::collection::vec((service, drop), 0..3)).prop_map(|(namespace, services)| {
        let services: Vec<Value> = services
            .into_iter()
            .map(|(mut service, drop)| {
                drop.iter().for_each(|key| {
                    service.as_object_mut().unwrap().remove(*key);
                });
                service
            })
            .collect();
        json!({"version": 1, "namespace": namespace, "services": services})
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_fail_otherwise_than_by_an_error(text in "\\PC{0,200}") {
        let _ = Manifest::from_toml("f", &text);
        let _ = Manifest::from_json("f", &text);
    }

    #[test]
    fn what_is_accepted_is_read_back_the_same(document in nearly()) {
        let text = serde_json::to_string(&document).unwrap();
        if let Ok(manifest) = Manifest::from_json("f", &text) {
            let written = serde_json::to_string(&manifest).unwrap();
            prop_assert_eq!(&Manifest::from_json("f", &written).unwrap(), &manifest);
            let toml = toml::to_string(&manifest).unwrap();
            prop_assert_eq!(&Manifest::from_toml("f", &toml).unwrap(), &manifest);
        }
    }

    #[test]
    fn no_value_of_a_header_gets_a_line_break_into_a_request(name in "[ -~\\r\\n\u{e9}]{1,8}", value in "[ -~\\r\\n\\x00\u{e9}]{0,12}") {
        let document = json!({"version": 1, "namespace": "shop", "services": [{"name": "web", "image": "nginx",
            "ports": [{"port": 80}], "readiness": {"kind": "http", "headers": {name: value}}}]});
        if let Ok(manifest) = Manifest::from_json("f", &document.to_string()) {
            let Some(Check::Http(check)) = manifest.services[0].readiness.as_ref().map(|r| &r.check) else {
                panic!("no check")
            };
            for (name, value) in &check.headers {
                prop_assert!(!name.as_str().contains([' ', ':', '\r', '\n']), "{:?}", name);
                prop_assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{:?}", value);
            }
            let again: Manifest = serde_json::from_value(serde_json::to_value(&manifest).unwrap()).unwrap();
            prop_assert_eq!(again, manifest);
        }
    }

    #[test]
    fn a_key_that_nobody_knows_is_never_accepted(key in "x[a-z_]{0,12}", place in 0usize..5) {
        let manifest = Manifest::from_document("deploy.toml", SHOP).unwrap();
        let mut document = serde_json::to_value(&manifest).unwrap();
        let pointer = ["", "/services/0", "/services/0/ports/0", "/services/0/routes/1", "/services/0/placement"][place];
        document.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(key, json!(1));
        let told = Manifest::from_json("f", &document.to_string());
        let unknown = matches!(told, Err(BadManifest { problem: Problem::UnknownKey { .. }, .. }));
        prop_assert!(unknown, "{:?}", told);
    }
}
