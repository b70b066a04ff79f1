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
pub mod userspace;
pub mod watch;
pub mod wireguard;

pub use error::{Error, Result};

/// An error with its causes in one line, for a verdict's reason.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}
