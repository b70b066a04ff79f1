//! What is served at this moment: a table with the lasting things that belong to its places.
//!
//! The table is made anew at every change; backends and tallies are carried over by name, so that a change of one route
//! forgets nothing about the others.

use crate::backend::Backend;
use crate::host::Host;
use crate::metrics::Tally;
use crate::table::{Route, Table};
use ployz_core::routing::Freshness;
use ployz_core::wire::v1::sidecar::SidecarStatus;
use ployz_nats::events::Snapshot;
use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;

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

/// Places of backends that one request has tried.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tried {
    places: [Option<usize>; MOST_TRIES],
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

    /// The place of the route for a request.
    pub fn find(&self, host: &Host, path: &str) -> Option<usize> {
        self.snapshot.view.find(host, path)
    }

    /// The place of the route for connections to a port.
    pub fn find_tcp(&self, listen: u16) -> Option<usize> {
        self.snapshot.view.find_tcp(listen)
    }

    /// The route in a place.
    pub fn route(&self, place: usize) -> &Route {
        self.snapshot.view.route(place)
    }

    /// The tally of a route.
    pub fn tally(&self, place: usize) -> &Tally {
        &self.tallies[place]
    }

    /// Every route with its tally.
    pub fn tallied(&self) -> impl Iterator<Item = (&Route, &Tally)> {
        self.snapshot.view.routes().iter().zip(self.tallies.iter().map(Arc::as_ref))
    }

    /// The next backend in turn that was not tried; one that was put aside only when there is no other.
    pub fn pick(&self, place: usize, tried: &Tried) -> Option<(usize, &Arc<Backend>)> {
        let places = &self.route(place).backends;
        let start = self.tallies[place].turn();
        let in_turn = (0..places.len()).map(|step| places[(start + step) % places.len()]);
        let mut untried = in_turn.filter(|backend| !tried.contains(*backend));
        let first = untried.next()?;
        let chosen = if self.backends[first].is_aside() {
            untried.find(|backend| !self.backends[*backend].is_aside()).unwrap_or(first)
        } else {
            first
        };
        Some((chosen, &self.backends[chosen]))
    }

    /// A backend by its place.
    pub fn backend(&self, place: usize) -> &Arc<Backend> {
        &self.backends[place]
    }

    fn labelled(&self) -> impl Iterator<Item = (&str, &Arc<Tally>)> {
        self.snapshot.view.routes().iter().map(|route| &*route.label).zip(&self.tallies)
    }
}

impl Tried {
    /// Notes a backend.
    pub fn add(&mut self, backend: usize) {
        if let Some(slot) = self.places.get_mut(self.count) {
            *slot = Some(backend);
        }
        self.count += 1;
    }

    /// Whether it is among them.
    pub fn contains(&self, backend: usize) -> bool {
        self.places.contains(&Some(backend))
    }

    /// The one that was noted last.
    pub fn last(&self) -> Option<usize> {
        self.places.get(self.count.checked_sub(1)?).copied().flatten()
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

    #[test]
    fn backends_are_picked_in_turn_and_none_twice() {
        let served = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let mut tried = Tried::default();
        let first = served.pick(0, &tried).unwrap().0;
        tried.add(first);
        let second = served.pick(0, &tried).unwrap().0;
        assert_ne!(first, second);
        tried.add(second);
        assert!(served.pick(0, &tried).is_none());
    }

    #[test]
    fn one_that_was_put_aside_is_skipped_unless_it_is_the_last() {
        let one = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        one.backend(0).put_aside();
        for _ in 0..4 {
            assert_eq!(one.pick(0, &Tried::default()).unwrap().0, 1);
        }
        one.backend(1).put_aside();
        assert!(one.pick(0, &Tried::default()).is_some());
    }

    #[test]
    fn what_is_known_of_a_backend_survives_a_change() {
        let before = served(None, &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        before.backend(1).put_aside();
        before.tally(0).turn();
        let after = served(Some(&before), &[[10, 0, 0, 2], [10, 0, 0, 3]]);
        assert!(after.backend(0).is_aside());
        assert!(!after.backend(1).is_aside());
        assert_eq!(after.tally(0).turn(), 1);
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
