//! One deploy from its lock to its end, on the machine that was asked for it.

mod ask;
pub mod attended;
mod fan_out;
mod fetching;
pub mod gc;
mod lease;
mod liveness;
mod observe;
mod planning;
mod pull;
pub mod requests;
mod run;
pub mod services;
mod steps;
