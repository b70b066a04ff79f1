//! Images from this machine's engine to others', and from others' to this one's. A load is the engine's own transaction: an
//! image is there whole or not at all, so what was cut off is simply done again.

mod ask;
pub mod context;
pub mod fetch;
pub mod push;

#[cfg(test)]
mod tests;
