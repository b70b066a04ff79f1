//! The operator's API on the Unix socket.

mod attend;
pub mod handle;
mod needs;
pub mod server;
