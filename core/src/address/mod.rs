//! Addresses of the mesh: node subnets (IPv4), overlay addresses (IPv6) and endpoints on the underlay.

pub mod endpoint;
pub mod named;
pub mod overlay;
pub mod subnet;

pub use endpoint::{Candidate, Observed, candidates, offered, why_not};
pub use named::{InvalidEndpoint, NamedEndpoint};
pub use overlay::{HOST_SUFFIX, OverlayPrefix};
pub use subnet::{AddressPlan, InvalidPlan, NodeSubnet};
