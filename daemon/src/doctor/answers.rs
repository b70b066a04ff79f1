//! Whether the gateway answers who asks it: a process that hangs still has its sockets, and its last words are still good.
//!
//! One request, for a host that nobody has: it needs no route and no backend.

use super::context::{Ground, limited};
use ployz_core::wire::v1::doctor::Check;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) async fn check(ground: &Ground<'_>) -> Check {
    let at = from_here(ground.config().gateway_listen_addr);
    judge(at, limited(ask(at)).await)
}

/// Where all addresses are listened on, the loopback's is one of them.
fn from_here(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(at) if at.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, at.port()).into(),
        SocketAddr::V6(at) if at.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, at.port()).into(),
        at => at,
    }
}

/// The first bytes of the answer.
async fn ask(at: SocketAddr) -> io::Result<[u8; 9]> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(REQUEST).await?;
    let mut begins = [0; 9];
    stream.read_exact(&mut begins).await?;
    Ok(begins)
}

/// `None`: nothing came in time.
fn judge(at: SocketAddr, answer: Option<io::Result<[u8; 9]>>) -> Check {
    let fail = |why: &str| {
        let advice = "`systemctl status ployz-gateway`, `journalctl -u ployz-gateway -n 50`; `systemctl restart ployz-gateway`";
        Check::fail("gateway-answers", format!("{at} {why}"), advice)
    };
    match answer {
        Some(Ok(begins)) if begins.starts_with(b"HTTP/1.") => {
            Check::ok("gateway-answers", format!("{at} answers"))
        }
        Some(Ok(_)) => fail("answers something that is not HTTP"),
        Some(Err(error)) => fail(&format!("does not answer: {error}")),
        None => fail("timed out"),
    }
}

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: doctor.ployz.internal\r\nUser-Agent: ployz doctor\r\nConnection: close\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;

    #[test]
    fn a_wildcard_is_asked_at_the_loopback_and_another_address_as_it_is() {
        for (listens, asked) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:8080", "[::1]:8080"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            assert_eq!(from_here(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn any_answer_in_http_is_one_and_silence_is_none() {
        let at = "127.0.0.1:80".parse().unwrap();
        assert_eq!(judge(at, Some(Ok(*b"HTTP/1.1 "))).level, Level::Ok);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (answer, words) in [
            (Some(Ok(*b"220 mail ")), "not HTTP"),
            (Some(Err(refused)), "does not answer: connection refused"),
            (None, "timed out"),
        ] {
            let found = judge(at, answer);
            assert!(found.level == Level::Fail && found.seen.contains(words), "{}", found.seen);
        }
    }
}
