//! Payloads about deploys and services in every mode, as golden texts; and deploys that fail.

use crate::fake::Script;
use crate::rendering::{NOON, session};
use crate::stage::once;
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Payload};
use ployz_core::wire::v1::api_deploy::{
    DeployPreview, DeployReport, DeployState, InstanceRow, ServiceDetail, ServiceList, ServiceLogLine,
    ServiceLogMissing, ServiceLogs, ServiceRow,
};
use ployz_core::wire::v1::deploy::{
    Action, CommittedService, DeployEvent, DeployFailure, DeployPhase, ImageContent, ImagePull, InstanceSeen,
    LogLine, LogStream, Operation, OperationKind, Placed, Preview, ReadinessState, ServiceChange, SlotChange,
    Stray, Target, Wave,
};
use ployz_core::wire::v1::manifest::{Manifest, Order};

const DEPLOY: &str = "00112233445566aa";

fn placed(machine: &str, instance: &str) -> Placed {
    Placed { machine: machine.parse().unwrap(), instance: instance.parse().unwrap() }
}

fn slot(slot: u32, action: Action, current: Option<Placed>, next: Option<Placed>) -> SlotChange {
    SlotChange { slot, action, current, next }
}

fn change(name: &str, action: Action, revisions: [Option<&str>; 2], slots: Vec<SlotChange>) -> ServiceChange {
    let [current_revision, next_revision] = revisions.map(|text| text.map(str::to_owned));
    ServiceChange { service: name.parse().unwrap(), action, current_revision, next_revision, slots }
}

fn operations() -> Vec<Operation> {
    use {DeployPhase as Phase, OperationKind as Kind};
    let target = |name: &str, slot: Option<u32>, instance: Option<&str>, cause: &str| Target {
        service: name.parse().unwrap(),
        slot,
        instance: instance.map(|instance| instance.parse().unwrap()),
        cause: cause.into(),
    };
    let operation = |step, phase, machine: Option<&str>, command, wave, targets| Operation {
        step,
        phase,
        machine: machine.map(|machine| machine.parse().unwrap()),
        command,
        wave,
        targets,
    };
    let started = vec![target("web", Some(0), Some("web-0-bbbbb"), "new revision")];
    let routed = vec![target("web", None, None, "changed"), target("mail", None, None, "removed")];
    let gone = vec![
        target("web", Some(0), Some("web-0-aaaaa"), "replaced"),
        target("web", None, Some("web-0-zzzzz"), "orphan\u{1b}[2J"),
    ];
    vec![
        operation(1, Phase::Probed, Some("node-1"), Kind::Probe, None, vec![]),
        operation(2, Phase::Started, Some("node-1"), Kind::Start, Some(1), started),
        operation(3, Phase::Committed, None, Kind::Commit, None, vec![]),
        operation(4, Phase::Routed, None, Kind::Route, None, routed),
        operation(5, Phase::Cleaned, Some("node-1"), Kind::Remove, None, gone),
    ]
}

fn preview() -> Preview {
    let (old, new) = (Some("v1:0123456789abcdef"), Some("v1:fedcba9876543210"));
    let db = Some(placed("node-1", "db-0-aaaaa"));
    let web = |slot_number: u32, before: &str, after: &str| {
        let machine = format!("node-{}", slot_number + 1);
        let (before, after) = (placed(&machine, before), placed(&machine, after));
        slot(slot_number, Action::Replace, Some(before), Some(after))
    };
    let gone = slot(0, Action::Remove, Some(placed("node-2", "mail-0-aaaaa")), None);
    Preview {
        namespace: "shop".parse().unwrap(),
        manifest_hash: "v1:aaaabbbbccccdddd".into(),
        baseline: Some("0011223344556699".parse().unwrap()),
        services: vec![
            change("db", Action::Unchanged, [old, old], vec![slot(0, Action::Unchanged, db.clone(), db)]),
            change("mail", Action::Remove, [old, None], vec![gone]),
            change(
                "web",
                Action::Replace,
                [old, new],
                vec![web(0, "web-0-aaaaa", "web-0-bbbbb"), web(1, "web-1-aaaaa", "web-1-bbbbb")],
            ),
        ],
        strays: vec![Stray { service: "web".parse().unwrap(), placed: placed("node-1", "web-0-zzzzz") }],
        participants: ["node-1", "node-2"].map(|machine| machine.parse().unwrap()).into(),
        waves: vec![vec![Wave {
            service: "web".parse().unwrap(),
            order: Order::StartFirst,
            slots: vec![0, 1],
        }]],
        pulls: Vec::new(),
        operations: operations(),
        warnings: vec!["node-3 is draining and gets\u{1b}[2J no instances".into()],
    }
}

