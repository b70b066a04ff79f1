//! The Linux hands of Ployz: network namespace, links, routes, firewall, WireGuard.
//!
//! Each module finds (`inspect`), makes (`apply`, `create`, `converge`) and removes one kind of thing. Nothing here
//! decides: that is `ployz_core::adopt`.

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
