//! Version 1 of every contract: operator API, stored records, join tokens, subjects.

pub mod api;
pub mod api_deploy;
pub mod certificate;
pub mod deploy;
pub mod doctor;
pub mod envelope;
pub mod error;
pub mod image;
pub mod join;
pub mod manifest;
pub mod peer;
pub mod pull;
pub mod record;
pub mod sidecar;
pub mod subject;
pub mod token;