fn report(state: DeployState, failures: Vec<DeployFailure>) -> Payload {
    let event = |step, message: &str| DeployEvent { step, message: message.into() };
    Payload::Deploy(Box::new(DeployReport {
        deploy_id: Some(DEPLOY.parse().unwrap()),
        preview: preview(),
        state,
        events: vec![
            event(DeployPhase::Locked, "probing 2 machines"),
            event(DeployPhase::Probed, "web: starting 2"),
        ],
        failures,
    }))
}

pub(crate) fn list(names: &[(&str, &str)]) -> Payload {
    let row = |(namespace, service): &(&str, &str)| ServiceRow {
        namespace: namespace.parse().unwrap(),
        service: service.parse().unwrap(),
        image: "registry.example.org/web:1".parse().unwrap(),
        revision: "v1:0123456789abcdef".into(),
        wanted: 3,
        ready: 2,
        mode: "replicated".into(),
        routes: if *service == "web" { vec!["shop.example.org/".into(), "tcp 5432".into()] } else { vec![] },
        deploy: DEPLOY.parse().unwrap(),
        phase: (*service == "web").then_some(DeployPhase::Started),
    };
    let unreachable = vec!["node-3".parse().unwrap()];
    Payload::ServiceList(ServiceList { services: names.iter().map(row).collect(), unreachable })
}

#[test]
fn deploy_preview() {
    let payload = Payload::DeployPreview(Box::new(DeployPreview { preview: preview() }));
    session("service-rm-preview.txt", "service rm shop/mail -n", payload);
}

#[test]
fn a_preview_says_what_would_be_pulled_and_leaves_its_revision_open() {
    let mut preview = preview();
    (preview.services, preview.strays) = (preview.services.split_off(2), Vec::new());
    preview.services[0].next_revision = None;
    preview.pulls = vec![ImagePull {
        image: "web:2".parse().unwrap(),
        digest: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
        on: preview.participants.clone(),
    }];
    let payload = Payload::DeployPreview(Box::new(DeployPreview { preview }));
    session("deploy-preview-pulls.txt", "deploy service web --namespace shop --image web:2 -n", payload);
}

#[test]
fn deploy() {
    let stuck = DeployFailure::new(ErrorCode::DockerUnavailable, "no answer in 5s")
        .on(&"node-2".parse().unwrap())
        .of(&"mail".parse().unwrap());
    let line = "deploy service web --namespace shop --image web:2";
    session("deploy.txt", line, report(DeployState::Committed, Vec::new()));
    session("deploy-cleanup-pending.txt", line, report(DeployState::CleanupPending, vec![stuck]));
}

#[test]
fn a_deploy_that_failed_says_how_far_it_came() {
    let failure = DeployFailure::new(ErrorCode::ReadinessFailed, "exit code 1");
    let mut envelope = Envelope::error(
        ErrorCode::ReadinessFailed,
        "namespace shop is as it was",
        vec!["web-0-bbbbb on node-1: exit code 1".into()],
    );
    envelope.payload = Some(report(DeployState::Failed, vec![failure]));
    let line = ["deploy", "service", "web", "--namespace", "shop", "--image", "web:2"];
    let run = once(Script::envelope(envelope.clone()), &line, "");
    let error = "error [READINESS_FAILED]: namespace shop is as it was\n  \
        caused by: web-0-bbbbb on node-1: exit code 1\n  \
        hint: nothing was changed: the causes contain the container's output; check its readiness in the manifest\n";
    let want = format!("locked     probing 2 machines\nprobed     web: starting 2\n{error}");
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(1), "", want.as_str()));
    let quiet = once(Script::envelope(envelope.clone()), &[&["-q"], &line[..]].concat(), "");
    assert_eq!((quiet.code, quiet.err.as_str()), (Some(1), error));
    let json = once(Script::envelope(envelope), &[&["--json"], &line[..]].concat(), "");
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.code, &value["payload"]["state"]), (Some(1), &"failed".into()));
}

