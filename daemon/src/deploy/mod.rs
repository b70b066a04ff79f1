//! Deploys: the hands of `ployz_core::deploy`, as participant (every machine) and as coordinator (whoever was asked).
//!
//! What is next follows from two durable records and nothing else, so a coordinator may die anywhere: the next deploy to
//! the namespace, or the daemon that was cut off when it starts again, finishes or undoes what it finds.

pub mod announce;
mod answering;
mod ask;
pub mod bridge;
mod carry;
mod change;
mod container;
mod debts;
mod everywhere;
mod fetching;
pub mod follow;
mod lease;
pub mod local;
mod logs;
pub mod participant;
#[cfg(test)]
mod path_tests;
pub mod prune;
mod pull;
pub mod run;
pub mod running;
pub mod services;
mod survey;
