//! Every payload in every mode, as golden texts.

use crate::fake::Script;
use crate::stage::{golden, once};
use ployz_core::adopt::Component;
use ployz_core::wire::v1::api::{
    ComponentStatus, ContainerStatus, ControlPlaneStatus, Envelope, Explain, ExplainContainers, ExplainRun,
    InviteRow, MeshReady, MeshStatus, NetworkSummary, Payload, PeerStatus, Phase, RunningOperation, Status,
};
use ployz_core::wire::v1::record::{
    Lifecycle, MachineMembership, RegionRole, StorageParticipation, Topology,
};
use serde::de::DeserializeOwned;

pub(crate) const NOON: u64 = 1_782_907_200;

/// All modes of one command, each as a terminal session would show it.
pub(crate) fn session(name: &str, line: &str, payload: Payload) {
    let mut text = String::new();
    for mode in ["", " --plain", " --json"] {
        let shown = format!("{line}{mode}");
        let words: Vec<&str> = shown.split_whitespace().collect();
        let run = once(Script::envelope(Envelope::ok("done", Some(payload.clone()))), &words, "");
        text += &format!("$ ployzctl {shown}\n");
        if !run.err.is_empty() {
            text += &format!("[standard error]\n{}[standard output]\n", run.err);
        }
        text += &format!("{}\n", run.out);
    }
    golden(name, &text);
}

pub(crate) fn ready() -> Payload {
    Payload::MeshReady(MeshReady {
        ready: true,
        phase: Phase::Running,
        store_healthy: true,
        sync_connected: true,
        workload_subnet_present: true,
        reasons: Vec::new(),
    })
}

pub(crate) fn not_ready() -> Payload {
    Payload::MeshReady(MeshReady {
        ready: false,
        phase: Phase::Bootstrapping,
        store_healthy: false,
        sync_connected: false,
        workload_subnet_present: true,
        reasons: vec!["the store does not answer: connection refused".into(), "no peer was heard yet".into()],
    })
}

/// Wire texts rather than constructors: these types are another crate's, and scripts see the wire.
fn parsed<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).unwrap()
}

fn machine(id: &str, last: u8, storage: StorageParticipation) -> MachineMembership {
    MachineMembership {
        id: id.parse().unwrap(),
        public_key: parsed(&format!("{}=", "A".repeat(43))),
        overlay_ip: format!("fd12:3456:789a::{last}").parse().unwrap(),
        subnet: parsed(&format!("10.101.{last}.0/24")),
        endpoints: vec!["192.168.1.5:51820".parse().unwrap(), "203.0.113.7:51820".parse().unwrap()],
        nats_key: "UABC".into(),
        verify_key: "abc=".into(),
        lifecycle: if last == 1 { Lifecycle::Active } else { Lifecycle::Draining },
        storage,
        region_role: if last == 1 { RegionRole::HomeData } else { RegionRole::Compute },
        protocol: 0,
        topology: Topology { region: (last == 1).then(|| "eu".into()), availability_zone: None },
        labels: if last == 1 { [("disk".into(), "ssd".into())].into() } else { Default::default() },
        created_at: NOON,
        updated_at: NOON + 60,
    }
}

pub(crate) fn machines() -> Payload {
    let rows = vec![
        machine("node-1", 1, StorageParticipation::Authority),
        machine("node-2", 2, StorageParticipation::Candidate),
    ];
    Payload::MachineList { rows }
}

