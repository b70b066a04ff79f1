//! Which families of addresses the gateway serves: it is asked over each that it should take, at the loopback's addresses.
//!
//! A host may have IPv6 switched off, and then has no address of it: its socket is open all the same, and serves once it is on.

use super::context::{Ground, limited};
use crate::node::supervisor::ports::has_ipv6;
use ployz_core::wire::v1::doctor::Check;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpStream;

pub(super) async fn check(ground: &Ground<'_>) -> Check {
    let config = ground.config();
    let http = config.gateway_listen_addr;
    let both = config.gateway_takes_both();
    let mut listeners = vec![Listener { scheme: "HTTP", served: served(http, both).await }];
    if let Some(https) = config.gateway_https_listen_addr {
        listeners.push(Listener { scheme: "HTTPS", served: served(https, false).await });
    }
    judge(&listeners, both)
}

/// One listener and what is there of each family.
struct Listener {
    scheme: &'static str,
    served: [Served; 2],
}

/// One family.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    /// A connection was accepted.
    Yes,
    /// The address that was given is not of it.
    NotAsked,
    /// The host has no address of it.
    Off,
    /// It should be and is not.
    No(String),
}

/// IPv4 and IPv6.
async fn served(at: SocketAddr, both: bool) -> [Served; 2] {
    let any = at.ip().is_unspecified();
    let four = match at {
        SocketAddr::V4(_) if !any => reaches(at).await,
        SocketAddr::V4(_) => reaches((Ipv4Addr::LOCALHOST, at.port()).into()).await,
        // Whether `[::]` takes IPv4 is the kernel's to say (net.ipv6.bindv6only).
        SocketAddr::V6(_) if any => match reaches((Ipv4Addr::LOCALHOST, at.port()).into()).await {
            Served::Yes => Served::Yes,
            _ => Served::NotAsked,
        },
        SocketAddr::V6(_) => Served::NotAsked,
    };
    let six = match at.ip() {
        _ if both && !has_ipv6() => Served::Off,
        IpAddr::V6(_) if !any => reaches(at).await,
        IpAddr::V4(_) if !both => Served::NotAsked,
        _ => reaches((Ipv6Addr::LOCALHOST, at.port()).into()).await,
    };
    [four, six]
}

async fn reaches(at: SocketAddr) -> Served {
    match limited(TcpStream::connect(at)).await {
        Some(Ok(_)) => Served::Yes,
        Some(Err(error)) if has_no_address(at, &error) => Served::Off,
        Some(Err(error)) => Served::No(format!("{at}: {error}")),
        None => Served::No(format!("connecting to {at} timed out")),
    }
}

/// Only the loopback's address can be missing because of its family.
fn has_no_address(at: SocketAddr, error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
    at.ip().is_loopback() && matches!(error.kind(), AddrNotAvailable | NetworkUnreachable)
}

fn judge(listeners: &[Listener], both: bool) -> Check {
    let words: Vec<String> = listeners.iter().map(Listener::words).collect();
    let mut seen = words.join("; ");
    let failed =
        listeners.iter().flat_map(|listener| &listener.served).any(|one| matches!(one, Served::No(_)));
    if failed {
        let advice = "`ployzctl explain gateway`; `systemctl list-sockets --all 'ployz-gateway*'`";
        return Check::fail(CHECK, seen, advice);
    }
    if !both {
        seen += " (by gateway_listen_addr; without the key both are served)";
    }
    Check::ok(CHECK, seen)
}

impl Listener {
    fn words(&self) -> String {
        let families = ["IPv4", "IPv6"].into_iter().zip(&self.served);
        let mut yes = Vec::new();
        let mut no = Vec::new();
        for (family, served) in families {
            match served {
                Served::Yes => yes.push(family.to_owned()),
                Served::NotAsked => {}
                Served::Off => no.push(format!("{family} is off on this host")),
                Served::No(why) => no.push(format!("not {family} ({why})")),
            }
        }
        let only = if yes.len() == 1 { " only" } else { "" };
        let yes = if yes.is_empty() { "nothing".to_owned() } else { yes.join(" and ") };
        let all: Vec<String> = std::iter::once(format!("{yes}{only}")).chain(no).collect();
        format!("{}: {}", self.scheme, all.join(", "))
    }
}

const CHECK: &str = "gateway-families";

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;
    use tokio::net::TcpListener;

    fn http(served: [Served; 2], both: bool) -> (Level, String) {
        let found = judge(&[Listener { scheme: "HTTP", served }], both);
        (found.level, found.seen)
    }

    #[test]
    fn the_families_that_are_served_are_named() {
        assert_eq!(http([Served::Yes, Served::Yes], true), (Level::Ok, "HTTP: IPv4 and IPv6".into()));
        let off = "HTTP: IPv4 only, IPv6 is off on this host";
        assert_eq!(http([Served::Yes, Served::Off], true), (Level::Ok, off.into()));
        let given = "HTTP: IPv4 only (by gateway_listen_addr; without the key both are served)";
        assert_eq!(http([Served::Yes, Served::NotAsked], false), (Level::Ok, given.into()));
        let refused = "HTTP: IPv4 only, not IPv6 ([::1]:80: refused)";
        let no = Served::No("[::1]:80: refused".into());
        assert_eq!(http([Served::Yes, no], true), (Level::Fail, refused.into()));
    }

    #[tokio::test]
    async fn each_family_is_asked() {
        let four = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let at = four.local_addr().unwrap();
        assert_eq!(served(at, false).await, [Served::Yes, Served::NotAsked]);
        let [yes, no] = served(at, true).await;
        assert!(yes == Served::Yes && matches!(no, Served::No(_) | Served::Off), "{no:?}");
        drop(four);
        assert!(matches!(served(at, false).await, [Served::No(_), Served::NotAsked]));
    }
}
