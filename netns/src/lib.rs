//! Linux as Ployz uses it: network namespace, links, routes, firewall, WireGuard.
//!
//! Each module finds (`inspect`), makes and removes one kind of thing; each write is one operation of a plan. Nothing here
//! decides: that is `ployz_core::adopt`.
//!
//! # Errors
//!
//! Every call that can fail gives [`Error`]: the operation, its subject, and the kernel's errno or the program's last words as the cause.
//! What is looked for and is not there is `None` or `Seen::Absent`, and what is removed and is not there is done: neither is an error. A call
//! that failed half way leaves the half it did; the next inspection finds it.

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
