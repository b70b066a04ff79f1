//! A running network on this machine: its state, its tasks, and what they tell each other.
//!
//! State goes out on watches, requests for a reconciliation come in on a channel. Dropping the tasks changes
//! nothing on the machine: the data plane is not theirs. Knows no deploy, no image and no operator.

pub mod asked;
pub mod commands;
pub mod context;
pub mod endpoints;
pub mod gate;
pub mod host;
pub mod identity_watch;
pub mod listener;
pub mod monitor;
pub mod ports;
pub mod presence;
pub mod probe;
pub mod ready;
mod records;
pub mod routes;
pub mod start;
pub mod sync;
pub mod twins;

#[cfg(test)]
pub mod tests;