#[test]
fn service_list() {
    session("service-ls.txt", "service ls", list(&[("shop", "db"), ("shop", "web")]));
    let none = Payload::ServiceList(ServiceList { services: Vec::new(), unreachable: Vec::new() });
    session("service-ls-empty.txt", "service ls --namespace shop", none);
}

#[test]
fn service_inspect() {
    let text = r#"{"version": 1, "namespace": "shop", "services": [{"name": "web", "image": "web:2",
        "command": ["serve", "--name", "the web", ""], "env": {"KEY": "secret"},
        "ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "udp", "publish": 5353}],
        "routes": [{"host": "shop.example.org", "path": "/api"}],
        "placement": {"replicas": 2, "labels": {"disk": "ssd"}}, "readiness": {"kind": "http", "path": "/healthz",
            "host": "up.example.org", "scheme": "https", "headers": {"Authorization": "hidden"}, "statuses": ["200-299"]},
        "resources": {"cpus": 0.5, "memory": "256M"}}]}"#;
    let service = Manifest::from_json("web", text).unwrap().services.remove(0);
    let slots = [(0, placed("node-1", "web-0-bbbbb")), (1, placed("node-2", "web-1-bbbbb"))];
    let committed = CommittedService {
        service,
        revision: "v1:fedcba9876543210".into(),
        content: Some(ImageContent("v1:cd".into())),
        deploy: DEPLOY.parse().unwrap(),
        slots: slots.clone().into(),
    };
    let row = |(slot, placed): (u32, Placed), state, reasons: &[&str]| InstanceRow {
        machine: placed.machine,
        current: true,
        seen: InstanceSeen {
            instance: placed.instance,
            namespace: "shop".parse().unwrap(),
            service: "web".parse().unwrap(),
            slot,
            revision: "v1:fedcba9876543210".into(),
            deploy: DEPLOY.parse().unwrap(),
            address: (slot == 0).then(|| "10.101.1.3".parse().unwrap()),
            publish: Default::default(),
            state,
            runs: None,
            verdict: if reasons.is_empty() { "adopt" } else { "recreate" }.into(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            started_at: (slot == 0).then_some(NOON),
        },
    };
    let [first, second] = slots;
    let failed = ReadinessState::Failed { why: "exit code 1: panic\u{7}".into() };
    let detail = ServiceDetail {
        namespace: "shop".parse().unwrap(),
        committed,
        instances: vec![
            row(first, ReadinessState::Ready, &[]),
            row(second, failed, &["image: web:1 -> web:2"]),
        ],
        unreachable: vec!["node-3".parse().unwrap()],
    };
    session("service-inspect.txt", "service inspect shop/web", Payload::ServiceInspect(Box::new(detail)));
}

pub(crate) fn line(instance: &str, at: u64, text: &str) -> ServiceLogLine {
    let stream = if text.contains("error") { LogStream::Stderr } else { LogStream::Stdout };
    ServiceLogLine {
        instance: instance.parse().unwrap(),
        machine: "node-1".parse().unwrap(),
        line: LogLine { at, stream, text: text.into() },
    }
}

fn logs(lines: Vec<ServiceLogLine>, missing: Vec<ServiceLogMissing>) -> Payload {
    Payload::ServiceLogs(ServiceLogs { lines, missing })
}

#[test]
fn service_logs() {
    let lines = vec![
        line("web-0-aaaaa", 1_782_907_200_000_000_001, "\u{1b}[32mlistening\u{1b}[0m at\t80"),
        line("web-10-bbbbb", 1_782_907_200_000_000_002, "error: \u{1b}[2Jno such thing"),
        line("web-0-aaaaa", 1_782_907_200_000_000_003, ""),
    ];
    session("service-logs.txt", "service logs shop/web", logs(lines, vec![]));
    assert_eq!(once(Script::payload(logs(vec![], vec![])), &["service", "logs", "shop/web"], "").out, "");
    let gone = ServiceLogMissing {
        instance: "web-1-ccccc".parse().unwrap(),
        why: "node-2: node-2 does not answer logs: its ployzd is not connected".into(),
    };
    let some = logs(vec![line("web-0-aaaaa", 1, "here")], vec![gone]);
    for mode in [None, Some("--plain")] {
        let line: Vec<&str> = ["service", "logs", "shop/web"].into_iter().chain(mode).collect();
        let told = once(Script::payload(some.clone()), &line, "");
        assert!(told.err.starts_with("warning: no lines of web-1-ccccc: node-2"), "{mode:?}: {}", told.err);
    }
}
