//! What is served at this moment: a table with the lasting things that belong to its routes and backends.
//!
//! The table is made anew at every change; backends and tallies are carried over by name, so that a change of one route
//! forgets nothing about the others.

use crate::backend::Backend;
use crate::host::Host;
use crate::metrics::Tally;
use crate::table::{BackendId, Route, RouteId, Table};
use ployz_core::routing::Freshness;
use ployz_core::wire::v1::sidecar::SidecarStatus;
use ployz_nats::events::Snapshot;
use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot, ready to be served from.
pub struct Served {
    snapshot: Arc<Snapshot<Table>>,
    backends: Vec<Arc<Backend>>,
    tallies: Vec<Arc<Tally>>,
}

/// What the gateway reports of a snapshot.
pub fn status(snapshot: &Snapshot<Table>) -> SidecarStatus {
    let mut status = SidecarStatus::new(snapshot.freshness, env!("CARGO_PKG_VERSION"));
    status.sequence = Some(snapshot.sequence);
    status.counts.routes = Some(snapshot.view.routes().len() as u64);
    status
}

/// Backends that one request has tried.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tried {
    backends: [Option<BackendId>; MOST_TRIES],
    count: usize,
}

impl Served {
    /// What is served from a snapshot on, after what was served before.
    pub fn after(previous: Option<&Self>, snapshot: Arc<Snapshot<Table>>) -> Self {
        if let Some(previous) =
            previous.filter(|previous| Arc::ptr_eq(&previous.snapshot.view, &snapshot.view))
        {
            let (backends, tallies) = (previous.backends.clone(), previous.tallies.clone());
            return Self { snapshot, backends, tallies };
        }
        let known: HashMap<SocketAddrV4, &Arc<Backend>> = previous
            .map(|previous| previous.backends.iter().map(|backend| (backend.address(), backend)).collect())
            .unwrap_or_default();
        let counted: HashMap<&str, &Arc<Tally>> =
            previous.map(|previous| previous.labelled().collect()).unwrap_or_default();
        let backend = |address: &SocketAddrV4| {
            known.get(address).map_or_else(|| Arc::new(Backend::new(*address)), |known| Arc::clone(known))
        };
        let tally = |route: &Route| {
            counted.get(&*route.label).map_or_else(Arc::<Tally>::default, |known| Arc::clone(known))
        };
        let backends = snapshot.view.backends().iter().map(backend).collect();
        let tallies = snapshot.view.routes().iter().map(tally).collect();
        Self { snapshot, backends, tallies }
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot<Table> {
        &self.snapshot
    }

    /// Whether nothing may be answered from it.
    pub fn is_empty(&self) -> bool {
        self.snapshot.freshness == Freshness::Empty
    }

    /// The route for a request.
    pub fn find(&self, host: &Host, path: &str) -> Option<RouteId> {
        self.snapshot.view.find(host, path)
    }

    /// The route for connections to a port.
    pub fn find_tcp(&self, listen: u16) -> Option<RouteId> {
        self.snapshot.view.find_tcp(listen)
    }

    /// A route that was found here.
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.snapshot.view.route(id)
    }

    /// Counts a finished request of a route, as [`Tally::count`] does.
    pub fn count(&self, id: RouteId, status: u16, took: Duration) {
        if let Some(tally) = id.of(&self.tallies) {
            tally.count(status, took);
        }
    }

    /// Every route with its tally.
    pub fn tallied(&self) -> impl Iterator<Item = (&Route, &Tally)> {
        self.snapshot.view.routes().iter().zip(self.tallies.iter().map(Arc::as_ref))
    }

    /// The next backend in turn that was not tried; one that was put aside only when there is no other.
    pub fn pick(&self, id: RouteId, tried: &Tried) -> Option<(BackendId, &Arc<Backend>)> {
        let (ids, start) = (&self.route(id)?.backends, id.of(&self.tallies)?.turn());
        let in_turn = (0..ids.len()).map(|step| ids[(start + step) % ids.len()]);
        let untried = in_turn.filter(|backend| !tried.contains(*backend));
        let mut untried = untried.filter_map(|backend| Some((backend, self.backend(backend)?)));
        let first = untried.next()?;
        if !first.1.is_aside() {
            return Some(first);
        }
        Some(untried.find(|(_, backend)| !backend.is_aside()).unwrap_or(first))
    }

