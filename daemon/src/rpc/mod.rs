//! The operator's API on the Unix socket.

pub mod handle;
mod needs;
pub mod server;
