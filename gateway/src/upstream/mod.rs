//! One request and its answer between a client and a backend, over HTTP/1.1 to the backend.
//!
//! Pingora speaks with the client; this side is ours because a message's end must be certain before a connection is used
//! again (the library ends an upload twice when its last piece is empty: cloudflare/pingora#935), and because the library's
//! HTTP/1.1 side drops trailers and has one deadline for every kind of answer. gRPC, in HTTP/2 to the backend, is Pingora's.

mod body;
mod exchange;
mod head;
mod patience;
mod pool;
mod sending;

pub(crate) use body::{Body, Malformed, Piece};
pub(crate) use exchange::{Asked, Exchange, Outcome};
pub(crate) use head::{digits, outgoing};
pub(crate) use pool::{Pool, SWEEP_INTERVAL};
