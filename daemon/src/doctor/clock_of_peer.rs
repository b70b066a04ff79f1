//! How far a peer's clock is from ours: the `Date` of whatever its ployzd answers on the overlay (RFC 9110 section 6.6.1).

use super::{dial, limited};
use crate::clock;
use ployz_core::wire::v1::join::PORT;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    let mut stream = match dial(SocketAddr::new(IpAddr::V6(peer), PORT)).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Asked::Reached,
        Err(error) => return Asked::Lost(error.to_string()),
    };
    let asked = Instant::now();
    let exchange = async {
        stream.write_all(b"GET /v1/clock HTTP/1.1\r\nhost: ployz\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut head = Vec::new();
        stream.take(HEAD).read_to_end(&mut head).await.ok()?;
        date(&String::from_utf8_lossy(&head))
    };
    let Some(Some(theirs)) = limited(exchange).await else { return Asked::Reached };
    // Dates are cut off to whole seconds: half of one more on average.
    let passed = i64::try_from(asked.elapsed().as_secs() / 2).unwrap_or(0);
    let ours = i64::try_from(clock::now()).unwrap_or(i64::MAX);
    Asked::Clock(theirs + passed - ours)
}

fn date(head: &str) -> Option<i64> {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    });
    unix(line?)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as Unix seconds (RFC 9110 section 5.6.7).
fn unix(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().zip(1..).find_map(|(name, number)| (name == month).then_some(number))?;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let parts: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = parts[..] else { return None };
    let seconds = clock::seconds([year, month, day], [hour, minute, second])?;
    i64::try_from(seconds).ok()
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const HEAD: u64 = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(unix("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(unix("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(unix("Wed, 01 Mar 2028 00:00:00 GMT"), Some(1_835_481_600));
        for wrong in [
            "",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nox 1994 08:49:37 GMT",
            "Sun, 06 Nov 99999 08:49 GMT",
            "Sun, 0 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 99999999999999999999:49:37 GMT",
            "Sun, 06 Nov 1994 18446744073709551615:49:37 GMT",
        ] {
            assert_eq!(unix(wrong), None, "{wrong}");
        }
        assert_eq!(date("HTTP/1.1 404 Not Found\r\nDATE: Thu, 01 Jan 1970 00:00:09 GMT\r\n\r\n"), Some(9));
    }
}
