//! Who belongs to a network: the records in the store, letting machines in, and getting in.

pub mod dial;
pub mod draft;
pub mod issue;
pub mod join;
pub mod record;
pub mod serve;
