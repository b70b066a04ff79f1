//! The store's process: its settings, its state, and connections to it.

pub mod config;
pub mod monitor;
