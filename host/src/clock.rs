//! The wall clock, and times as Docker writes them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix seconds; 0 on a clock before 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Nanoseconds since 1970 of a time of RFC 3339 with its offset; `None` for what is no time or lies before 1970 (Docker writes
/// `0001-01-01T00:00:00Z` for "never").
pub fn nanos(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

/// Nanoseconds in a second.
pub const NANOS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_docker_are_read() {
        assert_eq!(nanos("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(nanos("2000-02-29T12:00:01.5Z"), Some(951_825_601_500_000_000));
        assert_eq!(nanos("2026-01-02T03:04:05.123456789Z"), Some(1_767_323_045_123_456_789));
        // Docker writes the engine's offset where its clock has one.
        assert_eq!(nanos("2026-01-02T04:04:05.123456789+01:00"), Some(1_767_323_045_123_456_789));
        for bad in [
            "",
            "Z",
            "0001-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-02 03:04:05",
            "x-1-1T1:1:1Z",
            "2026-01-02T18446744073709551615:04:05Z",
            "2026-01-02T03:04:05.12345678éZ",
        ] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }
}
