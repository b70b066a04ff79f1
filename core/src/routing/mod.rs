//! Who serves what, as gateway and DNS see it: events of single keys, folded into one state in the stream's order.
//!
//! The fold is the only reader of events there is. A gap is a value that asks for a rebuild, never a guess.

pub mod credible;
pub mod event;
pub mod state;

pub use event::{
    Event, HttpRoute, InstanceRoute, Key, MachineRoute, ServicePort, ServiceRef, ServiceRoute, TcpRoute,
    Unreadable, Value,
};
pub use state::{Applied, Fold, Freshness, State};
