//! The gateway's view of the routing state: which service a host and path lead to, and where that service can be reached.
//!
//! Pure: built whole from a state, never changed, looked up without allocating. An exact host wins over `*.x`, that over
//! `*`; among the routes of a host the longest path wins; a host without a fitting path falls through to the next.

use crate::host::{Host, routed_path};
use ployz_core::routing::{HttpRoute, ServiceRef, State};
use ployz_nats::events::View;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;

/// Where requests and connections go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    exact: HashMap<Box<str>, Paths>,
    below: HashMap<Box<str>, Paths>,
    every: Paths,
    tcp: HashMap<u16, RouteId>,
    routes: Vec<Route>,
    backends: Vec<SocketAddrV4>,
}

/// Names a route of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(usize);

/// Names a backend of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(usize);

/// One route of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it is known by in logs and metrics: `shop.example.org/api`, `tcp 5432`.
    pub label: Box<str>,
    /// Whose route it is.
    pub service: ServiceRef,
    /// Its backends, each once.
    pub backends: Vec<BackendId>,
    /// Answer plain HTTP with a redirect.
    pub https_only: bool,
    /// Until the first byte of an answer.
    pub timeout: Option<Duration>,
    /// Largest request body.
    pub max_body: Option<u64>,
    /// Requests a second from one client address.
    pub rate_limit: Option<u32>,
}

/// Routes of one host by path, each without a trailing slash, so that `/` is the empty text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Paths {
    by_prefix: HashMap<Box<str>, RouteId>,
    longest: usize,
}

impl Table {
    /// The route for a request, if there is one.
    pub fn find(&self, host: &Host, path: &str) -> Option<RouteId> {
        let path = routed_path(path);
        let exact = self.exact.get(host.as_str());
        let below = || host.parent().and_then(|parent| self.below.get(parent));
        exact
            .and_then(|paths| paths.find(&path))
            .or_else(|| below().and_then(|paths| paths.find(&path)))
            .or_else(|| self.every.find(&path))
    }

    /// The route for connections to a port of the gateway.
    pub fn find_tcp(&self, listen: u16) -> Option<RouteId> {
        self.tcp.get(&listen).copied()
    }

    /// A route that was found in this table; in another one perhaps none.
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id.0)
    }

    /// Every route.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Every backend of every route, once.
    pub fn backends(&self) -> &[SocketAddrV4] {
        &self.backends
    }

    /// The ports that TCP routes ask for.
    pub fn tcp_ports(&self) -> impl Iterator<Item = u16> {
        self.tcp.keys().copied()
    }
}

impl View for Table {
    fn of(state: &State) -> Self {
        let mut builder = Builder::default();
        // In the order of names: whoever comes first keeps a route that two services claim, on every machine alike.
        for (service, wanted) in &state.services {
            let running: Vec<Ipv4Addr> =
                state.routable(service).map(|(_, _, instance)| instance.address).collect();
            for route in &wanted.http {
                builder.http(service, route, &running);
            }
            for route in &wanted.tcp {
                builder.tcp(service, route.listen, route.port, &running);
            }
        }
        builder.table
    }
}

#[derive(Default)]
struct Builder {
    table: Table,
    known: HashMap<SocketAddrV4, BackendId>,
}

impl Builder {
    fn http(&mut self, service: &ServiceRef, wanted: &HttpRoute, running: &[Ipv4Addr]) {
        let id = RouteId(self.table.routes.len());
        let Some(paths) = self.paths(&wanted.host) else { return };
        let prefix = wanted.path.trim_end_matches('/');
        if !paths.take(prefix, id) {
            return;
        }
        let shown = if prefix.is_empty() { "/" } else { prefix };
        let route = Route {
            label: format!("{}{shown}", wanted.host).into(),
            service: service.clone(),
            backends: self.backends(running, wanted.port),
            https_only: wanted.https_only,
            timeout: wanted.timeout_secs.map(|secs| Duration::from_secs(u64::from(secs.max(1)))),
            max_body: wanted.max_body,
            rate_limit: wanted.rate_limit.filter(|rate| *rate > 0),
        };
        self.table.routes.push(route);
    }

    fn tcp(&mut self, service: &ServiceRef, listen: u16, port: u16, running: &[Ipv4Addr]) {
        let id = RouteId(self.table.routes.len());
        if *self.table.tcp.entry(listen).or_insert(id) != id {
            return;
        }
        let backends = self.backends(running, port);
        let label = format!("tcp {listen}").into();
        let service = service.clone();
        let plain = Route {
            label,
            service,
            backends,
            https_only: false,
            timeout: None,
            max_body: None,
            rate_limit: None,
        };
        self.table.routes.push(plain);
    }

    /// The paths of a host of a route; nothing for what can never be the host of a request.
    fn paths(&mut self, host: &str) -> Option<&mut Paths> {
        if host == "*" {
            return Some(&mut self.table.every);
        }
        let (map, name) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.table.below, parent),
            None => (&mut self.table.exact, host),
        };
        let name = Host::parse(name.as_bytes()).ok()?;
        (!name.as_str().is_empty()).then(|| map.entry(name.as_str().into()).or_default())
    }

    fn backends(&mut self, running: &[Ipv4Addr], port: u16) -> Vec<BackendId> {
        let backends = &mut self.table.backends;
        let known = &mut self.known;
        let mut ids: Vec<BackendId> = running
            .iter()
            .map(|address| {
                let backend = SocketAddrV4::new(*address, port);
                *known.entry(backend).or_insert_with(|| {
                    backends.push(backend);
                    BackendId(backends.len() - 1)
                })
            })
            .collect();
        // Two machines may claim one address while an instance moves; it is one backend.
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Paths {
    /// Whether the prefix was still free.
    fn take(&mut self, prefix: &str, id: RouteId) -> bool {
        self.longest = self.longest.max(prefix.len());
        *self.by_prefix.entry(prefix.into()).or_insert(id) == id
    }

    fn find(&self, path: &str) -> Option<RouteId> {
        if self.longest == 0 {
            return self.by_prefix.get("").copied();
        }
        // No prefix is longer than the longest, so a path of a thousand segments costs no more than a short one.
        let ends = boundaries(path, self.longest);
        ends.filter_map(|end| self.by_prefix.get(&path[..end])).next().copied()
    }
}

impl BackendId {
    /// What belongs to a backend of a table, of things in the order of [`Table::backends`].
    pub(crate) fn of<T>(self, all: &[T]) -> Option<&T> {
        all.get(self.0)
    }
}

impl RouteId {
    /// What belongs to a route of a table, of things in the order of [`Table::routes`].
    pub(crate) fn of<T>(self, all: &[T]) -> Option<&T> {
        all.get(self.0)
    }
}

/// The ends of whole segments in a path, from the longest not beyond `longest` down to the empty prefix.
fn boundaries(path: &str, longest: usize) -> impl Iterator<Item = usize> {
    let bytes = path.as_bytes();
    let within: Range<usize> = 0..bytes.len().min(longest) + 1;
    within.rev().filter(move |end| *end == 0 || bytes.get(*end).is_none_or(|next| *next == b'/'))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
