//! This machine's part of every deploy: commands of coordinators, its instances on disk and in the routing events, what it still
//! has to do for deploys that ended without it.

pub mod bridge;
pub mod commands;
mod container;
pub mod follow;
pub mod instances;
mod logs;
mod ops;
#[cfg(test)]
mod path_tests;
mod pending;
pub mod publish;
