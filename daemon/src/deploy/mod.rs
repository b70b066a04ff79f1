//! Deploys: the coordinator plans one and carries it out, the agent does this machine's part of every deploy.
//!
//! The decisions are `ployz_core::deploy`'s. Both halves talk over the store ([`ployz_nats::rpc`]), on one machine too.
//! What is next follows from two durable records and nothing else, so a coordinator may die anywhere: the next deploy to
//! the namespace, or the daemon that was cut off when it starts again, finishes or undoes what it finds.

pub mod agent;
pub mod context;
pub mod coordinator;
