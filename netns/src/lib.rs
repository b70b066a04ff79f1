//! Linux as Ployz uses it: network namespace, links, routes, firewall, WireGuard.
//!
//! Each module finds (`inspect`), makes and removes one kind of thing; each write is one operation of a plan. Nothing here
//! decides: that is `ployz_core::adopt`.

pub mod edit;
pub mod error;
pub mod firewall;
pub mod host;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod rules;
pub mod sysctl;
pub mod underlay;
pub mod watch;
pub mod wireguard;

pub use error::{Error, Result};
