//! Load on gateways and DNS servers: clients of every kind, each of which checks every answer, and the service they ask.
//!
//! What a client may not notice is counted as lost, with its time and reason. What a server may do and a client of its kind
//! puts up with (to announce a connection's end, to refuse an HTTP/2 stream before it began) is counted apart. Runs in one
//! thread: the load must not take the processors from what it is put on.

mod clients;
pub(crate) mod connection;
mod dns;
mod download;
mod http1;
mod http2;
pub(crate) mod packet;
mod plan;
pub(crate) mod service;
mod tally;
mod tls;
mod websocket;

pub use plan::{Plan, run};
pub use service::serve;

use std::time::Duration;

/// No answer within this time is no answer.
const PATIENCE: Duration = Duration::from_secs(10);
