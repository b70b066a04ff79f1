//! Real nodes under test: Debian machines with systemd as PID 1 on a private network, and scenarios that run on them.
//!
//! [`lab`] boots 1 to 5 nodes in one of two lanes and lets a test command, cut, freeze and power-cut them.
//! [`scenario`] holds the texts; [`runner`] runs them and collects what is needed to understand a failure.
//! Everything here needs root on a Debian-like machine; `tests/README.md` tells how to use it.

pub mod lab;
pub mod load;
pub mod package;
pub mod propagation;
pub mod runner;
pub mod scenario;

pub use lab::{Lab, Lane, Node, poll};
pub use scenario::{Ctx, Need, Scenario};
