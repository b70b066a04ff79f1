//! Addresses of the mesh: node subnets (IPv4), overlay addresses (IPv6) and endpoints on the underlay.

pub mod endpoint;
pub mod overlay;
pub mod subnet;

pub use endpoint::{Candidate, Observed, candidates};
pub use overlay::{HOST_SUFFIX, OverlayPrefix};
pub use subnet::{AddressPlan, InvalidPlan, NodeSubnet};
