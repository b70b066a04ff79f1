//! What every Ployz process needs of its host: atomic files, the journal, the metrics page, the clock, backoff, randomness.
//!
//! The lowest room that does I/O. It knows no network, no store and no service; whatever decides is in `ployz_core`.

pub mod backoff;
pub mod checksummed;
pub mod clock;
pub mod file;
pub mod journal;
pub mod page;
pub mod random;
