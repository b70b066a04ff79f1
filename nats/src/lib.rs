//! The store as Ployz uses it: the only crate that knows async-nats.
//!
//! [`events`] carries routing events to gateways and DNS servers, [`store`], [`deploys`] and [`certificates`] hold records,
//! [`rpc`] carries commands between machines. What a user of the server may do is in [`permissions`].

pub mod bucket;
pub mod certificates;
pub mod deploys;
pub mod events;
pub mod permissions;
pub mod presence;
pub mod rpc;
pub mod store;

/// A connection to the server.
pub use async_nats::Client;
