//! What a feed hands out: a view of the state, and how far it can be trusted.

use ployz_core::routing::{Freshness, State, Value};
use std::sync::Arc;

/// What one program makes of the routing state: a table that it can look things up in.
pub trait View: Send + Sync + 'static {
    /// The view of a state. Pure and fast: it runs on the runtime, in a burst of events up to half of the time. It must
    /// not panic: that ends the feed.
    fn of(state: &State) -> Self;

    /// Whether the view has any use for a value. What it has none for is not kept, in memory or on disk: its key is taken
    /// for gone.
    fn reads(_value: &Value) -> bool {
        true
    }
}

/// A view at one point of the stream.
#[derive(Debug)]
pub struct Snapshot<V> {
    /// The view; the same one as before (`Arc::ptr_eq`) when nothing in it has changed.
    pub view: Arc<V>,
    /// How far it can be trusted.
    pub freshness: Freshness,
    /// The stream's number of the last event that the view knows of; 0 before the first one.
    pub sequence: u64,
}

/// For who wants all of it.
impl View for State {
    fn of(state: &State) -> Self {
        state.clone()
    }
}

/// Two views that change at the same moment.
impl<A: View, B: View> View for (A, B) {
    fn of(state: &State) -> Self {
        (A::of(state), B::of(state))
    }

    fn reads(value: &Value) -> bool {
        A::reads(value) || B::reads(value)
    }
}
