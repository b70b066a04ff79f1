//! The operator's API on the Unix socket.

mod handle;
pub mod server;
