//! `deploy` and `service` as requests. What only looks is a request of its own (`deploy-preview`), which the daemon
//! cannot carry out by mistake.

use super::manifest;
use crate::args::{Attach, Deploy, DeployVerb, Logs, Named, OneService, Service};
use crate::failure::Failure;
use ployz_core::wire::v1::api::Request;
use ployz_core::wire::v1::api_deploy::{
    DeployAttachRequest, DeployRequest, ServiceListRequest, ServiceLogsRequest, ServiceRequest,
};
use ployz_core::wire::v1::manifest::{Manifest, Mode, ServiceFlags, VERSION};
use std::io::Read;

/// `deploy`.
pub(super) fn of_deploy(deploy: Deploy, stdin: &mut dyn Read) -> Result<Request, Failure> {
    let own_flags = deploy.file.file.is_some() || deploy.dry_run || deploy.expect_baseline.is_some();
    match deploy.verb {
        Some(_) if own_flags => {
            let what = "put flags of `deploy` after its subcommand";
            Err(Failure::Usage(what.into()))
        }
        Some(DeployVerb::Preview(file)) => {
            let manifest = manifest::read(file.file.as_deref(), stdin)?;
            Ok(Request::DeployPreview(whole(manifest)))
        }
        Some(DeployVerb::Service(service)) => of_one(*service, stdin),
        Some(DeployVerb::Attach(Attach { deploy, abort })) => {
            Ok(Request::DeployAttach(DeployAttachRequest { deploy, abort }))
        }
        None => {
            let manifest = manifest::read(deploy.file.file.as_deref(), stdin)?;
            let request = DeployRequest { expected_baseline: deploy.expect_baseline, ..whole(manifest) };
            Ok(either(deploy.dry_run, request))
        }
    }
}

/// `service`, but for `logs --follow`, which is more than one request.
pub(super) fn of_service(service: Service) -> Request {
    match service {
        Service::Ls { namespace } => Request::ServiceList(ServiceListRequest { namespace }),
        Service::Inspect { service } => Request::ServiceInspect(of_named(service)),
        Service::Logs(logs) => Request::ServiceLogs(of_logs(logs)),
        Service::Rm { service, dry_run: false } => Request::ServiceRemove(of_named(service)),
        Service::Rm { service, dry_run: true } => Request::DeployPreview(without(service)),
    }
}

/// `service logs`.
pub(super) fn of_logs(logs: Logs) -> ServiceLogsRequest {
    let usual = if logs.since.is_some() { u32::MAX } else { 100 };
    ServiceLogsRequest {
        namespace: logs.service.namespace,
        service: logs.service.service,
        instance: logs.instance,
        tail: logs.tail.unwrap_or(usual),
        after: logs.since.map(|since| since.nanos()),
    }
}

fn of_named(Named { namespace, service }: Named) -> ServiceRequest {
    ServiceRequest { namespace, service }
}

fn whole(manifest: Manifest) -> DeployRequest {
    DeployRequest { manifest: Box::new(manifest), only: None, expected_baseline: None }
}

/// What removing a service is to a namespace: a manifest that speaks for this service alone and does not have it.
fn without(Named { namespace, service }: Named) -> DeployRequest {
    let manifest = Manifest { version: VERSION, namespace, services: Vec::new(), volumes: Vec::new() };
    DeployRequest { only: Some(service), ..whole(manifest) }
}

fn of_one(service: OneService, stdin: &mut dyn Read) -> Result<Request, Failure> {
    let mut env = service.env;
    if service.env_stdin {
        let text = super::read(stdin, "list of variables")?;
        let wanted = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        env.extend(wanted.map(str::to_owned));
    }
    let flags = ServiceFlags {
        name: service.name,
        image: service.image,
        pull: service.pull,
        namespace: service.namespace,
        publish: service.publish,
        env,
        volumes: service.volume,
        restart: service.restart,
        command: service.command,
    };
    let mut manifest = Manifest::try_from(&flags).map_err(|bad| Failure::Usage(bad.to_string()))?;
    let only = manifest.services.first().map(|service| service.name.clone());
    for wanted in &mut manifest.services {
        if let Some(replicas) = service.replicas {
            wanted.placement.mode = Mode::Replicated { replicas };
        }
    }
    Ok(either(service.dry_run, DeployRequest { only, ..whole(manifest) }))
}

fn either(dry_run: bool, request: DeployRequest) -> Request {
    if dry_run { Request::DeployPreview(request) } else { Request::Deploy(request) }
}
