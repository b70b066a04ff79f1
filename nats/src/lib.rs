//! The store as Ployz uses it: the only crate that knows async-nats.
//!
//! [`events`] carries routing events to gateways and DNS servers, [`store`], [`deploys`] and [`certificates`] hold records,
//! [`rpc`] carries commands between machines. What a user of the server may do is in [`permissions`].
//!
//! # Errors
//!
//! Records give [`bucket::StoreError`]: `Away` (no answer in time; the outcome of a write is then unknown, so read again), `Conflict` (a
//! compare-and-set lost; read again) or `Damaged` (a value that cannot be parsed; the others are not touched by it). Commands between machines
//! give [`rpc::NoAnswer`]. Requests to the server have a deadline of 5 s.

pub mod accounts;
pub mod bucket;
pub mod certificates;
pub mod deploys;
pub mod dialect;
pub mod events;
pub mod permissions;
pub mod presence;
mod reader;
pub mod rpc;
pub mod store;

/// A connection to the server.
pub use async_nats::Client;
