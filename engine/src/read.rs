//! From Docker's inspection of a container to what was found. Fields that are missing or odd read as absent: the
//! comparison with the spec then names them.

use crate::body::NANOS_A_MILLI;
use crate::error::{DockerError, Result};
use bollard::models::{
    ContainerInspectResponse, ContainerState as Reported, ContainerStateStatusEnum as Status,
    EndpointSettings, HostConfig, ImageInspect, NetworkSettings, PortMap,
};
use ployz_core::deploy::image::ImageParts;
use ployz_core::id::ImageId;
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::PublishedPort;
use ployz_core::wire::v1::manifest::Protocol;
use ployz_host::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The whole inspection.
pub(super) fn container(found: ContainerInspectResponse) -> ContainerLive {
    let config = found.config.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    let started = found.state.as_ref().and_then(|state| clock::nanos(state.started_at.as_deref()?));
    ContainerLive {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default().iter().filter_map(|line| variable(line)).collect(),
        networks: networks(found.network_settings),
        dns: host.dns.iter().flatten().filter_map(|address| address.parse().ok()).collect(),
        search: host.dns_search.clone().unwrap_or_default(),
        publish: host.port_bindings.as_ref().map(published).unwrap_or_default(),
        restart: restart(&host),
        cpu_millis: host.nano_cpus.and_then(positive).map(|nanos| nanos / NANOS_A_MILLI.unsigned_abs()),
        memory: host.memory.and_then(positive),
        state: found.state.map_or(ContainerState::Dead, state),
        // Of one that was never started Docker says the year 1, which is no time.
        started_at: started.map(|nanos| nanos / clock::NANOS),
        restarts: found.restart_count.and_then(positive).unwrap_or(0),
    }
}

/// The engine's id of an image.
pub(super) fn image_id(found: &ImageInspect) -> Result<ImageId> {
    let text = found.id.clone().unwrap_or_default();
    text.parse().map_err(|error: ployz_core::id::InvalidId| {
        let (operation, subject) = ("inspect", "an image".to_owned());
        DockerError::Odd { operation, subject, detail: error.to_string() }
    })
}

/// What an image holds.
pub(super) fn image(found: ImageInspect) -> ImageParts {
    let config = found.config.unwrap_or_default();
    let platform = [found.os, found.architecture, found.variant].into_iter().flatten();
    ImageParts {
        layers: found.root_fs.and_then(|root| root.layers).unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        directory: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        platform: platform.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"),
    }
}

/// Whether it runs, from the fields that every version of Docker fills in.
fn state(found: Reported) -> ContainerState {
    match found.status {
        Some(Status::CREATED) => ContainerState::Created,
        Some(Status::RUNNING | Status::STOPPING) => ContainerState::Running,
        Some(Status::PAUSED) => ContainerState::Paused,
        Some(Status::RESTARTING | Status::REMOVING) => ContainerState::Changing,
        Some(Status::EXITED) => ContainerState::Exited(found.exit_code.unwrap_or(-1)),
        Some(Status::DEAD | Status::EMPTY) | None => ContainerState::Dead,
    }
}

fn variable(line: &str) -> Option<(String, String)> {
    line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn networks(found: Option<NetworkSettings>) -> BTreeMap<String, Option<Ipv4Addr>> {
    let networks = found.and_then(|settings| settings.networks).unwrap_or_default();
    networks.into_iter().map(|(name, endpoint)| (name, asked_for(&endpoint))).collect()
}

fn asked_for(endpoint: &EndpointSettings) -> Option<Ipv4Addr> {
    endpoint.ipam_config.as_ref()?.ipv4_address.as_ref()?.parse().ok()
}

fn published(found: &PortMap) -> BTreeSet<PublishedPort> {
    let pairs = found
        .iter()
        .flat_map(|(port, bindings)| bindings.iter().flatten().map(move |binding| (port, binding)));
    pairs
        .filter_map(|(port, binding)| {
            let (container, protocol) = port.split_once('/')?;
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            let host = binding.host_port.as_ref()?.parse().ok()?;
            Some(PublishedPort { protocol, host, container: container.parse().ok()? })
        })
        .collect()
}

fn restart(host: &HostConfig) -> String {
    let name = host.restart_policy.as_ref().and_then(|policy| policy.name);
    name.map(|name| name.to_string()).unwrap_or_default()
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}
