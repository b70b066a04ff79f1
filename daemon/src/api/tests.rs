//! Requests as they come over the socket, on a machine without a network, and with one that does not run.

use crate::api::handle;
use crate::lifecycle::Daemon;
use crate::network::context::Shared;
use crate::node::environment::Environment;
use crate::node::reconcile::Reconciler;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::tests::Fake;
use crate::state::Disk;
use ployz_core::config::{Config, Layer};
use ployz_core::wire::v1::api::{Envelope, Payload, Request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A ployzd over a directory of its own; another one over the same directory is its successor.
struct Machine {
    dir: PathBuf,
    fake: Fake,
}

impl Machine {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ployz-api-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self { dir, fake: Fake::bare() }
    }

    fn daemon(&self) -> Arc<Daemon> {
        let text = format!("data_dir = \"{}\"\nadvertise_endpoints = [\"192.0.2.7\"]\n", self.dir.display());
        let config = Config::resolve(&[Layer::from_toml("config.toml", &text).unwrap()]).unwrap();
        let shared = Shared {
            disk: Disk::open(&config.data_dir).unwrap(),
            around: Environment { config, libexec: PathBuf::new(), nats_user: None, underlay_mtu: 1500 },
            reconciler: Reconciler::new(Supervisor::Fake(self.fake.clone())),
            identities: Default::default(),
            doubts: Default::default(),
        };
        Daemon::new(Arc::new(shared), |_| unreachable!("no network is started here"))
    }

    fn has(&self, path: &str) -> bool {
        self.dir.join(path).exists()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn ask(daemon: &Arc<Daemon>, request: Value) -> Envelope {
    let request: Request =
        serde_json::from_value(request.clone()).unwrap_or_else(|error| panic!("{request}: {error}"));
    handle::run(daemon, request, &|_| {}).await
}

/// Every request with the code of its answer where no network runs and none is there.
fn without_a_network() -> Vec<(Value, &'static str)> {
    let service = json!({"namespace": "shop", "service": "web"});
    let manifest = json!({"manifest": {"version": 1, "namespace": "shop"}});
    let of = |command: &str, rest: &Value| {
        let mut request = rest.clone();
        request["command"] = command.into();
        request
    };
    let invite = "00".repeat(8);
    vec![
        (json!({"command": "status"}), "OK"),
        (json!({"command": "explain", "component": null}), "OK"),
        (json!({"command": "mesh-list"}), "OK"),
        (json!({"command": "mesh-status"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "mesh-status", "network": "prod"}), "NETWORK_NOT_FOUND"),
        (json!({"command": "mesh-start"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "mesh-start", "network": "prod"}), "NETWORK_NOT_FOUND"),
        (json!({"command": "mesh-stop", "force": true}), "NO_RUNNING_NETWORK"),
        (json!({"command": "mesh-join", "token": "junk"}), "INVALID_TOKEN"),
        (json!({"command": "mesh-ready"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "mesh-destroy", "network": "prod", "local": false}), "NETWORK_NOT_FOUND"),
        (json!({"command": "mesh-destroy", "network": "prod", "local": true}), "NETWORK_NOT_FOUND"),
        (json!({"command": "mesh-self-record"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "machine-list"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "invite-create", "ttl_secs": 60}), "NO_RUNNING_NETWORK"),
        (json!({"command": "invite-create", "ttl_secs": 0}), "INVALID_ARGUMENT"),
        (json!({"command": "invite-create", "ttl_secs": 60, "network": "prod"}), "NETWORK_NOT_FOUND"),
        (json!({"command": "invite-list"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "invite-revoke", "invite": invite}), "NO_RUNNING_NETWORK"),
        (json!({"command": "certificate-list"}), "NO_RUNNING_NETWORK"),
        (json!({"command": "certificate-remove", "name": "a.org"}), "NO_RUNNING_NETWORK"),
        (of("deploy-preview", &manifest), "NO_RUNNING_NETWORK"),
        // Followed by a call of its own.
        (of("deploy", &manifest), "INVALID_REQUEST"),
        (of("service-remove", &service), "INVALID_REQUEST"),
        (json!({"command": "service-list"}), "NO_RUNNING_NETWORK"),
        (of("service-inspect", &service), "NO_RUNNING_NETWORK"),
        (of("image-push", &json!({"image": "web:1"})), "NO_RUNNING_NETWORK"),
        (of("image-push-preview", &json!({"image": "web:1"})), "NO_RUNNING_NETWORK"),
    ]
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn every_request_without_a_network_has_its_code_and_leaves_no_file() {
    let machine = Machine::new("bare");
    let daemon = machine.daemon();
    for (request, code) in without_a_network() {
        let answer = ask(&daemon, request.clone()).await;
        assert_eq!(answer.code, code, "{request}: {}", answer.message);
        assert_eq!(answer.ok, code == "OK", "{request}");
        assert!(answer.ok || answer.hint.is_some_and(|hint| !hint.is_empty()), "{request} has a hint");
    }
    assert_eq!(files(&machine.dir), Vec::<PathBuf>::new());
    assert_eq!(machine.fake.state().effects, [""; 0]);
}

#[tokio::test]
async fn a_created_network_outlives_its_daemon_and_can_be_invited_to_and_destroyed() {
    let machine = Machine::new("created");
    let made = ask(&machine.daemon(), json!({"command": "mesh-create", "network": "prod"})).await;
    assert!(made.ok, "{}: {:?}", made.message, made.causes);
    let again = ask(&machine.daemon(), json!({"command": "mesh-create", "network": "prod"})).await;
    assert_eq!(again.code, "NETWORK_ALREADY_EXISTS");
    // The next daemon knows it by the disk alone.
    let daemon = machine.daemon();
    let status = ask(&daemon, json!({"command": "mesh-status"})).await;
    let Some(Payload::MeshStatus(status)) = status.payload else { panic!("{status:?}") };
    assert_eq!((status.network.as_str(), status.lifecycle.as_str()), ("prod", "stopped"));
    let invited = ask(&daemon, json!({"command": "invite-create", "ttl_secs": 60, "network": "prod"})).await;
    let Some(Payload::MachineInviteCreate { invite_id, .. }) = invited.payload else { panic!("{invited:?}") };
    let listed = async |daemon: &Arc<Daemon>| {
        let answer = ask(daemon, json!({"command": "invite-list", "network": "prod"})).await;
        let Some(Payload::MachineInviteList { invites }) = answer.payload else { panic!("{answer:?}") };
        invites.len()
    };
    assert_eq!(listed(&machine.daemon()).await, 1, "a token that is out has its record on disk");
    let revoke = json!({"command": "invite-revoke", "invite": invite_id, "network": "prod"});
    assert!(ask(&daemon, revoke.clone()).await.ok);
    assert_eq!(ask(&daemon, revoke).await.code, "INVITE_NOT_FOUND");
    assert_eq!(listed(&machine.daemon()).await, 0);
    let destroy = json!({"command": "mesh-destroy", "network": "prod", "local": true});
    let destroyed = ask(&daemon, destroy.clone()).await;
    assert!(destroyed.ok, "{}: {:?}", destroyed.message, destroyed.causes);
    assert!(!machine.has("networks/prod"));
    assert_eq!(ask(&daemon, destroy).await.code, "NETWORK_NOT_FOUND");
}

#[tokio::test]
async fn a_create_that_died_before_its_record_leaves_nothing_that_the_next_start_takes_for_a_network() {
    let machine = Machine::new("cut");
    assert!(ask(&machine.daemon(), json!({"command": "mesh-create", "network": "prod"})).await.ok);
    // The record makes it a network and is written last.
    std::fs::remove_file(machine.dir.join("networks/prod/network.json")).unwrap();
    std::fs::write(machine.dir.join("networks/prod/network.json.x.tmp"), "{").unwrap();
    let daemon = machine.daemon();
    daemon.shared.disk.sweep().unwrap();
    assert!(!machine.has("networks/prod/network.json.x.tmp"));
    assert_eq!(
        ask(&daemon, json!({"command": "mesh-status", "network": "prod"})).await.code,
        "NETWORK_NOT_FOUND"
    );
    let made = ask(&daemon, json!({"command": "mesh-create", "network": "prod"})).await;
    assert!(made.ok, "{}: {:?}", made.message, made.causes);
}
