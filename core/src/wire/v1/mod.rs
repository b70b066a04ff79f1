//! Version 1 of every contract: operator API, stored records, join tokens, subjects.

pub mod api;
pub mod join;
pub mod record;
pub mod subject;
pub mod token;
