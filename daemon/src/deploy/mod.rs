//! Deploys: the coordinator plans one and carries it out, the agent does this machine's part of every deploy.
//!
//! The decisions are `ployz_core::deploy`'s. Both halves talk over the store ([`ployz_nats::rpc`]), on one machine too.

pub mod agent;
pub mod coordinator;