fn components() -> Vec<ComponentStatus> {
    let part =
        |component, verdict: &str, outcome: &str, reasons: &[&str], error: Option<&str>| ComponentStatus {
            component,
            verdict: verdict.into(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            outcome: outcome.into(),
            error: error.map(Into::into),
            facts: [("pid".to_owned(), "812".to_owned())].into(),
        };
    vec![
        part(Component::Netns, "adopt", "ok", &[], None),
        part(Component::Wireguard, "converge", "ok", &["mtu: 1500 -> 1420"], None),
        part(Component::Link, "hold", "held", &["ployz0 belongs to another program"], None),
        part(Component::Nats, "recreate", "failed", &["exec changed"], Some("unit did not start")),
    ]
}

fn peer(id: &str, last: u8, alive: bool) -> PeerStatus {
    PeerStatus {
        id: id.parse().unwrap(),
        public_key: parsed(&format!("{}=", "A".repeat(43))),
        overlay_ip: format!("fd12:3456:789a::{last}").parse().unwrap(),
        subnet: format!("10.101.{last}.0/24"),
        endpoint: alive.then(|| "203.0.113.7:51820".parse().unwrap()),
        candidates: vec!["192.168.1.6:51820".parse().unwrap(), "[2001:db8::6]:51820".parse().unwrap()],
        handshake_age_secs: alive.then_some(83),
        rx_bytes: if alive { 1_572_864 } else { 0 },
        tx_bytes: if alive { 900 } else { 148 },
        rtt_ms: alive.then_some(1.25),
        reachable: alive,
    }
}

#[test]
fn status() {
    let control = |component: &str, since: Option<u64>, error: Option<&str>| ControlPlaneStatus {
        component: component.into(),
        healthy: since.is_none(),
        stale_since_unix_secs: since,
        error: error.map(Into::into),
    };
    let payload = Payload::Status(Status {
        version: "0.1.0".into(),
        pid: 812,
        started_at: NOON,
        runtime: "host".into(),
        service_mode: "system".into(),
        network: Some("prod".parse().unwrap()),
        machine_id: Some("node-1".parse().unwrap()),
        overlay_ip: Some("fd12:3456:789a::1".parse().unwrap()),
        phase: Phase::Running,
        components: components(),
        control_plane: vec![
            control("store", Some(NOON + 5), Some("connection refused")),
            control("prober", None, None),
        ],
    });
    session("status.txt", "status", payload);
}

#[test]
fn status_without_a_network() {
    let payload = Payload::Status(Status {
        version: "0.1.0".into(),
        pid: 812,
        started_at: NOON,
        runtime: "host".into(),
        service_mode: "user".into(),
        network: None,
        machine_id: None,
        overlay_ip: None,
        phase: Phase::Stopped,
        components: Vec::new(),
        control_plane: Vec::new(),
    });
    session("status-idle.txt", "status", payload);
}

#[test]
fn explain() {
    let run = |at, trigger: &str, lines: &[&str]| ExplainRun {
        at,
        trigger: trigger.into(),
        took_ms: 42,
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        operations: Vec::new(),
        components: Vec::new(),
    };
    let mtu = vec!["wireguard  set MTU of netns:wg0 to 1420 (because: mtu)".to_owned()];
    let runs = vec![
        run(NOON, "mesh init", &["netns      create", "wireguard  create"]),
        ExplainRun {
            operations: mtu,
            ..run(
                NOON + 3600,
                "daemon start",
                &["netns      adopt", "wireguard  converge  mtu: 1500 -> 1420"],
            )
        },
    ];
    session("explain.txt", "explain", explained(runs, None));
    session("explain-empty.txt", "explain nats", explained(Vec::new(), None));
}

#[test]
fn explain_containers() {
    let row = |container: &str, verdict: &str, why: &[&str]| ContainerStatus {
        container: container.into(),
        verdict: verdict.into(),
        reasons: why.iter().map(|text| (*text).to_owned()).collect(),
    };
    let rows = vec![
        row("shop.web-0-k3x9a", "adopt", &[]),
        row("shop.web-1-p0q1r", "recreate", &["memory: none -> 268435456; restart: no -> unless-stopped"]),
        row("shop.web-2-zz9y8", "create", &["its container is gone; the next deploy creates a new one"]),
    ];
    let of = |containers| explained(Vec::new(), Some(containers));
    session("explain-containers.txt", "explain containers", of(ExplainContainers { rows, unknown: None }));
    session("explain-no-containers.txt", "explain containers", of(ExplainContainers::default()));
    let unknown = Some("no answer in 2s".to_owned());
    session("explain-unknown.txt", "explain containers", of(ExplainContainers { rows: Vec::new(), unknown }));
}

fn explained(runs: Vec<ExplainRun>, containers: Option<ExplainContainers>) -> Payload {
    Payload::Explain(Explain { runs, containers })
}

#[test]
fn mesh_list() {
    let network = |name: &str, active: bool| NetworkSummary {
        name: name.parse().unwrap(),
        state: if active { "running" } else { "stopped" }.into(),
        active,
    };
    let networks = vec![network("prod", true), network("staging", false)];
    session("mesh-list.txt", "mesh list", Payload::MeshList { networks });
    session("mesh-list-empty.txt", "mesh list", Payload::MeshList { networks: Vec::new() });
}

fn mesh(peers: Vec<PeerStatus>) -> Payload {
    Payload::MeshStatus(MeshStatus {
        network: "prod".parse().unwrap(),
        overlay_ip: "fd12:3456:789a::1".parse().unwrap(),
        lifecycle: "running".into(),
        subnet: "10.101.1.0/24".into(),
        service_ip: "10.101.1.2".parse().unwrap(),
        cluster_cidr: "10.101.0.0/16".into(),
        peers,
        running: None,
    })
}

#[test]
fn mesh_status() {
    session(
        "mesh-status.txt",
        "mesh status prod",
        mesh(vec![peer("node-2", 2, true), peer("node-3", 3, false)]),
    );
    session("mesh-status-alone.txt", "mesh status", mesh(Vec::new()));
    let Payload::MeshStatus(status) = mesh(Vec::new()) else { panic!("not a status") };
    let running = Some(RunningOperation {
        component: Component::Nats,
        operation: "wait for the store with settings 16de7f251a5c".into(),
        since: NOON,
    });
    session("mesh-status-busy.txt", "mesh status", Payload::MeshStatus(MeshStatus { running, ..status }));
}

#[test]
fn a_change_is_told_before_its_result() {
    session("mesh-init.txt", "mesh init prod", mesh(Vec::new()));
}

#[test]
fn a_machine_that_joined_sees_whom_it_joined() {
    session("mesh-join.txt", "mesh join --token eyJ2IjoxfQ.c2ln", mesh(vec![peer("node-1", 1, true)]));
}

#[test]
fn mesh_ready() {
    session("mesh-ready.txt", "mesh ready", ready());
    session("mesh-ready-not.txt", "mesh ready", not_ready());
}

#[test]
fn mesh_self_record() {
    let record = Box::new(machine("node-1", 1, StorageParticipation::Authority));
    session("mesh-self-record.txt", "mesh self-record", Payload::MeshSelfRecord { record });
}

#[test]
fn machine_list() {
    session("machine-ls.txt", "machine ls", machines());
    session("machine-ls-empty.txt", "machine ls", Payload::MachineList { rows: Vec::new() });
}

#[test]
fn invites() {
    let token = "eyJ2IjoxfQ.c2lnbmF0dXJl".to_owned();
    let invite_id: ployz_core::id::InviteId = "00112233445566ff".parse().unwrap();
    let made = |warnings| Payload::MachineInviteCreate {
        token: token.clone(),
        invite_id: invite_id.clone(),
        expires_at: NOON,
        warnings,
    };
    session("machine-invite-create.txt", "machine invite create", made(Vec::new()));
    let line = "machine invite create --endpoint fd12::1";
    session("machine-invite-create-warning.txt", line, made(vec!["only the token names an address".into()]));
    let row = |status: &str, consumed_by: Option<&str>| InviteRow {
        invite_id: invite_id.clone(),
        expires_at: NOON,
        status: status.into(),
        issuer: "node-1".parse().unwrap(),
        consumed_by: consumed_by.map(|id| id.parse().unwrap()),
    };
    let invites = vec![row("active", None), row("consumed", Some("node-2"))];
    session("machine-invite-list.txt", "machine invite list", Payload::MachineInviteList { invites });
    let none = Payload::MachineInviteList { invites: Vec::new() };
    session("machine-invite-list-empty.txt", "machine invite list", none);
}

#[test]
fn a_token_is_alone_on_standard_output() {
    let invite = Payload::MachineInviteCreate {
        token: "eyJ2IjoxfQ.c2ln".into(),
        invite_id: "00112233445566ff".parse().unwrap(),
        expires_at: NOON,
        warnings: Vec::new(),
    };
    let human = once(Script::payload(invite.clone()), &["machine", "invite", "create"], "");
    assert_eq!(human.out, "eyJ2IjoxfQ.c2ln\n");
    let plain = once(Script::payload(invite), &["machine", "invite", "create", "--plain"], "");
    assert_eq!((plain.out.as_str(), plain.err.as_str()), ("eyJ2IjoxfQ.c2ln\n", ""));
}
