//! The wall clock, and times as Docker writes them, in one place.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Nanoseconds since 1970 of a UTC time of RFC 3339.
pub fn nanos(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let fraction = number(format!("{fraction:0<9}").get(..9)?)?;
    seconds([year, month, day], [hour, minute, second])?.checked_mul(NANOS)?.checked_add(fraction)
}

/// Seconds from 1970 to a UTC date (year, month, day) and time of day; `None` where there is no such time.
pub fn seconds([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> Option<u64> {
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second <= 60;
    (is_date && is_time).then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970: years begin in March, so that the day that comes and goes is the last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1 - 719_468
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
        for bad in [
            "",
            "Z",
            "2026-13-01T00:00:00Z",
            "2026-01-02 03:04:05Z",
            "x-1-1T1:1:1Z",
            "2026-01-02T03:04Z",
            "2026-01-02T18446744073709551615:04:05Z",
            "2026-01-02T03:04:05.12345678éZ",
        ] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }
}
