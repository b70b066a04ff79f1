//! From a container's spec to the request that creates it.

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, NetworkingConfig, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};
use ployz_core::spec::ContainerSpec;
use ployz_core::spec::container::PublishedPort;
use ployz_core::wire::v1::manifest::Restart;
use std::collections::HashMap;

/// The whole request.
pub(super) fn create(spec: &ContainerSpec) -> ContainerCreateBody {
    let env = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    ContainerCreateBody {
        hostname: Some(spec.owner.instance.to_string()),
        image: Some(spec.image.to_string()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(env.collect()),
        labels: Some(spec.labels().into_iter().collect()),
        exposed_ports: Some(spec.publish.iter().map(port).collect()),
        stop_timeout: Some(seconds(spec)),
        host_config: Some(host(spec)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(spec.bridge.clone(), endpoint(spec))])),
        }),
        ..Default::default()
    }
}

/// How long Docker waits for the program to end.
pub(super) fn seconds(spec: &ContainerSpec) -> i64 {
    i64::try_from(spec.stop_grace.as_secs()).unwrap_or(i64::MAX)
}

fn host(spec: &ContainerSpec) -> HostConfig {
    let resources = &spec.resources;
    HostConfig {
        network_mode: Some(spec.bridge.clone()),
        dns: Some(vec![spec.dns.to_string()]),
        dns_search: Some(vec![spec.search()]),
        port_bindings: Some(
            spec.publish.iter().map(|published| (port(published), binding(published))).collect(),
        ),
        restart_policy: Some(RestartPolicy { name: Some(restart(spec.restart)), maximum_retry_count: None }),
        nano_cpus: resources.cpus.map(|cpus| i64::from(cpus.as_millis()) * NANOS_A_MILLI),
        memory: resources.memory.and_then(|memory| i64::try_from(memory.get()).ok()),
        ..Default::default()
    }
}

fn endpoint(spec: &ContainerSpec) -> EndpointSettings {
    let ipam = EndpointIpamConfig { ipv4_address: Some(spec.address.to_string()), ..Default::default() };
    EndpointSettings { ipam_config: Some(ipam), ..Default::default() }
}

fn port(published: &PublishedPort) -> String {
    format!("{}/{}", published.container, published.protocol)
}

fn binding(published: &PublishedPort) -> Option<Vec<PortBinding>> {
    Some(vec![PortBinding { host_ip: None, host_port: Some(published.host.to_string()) }])
}

fn restart(restart: Restart) -> RestartPolicyNameEnum {
    match restart {
        Restart::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
        Restart::Always => RestartPolicyNameEnum::ALWAYS,
        Restart::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
        Restart::No => RestartPolicyNameEnum::NO,
    }
}

/// A thousandth of a processor in Docker's unit.
pub(super) const NANOS_A_MILLI: i64 = 1_000_000;
