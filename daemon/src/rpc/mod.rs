//! The operator's API on the Unix socket.

pub mod handle;
pub mod server;
