//! What a commit means to gateways and DNS: the routing events that the machine which finishes the deploy publishes.

use crate::routing::event::{Event, HttpRoute, Key, ServicePort, ServiceRef, ServiceRoute, TcpRoute, Value};
use crate::wire::v1::deploy::{CommittedService, DeployCommit};
use crate::wire::v1::manifest::{self, Route};

/// The events of a commit: services that it changed, and those that are no more. Published again, they change nothing.
///
/// A coordinator that was asleep must not publish over a later deploy: read the last sequence of the key, then look
/// whether the status is still one's own, then publish with that sequence expected. A coordinator in between has changed
/// one of the two.
pub fn events(commit: &DeployCommit) -> Vec<Event> {
    let key = |service: &crate::id::ServiceName| {
        Key::Service(ServiceRef { namespace: commit.namespace.clone(), service: service.clone() })
    };
    let changed = commit.services.iter().filter(|(_, service)| service.deploy == commit.deploy);
    let put = changed
        .map(|(name, service)| Event { key: key(name), value: Some(Value::Service(service_route(service))) });
    let gone = commit.removed.iter().map(|name| Event { key: key(name), value: None });
    put.chain(gone).collect()
}

/// A committed service as gateways and DNS see it.
pub fn service_route(committed: &CommittedService) -> ServiceRoute {
    let service = &committed.service;
    let ports = service.ports.iter().map(|port| ServicePort {
        name: port.name.to_string(),
        port: port.port,
        protocol: port.protocol.to_string(),
    });
    ServiceRoute {
        deploy: committed.deploy.clone(),
        revision: committed.revision.clone(),
        instances: committed.slots.values().map(|placed| placed.instance.clone()).collect(),
        ports: ports.collect(),
        http: service.routes.iter().filter_map(http).collect(),
        tcp: service.routes.iter().filter_map(tcp).collect(),
    }
}

fn http(route: &Route) -> Option<HttpRoute> {
    let Route::Http(manifest::HttpRoute { host, path, port, https_only, timeout, max_body, rate_limit }) =
        route
    else {
        return None;
    };
    Some(HttpRoute {
        host: host.to_string(),
        path: path.to_string(),
        port: *port,
        https_only: *https_only,
        // At most a day, so it fits.
        timeout_secs: timeout.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)),
        max_body: max_body.map(manifest::Bytes::get),
        rate_limit: *rate_limit,
    })
}

fn tcp(route: &Route) -> Option<TcpRoute> {
    let Route::Tcp(route) = route else { return None };
    Some(TcpRoute { listen: route.listen, port: route.port })
}
