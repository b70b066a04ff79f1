//! Images from registries, on the machine that asks one or fetches from one: what a deploy's coordinator asks for, and
//! nothing else.
//!
//! A pull is the engine's own transaction: an image is there whole or not at all, without a tag until the coordinator
//! says that every machine has it. So what was cut off anywhere is simply done again.

pub mod ask;
pub mod commands;
pub mod context;
mod fetch;
mod task;
