//! What Ployz knows without touching the machine: names, addresses, specs, decisions and wire contracts.
//!
//! Nothing here does I/O, reads a clock or draws a random number; callers hand those in. That is why every
//! decision of the product can be tested without root (`tests/pure.rs` asserts the dependency rule).

pub mod address;
pub mod adopt;
pub mod config;
pub mod deploy;
pub mod host;
pub mod id;
pub mod key;
pub mod live;
pub mod mesh;
pub mod resolv;
pub mod routing;
pub mod spec;
pub mod text;
pub mod wire;
