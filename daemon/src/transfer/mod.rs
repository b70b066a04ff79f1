//! Direct connections between two machines, for what is too much for the store: one listener on the overlay address, and
//! tickets that say what a connection is for. What is sent is the business of others (`image`).

pub mod context;
pub mod frame;
pub mod listener;
pub mod stream;
pub mod ticket;
