//! How far a peer's clock is from ours: the `Date` of whatever its ployzd answers on the overlay (RFC 9110 section 6.6.1).

use super::context::{dial, limited};
use crate::http;
use ployz_core::wire::v1::join::PORT;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What asking a peer gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// It answered; its clock less ours, in whole seconds.
    Clock(i64),
    /// The machine is there, its ployzd is not or does not tell the time.
    Reached,
    /// Nothing came back; the system's words.
    Lost(String),
}

pub(super) async fn ask(peer: Ipv6Addr) -> Asked {
    let stream = match dial(SocketAddr::new(IpAddr::V6(peer), PORT)).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Asked::Reached,
        Err(error) => return Asked::Lost(error.to_string()),
    };
    let asked = Instant::now();
    let Some(Some(theirs)) = limited(http::date(stream)).await else { return Asked::Reached };
    // Dates are cut off to whole seconds: half of one more on average.
    let passed = i64::try_from(asked.elapsed().as_secs() / 2).unwrap_or(0);
    Asked::Clock(unix(theirs) + passed - unix(SystemTime::now()))
}

/// Unix seconds.
fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}
