//! `ployzctl` as an operator runs it, against a daemon that answers what the test says.
//!
//! Golden texts are in `tests/golden`; `PLOYZ_BLESS=1 cargo test -p ployzctl` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its stage must stop")]

mod completion;
mod conversation;
mod deploying;
mod doctor;
mod documents;
mod fake;
mod generated;
mod help;
mod images;
mod interrupt;
mod logs;
mod packaging;
mod rendering;
mod services;
mod stage;
mod usage;
