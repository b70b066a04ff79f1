//! The JSON that other machines, the store and `ployzctl` read: golden, and read back the same.

use crate::plan::{Cluster, manifest};
use ployz_core::deploy::Scope;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::api_deploy::{
    DeployAttachRequest, DeployMark, DeployReport, DeployRequest, DeployState, InstanceRow, ServiceDetail,
    ServiceList, ServiceListRequest, ServiceLogLine, ServiceLogMissing, ServiceLogs, ServiceLogsRequest,
    ServiceRequest, ServiceRow,
};
use ployz_core::wire::v1::deploy::{
    Candidate, Decision, DeployAnswer, DeployCommand, DeployEvent, DeployFailure, DeployLock, DeployPhase,
    Drain, ImageContent, ImageSeen, InstanceSeen, Instances, List, LogLine, LogStream, Logs, Owed, Probe,
    Probed, Readiness, ReadinessState, Start, Started,
};
use ployz_core::wire::v1::manifest::Protocol;
use ployz_core::wire::v1::subject;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::fmt::{Debug, Write};

fn line<T: Serialize + DeserializeOwned + PartialEq + Debug>(out: &mut String, what: &str, value: &T) {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{what}");
    writeln!(out, "{what} {text}").unwrap();
}

fn instances() -> Instances {
    Instances {
        network: "0".repeat(32).parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        deploy: "00000000000000aa".parse().unwrap(),
        not_after: 1_800_000_000,
        instances: vec!["web-0-aaaaa".parse().unwrap()],
    }
}

fn seen() -> InstanceSeen {
    InstanceSeen {
        instance: "web-0-aaaaa".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
        slot: 0,
        revision: "v1:ab".into(),
        deploy: "00000000000000aa".parse().unwrap(),
        address: Some("10.101.0.3".parse().unwrap()),
        publish: Default::default(),
        state: ReadinessState::Failed { why: "exit code 1".into() },
        runs: Some(false),
        verdict: "hold".into(),
        reasons: vec!["is stopped".into()],
        started_at: Some(1_800_000_000),
    }
}

#[test]
fn golden_commands_and_answers() {
    let mut out = String::new();
    let services = manifest(json!([{"name": "web", "image": "nginx"}])).services;
    let image = services[0].image.clone();
    let commands = [
        DeployCommand::Probe(Probe {
            network: "0".repeat(32).parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            images: [image.clone()].into(),
            publish: [(Protocol::Tcp, 80)].into(),
            releases: ["web-0-bbbbb".parse().unwrap()].into(),
            starts: 1,
        }),
        DeployCommand::Start(Start {
            network: "0".repeat(32).parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            deploy: "00000000000000aa".parse().unwrap(),
            not_after: 1_800_000_000,
            services: services.iter().map(|service| (service.name.clone(), service.clone())).collect(),
            candidates: vec![Candidate {
                instance: "web-0-aaaaa".parse().unwrap(),
                service: "web".parse().unwrap(),
                slot: 0,
                revision: "v1:ab".into(),
                content: Some(ImageContent("v1:cd".into())),
            }],
        }),
        DeployCommand::Readiness(instances()),
        DeployCommand::Stop(instances()),
        DeployCommand::Restore(instances()),
        DeployCommand::Drain(Drain { which: instances(), at_most: "30s".parse().unwrap() }),
        DeployCommand::Remove(instances()),
        DeployCommand::List(List { network: "0".repeat(32).parse().unwrap(), namespace: None }),
        DeployCommand::Logs(Logs {
            network: "0".repeat(32).parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            instance: "web-0-aaaaa".parse().unwrap(),
            tail: 100,
            after: Some(1),
        }),
    ];
    for command in &commands {
        let text = serde_json::to_value(command).unwrap();
        assert_eq!(text["command"], command.name());
        line(&mut out, "command", command);
    }
    let answers = [
        DeployAnswer::Probed(Probed {
            images: [(
                image,
                ImageSeen {
                    id: format!("sha256:{:0>64}", 1).parse().unwrap(),
                    content: ImageContent("v1:cd".into()),
                    digests: [format!("sha256:{}", "0".repeat(64)).parse().unwrap()].into(),
                },
            )]
            .into(),
            taken: [(Protocol::Udp, 53)].into(),
            free_addresses: 250,
            free_disk: Some(1 << 30),
            instances: 2,
            platform: Some("linux/amd64".into()),
        }),
        DeployAnswer::Started {
            instances: vec![Started {
                instance: "web-0-aaaaa".parse().unwrap(),
                address: "10.101.0.3".parse().unwrap(),
                container: "c0ffee".into(),
            }],
        },
        DeployAnswer::Readiness {
            instances: [
                ReadinessState::Starting { last: Some("connection refused".into()) },
                ReadinessState::Ready,
                ReadinessState::Draining,
                ReadinessState::Failed { why: "exit code 1".into() },
                ReadinessState::Gone,
            ]
            .map(|state| Readiness { instance: "web-0-aaaaa".parse().unwrap(), state })
            .into(),
        },
        DeployAnswer::Listed { instances: vec![seen()] },
        DeployAnswer::Logs {
            lines: vec![LogLine { at: 1, stream: LogStream::Stderr, text: "started".into() }],
        },
        DeployAnswer::Done,
        DeployAnswer::TooLate { clock: 1_800_000_025 },
        DeployAnswer::Busy,
        DeployAnswer::Failed(
            DeployFailure::new(ErrorCode::PortTaken, "port 80/tcp is taken")
                .on(&"node-1".parse().unwrap())
                .of(&"web".parse().unwrap()),
        ),
    ];
    answers.iter().for_each(|answer| line(&mut out, "answer", answer));
    crate::same_as("deploy-commands.jsonl", &out);
}