    /// A backend that was picked here.
    pub fn backend(&self, id: BackendId) -> Option<&Arc<Backend>> {
        id.of(&self.backends)
    }

    fn labelled(&self) -> impl Iterator<Item = (&str, &Arc<Tally>)> {
        self.snapshot.view.routes().iter().map(|route| &*route.label).zip(&self.tallies)
    }
}

impl Tried {
    /// Notes a backend.
    pub fn add(&mut self, backend: BackendId) {
        if let Some(slot) = self.backends.get_mut(self.count) {
            *slot = Some(backend);
        }
        self.count += 1;
    }

    /// Whether it is among them.
    pub fn contains(&self, backend: BackendId) -> bool {
        self.backends.contains(&Some(backend))
    }

    /// The one that was noted last.
    pub fn last(&self) -> Option<BackendId> {
        self.backends.get(self.count.checked_sub(1)?).copied().flatten()
    }
}

/// Backends that one request is sent to at most, the first included.
pub const MOST_TRIES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::routing::State;
    use ployz_nats::events::View;

    fn served(previous: Option<&Served>, addresses: &[[u8; 4]]) -> Served {
        let view = Arc::new(crate::testing::table("a.org", addresses, 80));
        Served::after(previous, Arc::new(Snapshot { view, freshness: Freshness::Live, sequence: 1 }))
    }

    /// The only route, and its backends in order.
    fn only(served: &Served) -> (RouteId, &[BackendId]) {
        let id = served.find(&Host::parse(b"a.org").unwrap(), "/").unwrap();
        (id, &served.route(id).unwrap().backends)
    }

    #[test]
    fn backends_are_picked_in_turn_and_none_twice() {
        let served = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let (route, _) = only(&served);
        let mut tried = Tried::default();
        let first = served.pick(route, &tried).unwrap().0;
        tried.add(first);
        let second = served.pick(route, &tried).unwrap().0;
        assert_ne!(first, second);
        tried.add(second);
        assert!(served.pick(route, &tried).is_none());
    }

    #[test]
    fn one_that_was_put_aside_is_skipped_unless_it_is_the_last() {
        let one = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let (route, backends) = only(&one);
        one.backend(backends[0]).unwrap().put_aside();
        for _ in 0..4 {
            assert_eq!(one.pick(route, &Tried::default()).unwrap().0, backends[1]);
        }
        one.backend(backends[1]).unwrap().put_aside();
        assert!(one.pick(route, &Tried::default()).is_some());
    }

    #[test]
    fn what_is_known_of_a_backend_survives_a_change() {
        let before = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let (route, backends) = only(&before);
        before.backend(backends[1]).unwrap().put_aside();
        before.tallies[0].turn();
        let after = served(Some(&before), &[[10, 0, 0, 2], [10, 0, 0, 3]]);
        let (_, backends) = only(&after);
        assert!(after.backend(backends[0]).unwrap().is_aside());
        assert!(!after.backend(backends[1]).unwrap().is_aside());
        assert_eq!(route.of(&after.tallies).unwrap().turn(), 1);
    }

    #[test]
    fn id_of_a_larger_table_finds_nothing_and_does_not_panic() {
        let large = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let (route, backends) = only(&large);
        let small = served(None, &[[10, 0, 0, 1]]);
        assert!(small.backend(backends[1]).is_none());
        let view = Arc::new(Table::of(&State::default()));
        let empty = Served::after(None, Arc::new(Snapshot { view, freshness: Freshness::Live, sequence: 2 }));
        assert!(empty.route(route).is_none() && empty.pick(route, &Tried::default()).is_none());
        empty.count(route, 200, Duration::ZERO);
    }

    #[test]
    fn nothing_is_found_in_what_was_never_filled() {
        let view = Arc::new(Table::of(&State::default()));
        let empty =
            Served::after(None, Arc::new(Snapshot { view, freshness: Freshness::Empty, sequence: 0 }));
        assert!(empty.is_empty());
        assert!(empty.find(&Host::parse(b"a.org").unwrap(), "/").is_none());
    }
}
