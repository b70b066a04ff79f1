//! This machine's data plane: what it should be, what it is, and the way from one to the other.
//!
//! Knows no store and no other machine. Who decides is `ployz_core::adopt`.

pub mod environment;
pub mod footing;
pub mod host;
pub mod identity;
pub mod nats;
pub mod reconcile;
pub mod sidecars;
pub mod sockets;
pub mod spec;
pub mod supervisor;
pub mod teardown;
