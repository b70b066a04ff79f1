//! The DNS server of a machine: names of the mesh from the routing state, everything else from the host's resolvers.
//!
//! It needs neither the daemon nor a store that can be reached: the last good state is answered, and says so.

pub mod answer;
pub mod forward;
pub mod metrics;
pub mod outside;
pub mod realm;
pub mod serve;
pub mod settings;
pub mod sockets;
pub mod wire;
pub mod zone;
