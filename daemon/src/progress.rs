//! Progress of an operation, as its caller sees it.

/// Tells the caller what is being done: one line each.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);
