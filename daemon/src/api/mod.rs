//! What ployzd serves on its Unix socket and, if asked, its metrics: from a request to its envelope.

mod attend;
mod handle;
mod local;
pub mod metrics;
mod needs;
pub mod server;
#[cfg(test)]
mod tests;