#[test]
fn golden_records_and_subjects() {
    let mut out = String::new();
    let node = "node-1".parse().unwrap();
    let mut cluster = Cluster::of(2);
    let web = json!({"name": "web", "image": "web:1", "ports": [{"port": 80}], "routes": [{"host": "a.b"}],
        "placement": {"replicas": 2}, "env": {"A": "1"}});
    let first = cluster.plan(&manifest(json!([web])), &Scope::Namespace).unwrap();
    cluster.apply(&first);
    let second = cluster.plan(&manifest(json!([])), &Scope::Namespace).unwrap();
    let failed = first
        .status(&node, 10)
        .at(DeployPhase::Probed, 20)
        .failed(DeployFailure::new(ErrorCode::ReadinessFailed, "web-0-aaaaa: exit code 1"), 30);
    line(&mut out, "status", &failed);
    let left = first.services.values().next().unwrap().slots[&0].clone();
    line(&mut out, "status", &failed.at(DeployPhase::Undone, 35).owing(Owed::Remove, &left));
    line(&mut out, "decision", &Decision::Committed(Box::new(first.commit(&node, 40))));
    line(&mut out, "decision", &Decision::Committed(Box::new(second.commit(&node, 50))));
    let abandoned = Decision::Abandoned {
        version: 1,
        namespace: "shop".parse().unwrap(),
        deploy: second.deploy.clone(),
        by: node.clone(),
        at: 60,
    };
    line(&mut out, "decision", &abandoned);
    line(&mut out, "lock", &DeployLock { deploy: second.deploy.clone(), owner: node, expires_at: 70 });
    line(&mut out, "preview", &second.preview);
    let (network, shop) = ("0".repeat(32).parse().unwrap(), "shop".parse().unwrap());
    writeln!(out, "subject {}", subject::deploy_commit(&network, &shop, &second.deploy)).unwrap();
    writeln!(out, "subject {}", subject::deploy_commits(&network)).unwrap();
    writeln!(out, "key {}", subject::deploy_lock(&shop)).unwrap();
    crate::same_as("deploy-records.jsonl", &out);
}

#[test]
fn golden_requests_and_payloads() {
    let mut out = String::new();
    let mut cluster = Cluster::of(1);
    let wanted = manifest(json!([{"name": "web", "image": "web:1"}]));
    let plan = cluster.plan(&wanted, &Scope::Namespace).unwrap();
    let (shop, web) = ("shop".parse().unwrap(), "web".parse().unwrap());
    line(
        &mut out,
        "deploy",
        &DeployRequest {
            manifest: Box::new(wanted),
            only: Some("web".parse().unwrap()),
            expected_baseline: Some(plan.deploy.clone()),
        },
    );
    line(&mut out, "deploy-attach", &DeployAttachRequest::default());
    let attach = DeployAttachRequest { deploy: Some(plan.deploy.clone()), abort: true };
    line(&mut out, "deploy-attach", &attach);
    let mark = DeployMark { id: plan.deploy.clone(), namespace: "shop".parse().unwrap(), committed: false };
    line(&mut out, "deploy-mark", &mark);
    line(&mut out, "service-list", &ServiceListRequest { namespace: None });
    line(&mut out, "service-inspect", &ServiceRequest { namespace: shop, service: web });
    line(
        &mut out,
        "service-logs",
        &ServiceLogsRequest {
            namespace: "shop".parse().unwrap(),
            service: "web".parse().unwrap(),
            instance: None,
            tail: 100,
            after: None,
        },
    );
    line(
        &mut out,
        "deploy-report",
        &DeployReport {
            deploy_id: Some(plan.deploy.clone()),
            preview: plan.preview.clone(),
            state: DeployState::of(DeployPhase::Drained, false),
            events: vec![DeployEvent { step: DeployPhase::Locked, message: "probe 1 machine".into() }],
            failures: vec![DeployFailure::new(ErrorCode::DockerUnavailable, "no answer in 5s")],
        },
    );
    line(
        &mut out,
        "service-list",
        &ServiceList {
            services: vec![ServiceRow {
                namespace: "shop".parse().unwrap(),
                service: "web".parse().unwrap(),
                image: "web:1".parse().unwrap(),
                revision: "v1:ab".into(),
                wanted: 1,
                ready: 0,
                mode: "replicated".into(),
                routes: vec!["a.b/".into()],
                deploy: plan.deploy.clone(),
                phase: Some(DeployPhase::Started),
            }],
            unreachable: vec!["node-2".parse().unwrap()],
        },
    );
    line(
        &mut out,
        "service-inspect",
        &ServiceDetail {
            namespace: "shop".parse().unwrap(),
            committed: plan.services.values().next().unwrap().clone(),
            instances: vec![InstanceRow { machine: "node-1".parse().unwrap(), current: true, seen: seen() }],
            unreachable: vec![],
        },
    );
    line(
        &mut out,
        "service-logs",
        &ServiceLogs {
            lines: vec![ServiceLogLine {
                instance: "web-0-aaaaa".parse().unwrap(),
                machine: "node-1".parse().unwrap(),
                line: LogLine { at: 1, stream: LogStream::Stdout, text: "hello".into() },
            }],
            missing: vec![ServiceLogMissing {
                instance: "web-1-bbbbb".parse().unwrap(),
                why: "node-2: away".into(),
            }],
        },
    );
    crate::same_as("deploy-api.jsonl", &out);
}
