//! What others read for years: versioned from the first day.

pub mod v1;
