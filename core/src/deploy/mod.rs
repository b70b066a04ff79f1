//! What a deploy means: which containers go where, in what order, and what to do when it is cut off.
//!
//! All of it decides and none of it acts: machines, images, random numbers and the time are handed in, so that a preview
//! cannot change anything and every crash can be played through in a test.

pub mod address;
pub mod claim;
pub mod commit;
pub mod debt;
pub mod image;
pub mod instance;
pub mod operations;
mod place;
pub mod plan;
mod planner;
pub mod probe;
pub mod pull;
mod refusal;
pub mod registry;
mod reserved;
pub mod revision;
mod slots;
pub mod step;

pub use plan::{DeployPlan, Found, Machine, PlanError, Scope, World, plan};
pub use reserved::reserved_port;
pub use step::{Resume, Step, next, resume};
