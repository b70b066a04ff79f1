//! Rules of membership and of paths, as functions of values and a clock that the caller hands in.

pub mod admission;
pub mod belief;
pub mod command;
pub mod invite;
pub mod join;
pub mod path;
pub mod presence;
pub mod twin;
