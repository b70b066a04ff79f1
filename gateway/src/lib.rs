//! The gateway of a machine: takes requests and connections from the outside and leads them to services of the mesh.
//!
//! [`Table`] decides where to, and is pure; everything else here moves bytes. Pingora speaks HTTP; sockets, threads and
//! draining are ours, because a gateway is replaced while it serves and must lose nothing then.

mod access;
mod answer;
mod backend;
mod clients;
mod clock;
pub mod config;
mod connection;
mod deliver;
mod downstream;
pub mod files;
mod forward;
mod framing;
mod gateway;
mod handshake;
pub mod host;
mod http2;
mod incoming;
mod kept;
mod limit;
pub mod listen;
mod metrics;
mod proxy;
mod request;
mod request_id;
mod served;
pub mod stored;
pub mod table;
mod target;
mod tcp;
#[cfg(test)]
mod testing;
pub mod tls;
mod upstream;
mod worker;

pub use downstream::HeadLimits;
pub use gateway::{CannotStart, Gateway, Settings};
pub use metrics::{Cause, Counters};
pub use served::status;
pub use table::{Route, Table};
pub use worker::Limits;
