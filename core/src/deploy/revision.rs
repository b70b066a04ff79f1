//! The revision of a service: a fingerprint of everything that makes its containers different.
//!
//! Not in it, because they change nothing about a container: replicas and placement, routes, names of ports and ports
//! that are not published, readiness, rollout, the time a container gets to stop, when its image is pulled. Changing those
//! replaces nothing.
//!
//! Fields decide here as everywhere: what is committed is kept whole, so a service whose fields are what they were keeps
//! its revision as it is written, whatever version of fingerprints wrote it.

use crate::adopt::identity::Identity;
use crate::spec::container::{digest, limit, words};
use crate::wire::v1::deploy::{CommittedService, ImageContent};
use crate::wire::v1::manifest::Service;
use std::collections::BTreeMap;

/// The fields of a service's revision. `content` is what its image holds, where the machines agree on that: a tag that
/// was rebuilt is another revision although its name is the same.
pub fn identity(service: &Service, content: Option<&ImageContent>) -> Identity {
    let mut fields = BTreeMap::new();
    let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value);
    put("image", service.image.to_string());
    put("content", content.map_or_else(String::new, |content| content.0.clone()));
    put("command", words(&service.command));
    for (name, value) in &service.env {
        put(&format!("env.{name}"), digest(value));
    }
    let mut publish: Vec<String> = service
        .ports
        .iter()
        .filter_map(|port| port.publish.map(|host| format!("{host}:{}/{}", port.port, port.protocol)))
        .collect();
    publish.sort_unstable();
    put("publish", publish.join(" "));
    put("restart", service.restart.to_string());
    put("cpus", limit(service.resources.cpus.map(|cpus| u64::from(cpus.as_millis()))));
    put("memory", limit(service.resources.memory.map(|memory| memory.get())));
    let mut mounts: Vec<String> = service
        .volumes
        .iter()
        .map(|mount| {
            format!("{}:{}:{}", mount.source, mount.target, if mount.read_only { "ro" } else { "rw" })
        })
        .collect();
    mounts.sort_unstable();
    put("mounts", mounts.join(" "));
    Identity::new(fields)
}

/// The revision of a service that is wanted, beside what is committed of it.
pub fn revision(
    service: &Service,
    content: Option<&ImageContent>,
    committed: Option<&CommittedService>,
) -> String {
    let wanted = identity(service, content);
    let same = |known: &&CommittedService| identity(&known.service, known.content.as_ref()) == wanted;
    committed.filter(same).map_or_else(|| wanted.fingerprint(), |committed| committed.revision.clone())
}
